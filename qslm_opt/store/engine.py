"""Database engines: SQLite with a busy timeout and explicit transactions, other databases as they are."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import NoSuchModuleError
from sqlalchemy.pool import QueuePool

from qslm_opt.errors import StorageError
from qslm_opt.safe import masked
from qslm_opt.store.failures import BUSY_SECONDS
from qslm_opt.store.urls import is_sqlite, parse_url, sqlite_path

Mode = Literal["ro", "rw", "rwc"]
"""Read only; read and write; the same, and create the file."""

_PACKAGES = {
    "psycopg": "qslm-opt[postgres]", "pymysql": "qslm-opt[mysql]", "MySQLdb": "mysqlclient",
    "psycopg2": "psycopg2-binary",
}  # fmt: skip


class QuickConnection(sqlite3.Connection):
    """An SQLite connection that syncs at checkpoints only: in WAL mode that is safe, and faster."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.execute("PRAGMA synchronous=NORMAL")


class DurableConnection(sqlite3.Connection):
    """An SQLite connection whose every commit is on the disk: a trial's result outlives a power cut."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.execute("PRAGMA synchronous=FULL")


def optuna_storage_kwargs(url: str) -> dict[str, Any]:
    """Return ``engine_kwargs`` for Optuna's RDBStorage: 30 s busy timeout, synchronous=FULL on SQLite."""
    if not is_sqlite(url):
        return {"pool_pre_ping": True}
    return {"connect_args": {"timeout": BUSY_SECONDS, "factory": DurableConnection}}


def open_engine(url: str, mode: Mode) -> Engine:
    """Return an engine on ``url``; nothing is opened before the first use."""
    if is_sqlite(url):
        return _sqlite_engine(sqlite_path(url), mode)
    try:
        return create_engine(parse_url(url), pool_pre_ping=True)
    except NoSuchModuleError:
        raise StorageError(f"storage {masked(url)} names a driver that SQLAlchemy does not know.") from None
    except ModuleNotFoundError as error:
        package = _PACKAGES.get(error.name or "", error.name)
        raise StorageError(f"storage {masked(url)} needs a driver; run: pip install '{package}'.") from None


def _sqlite_engine(path: Path, mode: Mode) -> Engine:
    engine = create_engine("sqlite://", creator=_connector(path, mode), poolclass=QueuePool)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        write = connection.get_execution_options().get("qslm_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


def _connector(path: Path, mode: Mode) -> Callable[[], sqlite3.Connection]:
    name = quote(str(path.absolute()))

    def connect() -> sqlite3.Connection:
        try:
            return _open(f"file:{name}?mode={mode}", mode)
        except sqlite3.OperationalError:
            # A folder that cannot be written has no room for the WAL index. Without a WAL there is no writer.
            if mode != "ro" or not path.is_file() or Path(f"{path}-wal").exists():
                raise
            return _open(f"file:{name}?immutable=1", mode)

    return connect


def _open(uri: str, mode: Mode) -> sqlite3.Connection:
    factory = sqlite3.Connection if mode == "ro" else QuickConnection
    connection = sqlite3.connect(
        uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False, factory=factory
    )
    try:
        connection.execute("PRAGMA schema_version").fetchone()
    except sqlite3.Error:
        connection.close()
        raise
    return connection
