"""The README says nothing that is not there: commands, flags, files, make targets."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from qslm_opt.cli.main import app

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text("utf-8")
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)|<(?:img|a)\b[^>]*\b(?:src|href)=\"([^\"]+)\"")
_CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")


def shell_lines() -> list[str]:
    """Commands of the shell blocks: continuation lines joined, prompts and comments left out."""
    blocks = [body for kind, body in _FENCE.findall(README) if kind in ("sh", "bash", "shell", "console")]
    lines = [line.strip() for body in blocks for line in body.replace("\\\n", " ").splitlines()]
    return [line.removeprefix("$ ") for line in lines if line and not line.startswith("#")]


def written(program: str, lines: list[str]) -> list[list[str]]:
    """The words after ``program`` in those of ``lines`` that run it."""
    found = []
    for line in lines:
        words = shlex.split(line, comments=True)
        if words and words[0] == program:
            found.append(words[1:])
    return found


LINES, PHRASES = shell_lines(), _CODE.findall(README)


def links() -> list[str]:
    prose = _FENCE.sub("", README)
    return ["".join(groups) for groups in _LINK.findall(prose)]


def command_of(words: list[str]) -> tuple[Any, list[str]]:
    """The command that ``words`` name, and its arguments."""
    command = typer.main.get_command(app)
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        assert words[0] in command.commands, f"{words[0]!r} is no command of {command.name}"
        command, words = command.commands[words[0]], words[1:]
    return command, words


def flags_of(command: Any) -> Iterator[str]:
    for parameter in command.params:
        yield from (*parameter.opts, *parameter.secondary_opts)


def check(words: list[str]) -> None:
    """Fail unless the command exists and has all the flags; nothing is run."""
    command, arguments = command_of(words)
    known = {"--help", "-h", *flags_of(command)}
    given = {word.partition("=")[0] for word in arguments if re.match(r"--?[a-zA-Z]", word)}
    assert given <= known, f"{shlex.join(words)}: no flag {given - known}"


def parse(words: list[str]) -> None:
    """Fail unless the command can also read the values; nothing is run."""
    check(words)
    command, arguments = command_of(words)
    if not hasattr(command, "commands"):
        command.make_context(command.name, list(arguments))


def test_the_readme_shows_commands_links_and_targets() -> None:
    assert len(written("qslm-opt", LINES)) >= 3
    assert len(written("make", LINES)) >= 2
    assert len(links()) >= 4


@pytest.mark.parametrize("words", written("qslm-opt", LINES), ids=shlex.join)
def test_a_command_line_of_a_code_block_is_whole(words: list[str]) -> None:
    parse(words)


@pytest.mark.parametrize("words", written("qslm-opt", PHRASES), ids=shlex.join)
def test_a_command_in_the_text_has_the_flags_that_it_names(words: list[str]) -> None:
    check([word for word in words if word not in ("…", "...")])


def test_wrong_command_lines_would_be_found() -> None:
    for words in (["studi", "create"], ["study", "resum"], ["study", "create", "a", "--max-dorp", "1"],
                  ["watch", "--fast"]):  # fmt: skip
        with pytest.raises(AssertionError, match=r"is no command|no flag"):
            check(words)
    for words in (["study", "create", "a", "--seed", "many"], ["study", "show"], ["watch", "a", "b"]):
        with pytest.raises(Exception, match=r"valid integer|Missing|unexpected extra"):
            parse(words)


def test_the_table_of_commands_names_all_there_are() -> None:
    """Cells such as ``study create · resume``: each name is a command, and none is missing."""
    named = set()
    for cell in re.findall(r"^\| `([a-z][^`]*)`", README.partition("## Commands")[2], re.MULTILINE):
        group, _, rest = cell.partition(" ")
        names = re.findall(r"[a-z][a-z-]*", rest.partition("[")[0])
        named |= {(group, name) for name in names} or {(group,)}
    tree = typer.main.get_command(app)
    there = set()
    for name, command in tree.commands.items():
        there |= {(name, sub) for sub in getattr(command, "commands", {})} or {(name,)}
    assert named == there


@pytest.mark.parametrize("link", [link for link in links() if "://" not in link])
def test_a_relative_link_leads_to_a_file(link: str) -> None:
    path, _, anchor = link.partition("#")
    if path:
        assert (ROOT / path).exists(), f"{path} does not exist"
    if anchor:
        text = README if not path else (ROOT / path).read_text("utf-8")
        titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
        assert anchor in {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`?((?:studies|qslm_opt)/[\w./-]+\w)", README))))
def test_a_path_that_is_named_exists(path: str) -> None:
    assert (ROOT / path).exists()


@pytest.mark.parametrize("word", ["RESULTS", "TODO", "TBD", "XXX", "FIXME", "lorem"])
def test_no_placeholder_is_left(word: str) -> None:
    assert not re.search(rf"\b{word}\b", README)


def test_the_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))
    named = {words[0] for words in written("make", [*LINES, *PHRASES]) if words}
    assert {"demo", "test"} <= named
    assert named <= targets
