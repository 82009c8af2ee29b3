"""The demo's text: what every Python brings along, read from the interpreter's own files.

Two kinds of text: the language reference that ``help('assert')`` shows (``pydoc_data.topics``), and the
docstrings and comments of standard-library modules, read with ``ast`` from their source and never imported.

Every module belongs to one part, ``train``, ``validation`` or ``test``, by a hash of its name. So what a
model was trained on with one Python is not what another Python tests it on. Modules that moved between
versions, or that share their documentation, count under one name. The language reference repeats itself
from page to page and is therefore all ``train``, but for the page that repeats a test module.
"""

from __future__ import annotations

import ast
import re
import sysconfig
import warnings
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Literal

from qslm_opt.errors import DataError

Part = Literal["train", "validation", "test"]
Kind = Literal["module", "class", "function"]
MAX_CHARACTERS = 240
"""First paragraphs are cut at the last word that ends within so many."""
PARTS: tuple[Part, ...] = ("train", "validation", "test")

MODULES = (
    "_collections_abc", "_compression", "_markupbase", "_pydatetime", "_pydecimal", "_pyio",
    "_strptime", "_threading_local", "_weakrefset", "abc", "argparse", "ast", "asyncio", "base64",
    "bdb", "bz2", "cProfile", "calendar", "cmd", "code", "codecs", "codeop", "collections",
    "colorsys", "compileall", "concurrent", "configparser", "contextlib", "copy", "copyreg", "csv",
    "ctypes", "dataclasses", "datetime", "dbm", "decimal", "difflib", "dis", "doctest", "email",
    "enum", "filecmp", "fileinput", "fnmatch", "fractions", "ftplib", "functools", "genericpath",
    "getopt", "getpass", "gettext", "glob", "graphlib", "gzip", "hashlib", "heapq", "hmac", "html",
    "http", "imaplib", "importlib", "inspect", "io", "ipaddress", "json", "linecache", "locale",
    "logging", "lzma", "mailbox", "mimetypes", "modulefinder", "multiprocessing", "netrc", "ntpath",
    "numbers", "operator", "optparse", "os", "pathlib", "pdb", "pickle", "pickletools", "pkgutil",
    "platform", "plistlib", "poplib", "posixpath", "pprint", "profile", "pstats", "py_compile",
    "pyclbr", "pydoc", "queue", "quopri", "random", "re", "reprlib", "rlcompleter", "runpy",
    "sched", "secrets", "selectors", "shelve", "shlex", "shutil", "signal", "site", "smtplib",
    "socket", "socketserver", "sqlite3", "sre_parse", "ssl", "stat", "statistics", "string",
    "subprocess", "symtable", "sysconfig", "tabnanny", "tarfile", "tempfile", "textwrap",
    "threading", "timeit", "tokenize", "trace", "traceback", "tracemalloc", "types", "typing",
    "unittest", "urllib", "uuid", "venv", "warnings", "wave", "weakref", "webbrowser", "wsgiref",
    "xml", "xmlrpc", "zipapp", "zipfile", "zipimport", "zoneinfo",
)  # fmt: skip
"""Modules and packages read, where they exist; none that distributions leave out (tkinter, idlelib, test)."""

_SAME = {
    "_collections_abc": "collections", "_compression": "compression", "_pydatetime": "datetime",
    "_pydecimal": "decimal", "_pyio": "io", "_strptime": "datetime", "_threading_local": "threading",
    "_weakrefset": "weakref", "bdb": "pdb", "bz2": "compression", "cProfile": "profile",
    "code": "codeop", "copyreg": "pickle", "doctest": "unittest", "genericpath": "os",
    "gzip": "compression", "lzma": "compression", "ntpath": "os", "pickletools": "pickle",
    "pkgutil": "importlib", "posixpath": "os", "pstats": "profile", "runpy": "importlib",
    "shelve": "dbm", "socketserver": "socket", "sre_parse": "re", "zipimport": "importlib",
}  # fmt: skip
"""Module → the module under whose name it is hashed, because text moved or is shared between the two."""

_SALT = "qslm-opt demo 1"
_TEST, _VALIDATION = 0.17, 0.09
_TEST_PAGES = {"debugger"}
"""Pages that repeat the docstrings of a test module (pdb)."""
_SKIPPED_FOLDERS = {"__pycache__", "idle_test", "test", "tests"}
_COMMENTS = re.compile(r"(?:^[ \t]*#.*\n){2,}", re.MULTILINE)
_COMMENT_SIGN = re.compile(r"^[ \t]*#+ ?", re.MULTILINE)
_MIN_COMMENT = 80


@dataclass(frozen=True)
class Docstring:
    """One docstring, cleaned of indentation."""

    where: str
    """File and qualified name: ``email/message.py:Message.get``."""
    kind: Kind
    text: str


@dataclass(frozen=True)
class Document:
    """All text of one source file or one page of the language reference."""

    name: str
    text: str


def part_of(module: str) -> Part:
    """Return the part that a top-level module belongs to, the same on every Python."""
    name = _SAME.get(module, module)
    place = int(sha256(f"{_SALT}:{name}".encode()).hexdigest()[:8], 16) / 2**32
    if place < _TEST:
        return "test"
    return "validation" if place < _TEST + _VALIDATION else "train"


def docstrings(part: Part) -> list[Docstring]:
    """Return the docstrings of a part's modules, by module, file and place in the file.

    Raises:
        DataError: this Python has no source files of its standard library.
    """
    return [entry for file in _files_of(part) for entry in file.docstrings]


def documents(part: Part) -> list[Document]:
    """Return one document per source file: its docstrings, joined by blank lines."""
    return [
        Document(file.name, "\n\n".join(entry.text for entry in file.docstrings))
        for file in _files_of(part)
        if file.docstrings
    ]


def training_documents(leave_out: Collection[str] = ()) -> list[Document]:
    """Return the training text: docstrings, then comments of each file, and the language reference.

    Docstrings whose first paragraph is in ``leave_out`` are left out: some occur in several modules.
    """
    found = []
    for file in _files_of("train"):
        texts = [entry.text for entry in file.docstrings if first_paragraph(entry.text) not in leave_out]
        texts += _comments(file.source)
        if texts:
            found.append(Document(file.name, "\n\n".join(texts)))
    return found + _reference()


def first_paragraph(text: str) -> str:
    """Return the text before the first blank line on one line, cut at a word to ``MAX_CHARACTERS``."""
    kept, length = [], -1
    for word in text.split("\n\n", 1)[0].split():
        length += len(word) + 1
        if length > MAX_CHARACTERS:
            break
        kept.append(word)
    return " ".join(kept)


def _reference() -> list[Document]:
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise DataError(
            "this Python has no pydoc_data.topics, part of its standard library; install the full package."
        ) from None
    pages = sorted(set(topics) - _TEST_PAGES)
    return [Document(f"topic {name}", topics[name].strip()) for name in pages]


@dataclass(frozen=True)
class _File:
    name: str  # path relative to the standard library, with /
    source: str
    docstrings: tuple[Docstring, ...]


@lru_cache(maxsize=len(PARTS))
def _files_of(part: Part) -> tuple[_File, ...]:
    """Read a part's source files, in a fixed order."""
    root = Path(sysconfig.get_path("stdlib"))
    found = []
    for module in MODULES:
        if part_of(module) == part:
            for path in _files(root, module):
                name, source = path.relative_to(root).as_posix(), path.read_text("utf-8", errors="replace")
                found.append(_File(name, source, tuple(_in_file(name, source))))
    if not found:
        raise DataError(
            f"no source file of the standard library is in {str(root)!r}; use a Python that has them."
        )
    return tuple(found)


def _files(root: Path, module: str) -> list[Path]:
    single = root / f"{module}.py"
    files = [single] if single.is_file() else []
    inside = (root / module).rglob("*.py")
    files += [path for path in inside if not _SKIPPED_FOLDERS & set(path.relative_to(root).parts)]
    return sorted(files, key=lambda path: path.relative_to(root).as_posix())


def _in_file(name: str, source: str) -> list[Docstring]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's strings
            tree = ast.parse(source)
    except (SyntaxError, ValueError):  # a template, or a file for another Python
        return []
    return list(_walk(tree, name, ()))


def _walk(node: ast.AST, name: str, path: tuple[str, ...]) -> Iterator[Docstring]:
    kind: Kind | None = None
    if isinstance(node, ast.Module):
        kind = "module"
    elif isinstance(node, ast.ClassDef):
        kind, path = "class", (*path, node.name)
    elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        kind, path = "function", (*path, node.name)
    if kind is not None:
        assert isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        text = (ast.get_docstring(node) or "").strip()
        if text:
            yield Docstring(f"{name}:{'.'.join(path)}", kind, text)
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.stmt, ast.ExceptHandler)):
            yield from _walk(child, name, path)


def _comments(source: str) -> list[str]:
    """Return the comment blocks of two lines or more, without their ``#``."""
    blocks = (_COMMENT_SIGN.sub("", match[0]).strip() for match in _COMMENTS.finditer(source))
    return [block for block in blocks if len(block) >= _MIN_COMMENT]
