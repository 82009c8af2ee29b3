"""What a database says when it fails, as one sentence with the fix."""

from __future__ import annotations

import errno
import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote, quote_plus

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from qslm_opt.errors import StorageError, StudyExistsError
from qslm_opt.safe import has_password, masked
from qslm_opt.store.urls import is_sqlite, sqlite_path

BUSY_SECONDS = 30
"""How long a writer waits for another one before it gives up."""

ROOM_BYTES = 1 << 20
"""A disk with less free space than this counts as full: one trial may not fit."""


def study_exists(name: str, url: str) -> StudyExistsError:
    """Return the error for a name that is taken in the storage ``url``."""
    return StudyExistsError(
        f"study {name!r} is already in storage {masked(url)}; resume it (qslm-opt study resume {name}), "
        "delete it, or take another name."
    )


_URL = re.compile(r"[\w+.-]+://\S+")
_KNOWN = (
    ("locked", f"is locked by another process for more than {BUSY_SECONDS} s; end that process or wait"),
    ("disk is full", "is on a full disk; free some space and run the command again, what was stored is safe"),
    ("readonly", "is read-only; make the file and its folder writable, or give another --storage"),
    ("read-only", "is read-only; make the file and its folder writable, or give another --storage"),
    ("permission denied", "is not accessible to this user; ask for access, or give another --storage"),
    ("unable to open", "cannot be opened; check that its folder exists and that you may write there"),
    ("not a database", "is not an SQLite database; give another --storage"),
    ("malformed", "is damaged; restore a backup, or start afresh with another --storage"),
    ("disk i/o error", "cannot be read or written (disk I/O error); check the disk, or move to a local one"),
    ("no such table", "lacks a table; it is damaged or not of qslm-opt, give another --storage"),
    ("no such column", "has tables of another release; use the qslm-opt and optuna that wrote it"),
)


@contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """Raise whatever the database or the disk raises inside as a StorageError that names ``url``."""
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error, OSError) as error:
        raise storage_error(error, url) from error


def storage_error(error: BaseException, url: str | None = None) -> StorageError:
    """Return the StorageError that says what ``error`` means; ``url`` None: whose storage is not known."""
    where = f"storage {masked(url)}" if url else "the storage"
    text = _text(error)
    no_room = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if no_room or ("disk i/o error" in text.lower() and _is_full(url)):
        text = "disk is full"
    for sign, meaning in _KNOWN:
        if sign in text.lower():
            return StorageError(f"{where} {meaning}.")
    fix = "" if url is None or url.startswith("sqlite") else "; check the URL and that its server runs"
    return StorageError(f"{where} failed: {_without_password(text, url)}{fix}.")


def find_database_error(error: BaseException) -> BaseException | None:
    """Return the database error that ``error`` is or was raised from, None when there is none."""
    seen: BaseException | None = error
    for _ in range(20):
        if isinstance(seen, (SQLAlchemyError, sqlite3.Error)):
            return seen
        if seen is None:
            return None
        seen = seen.__cause__ or seen.__context__
    return None


def _is_full(url: str | None) -> bool:
    """Whether the disk of an SQLite file has no room: its index then fails as an I/O error."""
    if url is None or not is_sqlite(url):
        return False
    try:
        return shutil.disk_usage(sqlite_path(url).absolute().parent).free < ROOM_BYTES
    except OSError:
        return False


def _text(error: BaseException) -> str:
    origin = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    lines = [line.strip() for line in str(origin).splitlines() if line.strip()]
    return (lines[0] if lines else type(origin).__name__).rstrip(".")


def _without_password(text: str, url: str | None) -> str:
    """Return a driver's text without the passwords of ``url``, as they are and as they are written there."""
    try:
        parsed = make_url(url) if url else None
    except (ArgumentError, ValueError):
        parsed = None
    passwords: list[object] = []
    if parsed is not None:
        options = [value for key, value in parsed.query.items() if has_password(f"?{key}=x")]
        passwords = [parsed.password, *options]
    for password in passwords:
        if password:
            for written in (str(password), quote(str(password)), quote_plus(str(password))):
                text = text.replace(written, "***")
    return _URL.sub(lambda match: masked(match[0]), text)
