"""Storage URLs: the default one, how to read them, and how to show them without a password."""

from __future__ import annotations

import os
from pathlib import Path

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from qslm_opt.errors import UsageError
from qslm_opt.safe import masked

DEFAULT_URL = "sqlite:///qslm-opt.db"
ENVIRONMENT_KEY = "QSLM_OPT_STORAGE"
_BACKENDS = ("sqlite", "postgresql", "mysql", "mariadb")
_EXAMPLE = "write for instance sqlite:///qslm-opt.db or postgresql+psycopg://user@host/database"


def default_url() -> str:
    """Return $QSLM_OPT_STORAGE, else ``sqlite:///qslm-opt.db`` in the working directory."""
    return os.environ.get(ENVIRONMENT_KEY) or DEFAULT_URL


def parse_url(url: str) -> URL:
    """Return the parsed URL; raise UsageError for what cannot be a storage."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        hint = "" if "://" in url else f" For a file give sqlite:///{masked(url)}."
        raise UsageError(f"storage {masked(url)!r} is not a URL; {_EXAMPLE}.{hint}") from None
    backend = parsed.get_backend_name()
    if backend not in _BACKENDS:
        raise UsageError(f"storage {masked(url)!r} is of kind {backend!r}; {_EXAMPLE}.")
    if backend == "sqlite":
        _check_sqlite(parsed, url)
    return parsed


def is_sqlite(url: str) -> bool:
    """Return whether the URL names an SQLite file."""
    return parse_url(url).get_backend_name() == "sqlite"


def is_grpc(url: str) -> bool:
    """Return whether the URL names a proxy, ``grpc://host:port``."""
    return url.startswith("grpc://")


def refuse_proxy(url: str, task: str) -> None:
    """Raise UsageError for the URL of a proxy: ``task`` needs the database itself."""
    if is_grpc(url):
        raise UsageError(
            f"storage {url} is a proxy; {task} the database that it serves, on its host: give its URL there."
        )


def grpc_address(url: str) -> tuple[str, int]:
    """Return host and port of a proxy's URL; raise UsageError for what is none."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        parsed = None
    if parsed is None or not parsed.host or not parsed.port or parsed.username or parsed.database:
        raise UsageError(f"storage {masked(url)!r} is no proxy; write grpc://host:port.")
    return parsed.host, parsed.port


def sqlite_path(url: str) -> Path:
    """Return the file of an SQLite URL."""
    return Path(parse_url(url).database or "")


def _check_sqlite(parsed: URL, url: str) -> None:
    shown = masked(url)
    if parsed.database in (None, "", ":memory:"):
        text = f"storage {shown!r} is lost when the command ends; give a file such as {DEFAULT_URL}."
        raise UsageError(text)
    if str(parsed.database).startswith("file:") or parsed.query:
        raise UsageError(f"storage {shown!r} has options; give the plain path of the file, sqlite:///PATH.")
