"""Getting a storage ready for writing: folder, WAL, migrations with a backup, and the sweep of orphans."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from contextlib import closing
from datetime import datetime
from pathlib import Path

from sqlalchemy import Connection, Engine, delete, insert, inspect, select, update
from sqlalchemy.exc import DBAPIError

from qslm_opt import __version__
from qslm_opt.errors import SchemaError, StorageError
from qslm_opt.safe import masked
from qslm_opt.store import migrations
from qslm_opt.store.engine import open_engine
from qslm_opt.store.failures import BUSY_SECONDS, ROOM_BYTES, storage_errors
from qslm_opt.store.held_back import delete_comparisons
from qslm_opt.store.power import delete_power
from qslm_opt.store.tables import (
    COMPARISON,
    METADATA,
    OPTUNA_STUDY_ATTRIBUTES,
    POWER_DEVICE,
    POWER_WINDOW,
    RUN,
    SCHEMA,
    STUDY,
)
from qslm_opt.store.urls import is_grpc, is_sqlite, sqlite_path

_ORPHAN_SECONDS = 60.0
"""A study row younger than this may still be waiting for its Optuna study."""
_LOOK_SECONDS = 0.02


def prepare(url: str) -> None:
    """Create or upgrade our tables, so that ``Repository(url)`` and Optuna can write.

    An SQLite file is put into WAL mode, and copied before an upgrade. Raises UsageError (not a storage
    URL), SchemaError (written by a newer release) or StorageError (folder missing, read-only, full, locked,
    not a database), each with the fix.
    """
    if is_grpc(url):
        return  # the proxy did it when it started
    if is_sqlite(url):
        with storage_errors(url):
            _check_place(sqlite_path(url), url)
    engine = open_engine(url, "rwc")
    try:
        with storage_errors(url):
            if is_sqlite(url):
                _set_wal(engine, url)
            _migrate(engine, url)
            _sweep(engine)
    finally:
        engine.dispose()


def is_new(url: str) -> bool:
    """Return whether the storage is an SQLite file that does not exist yet; nothing is created.

    Raises:
        UsageError, StorageError: no file can be created there.
    """
    if is_grpc(url) or not is_sqlite(url) or sqlite_path(url).exists():
        return False
    with storage_errors(url):
        _check_place(sqlite_path(url), url)
    return True


def schema_version(connection: Connection) -> int:
    """Return the version of our tables in the database, 0 when it has none."""
    if not inspect(connection).has_table(SCHEMA.name):
        return 0
    return connection.execute(select(SCHEMA.c.version)).scalar() or 0


def check_version(version: int, url: str) -> None:
    """Raise SchemaError when the tables are of a newer release than this one."""
    newest = len(migrations.MIGRATIONS)
    if version > newest:
        raise SchemaError(
            f"storage {masked(url)} has schema {version}, newer than {newest}, the one that qslm-opt "
            f"{__version__} knows; upgrade qslm-opt (pip install -U qslm-opt)."
        )


def _check_place(path: Path, url: str) -> None:
    folder = path.absolute().parent
    if not folder.is_dir():
        raise StorageError(
            f"storage {url}: folder {str(folder)!r} does not exist; create it or give another --storage."
        )
    if path.is_dir():
        raise StorageError(f"storage {url} is a folder; add the name of a file to it.")
    for place in (folder, path):
        if place.exists() and not os.access(place, os.W_OK):
            raise StorageError(
                f"storage {url}: {str(place)!r} is read-only; make it writable or give another --storage."
            )
    if shutil.disk_usage(folder).free < ROOM_BYTES:
        raise StorageError(f"storage {url} is on a full disk; free some space and run the command again.")


def _set_wal(engine: Engine, url: str) -> None:
    until = time.monotonic() + BUSY_SECONDS
    with closing(engine.raw_connection()) as connection:
        while True:
            try:
                mode = connection.cursor().execute("PRAGMA journal_mode=WAL").fetchone()[0]
                break
            except sqlite3.OperationalError as error:  # another process does the same; SQLite does not wait
                if "locked" not in str(error) or time.monotonic() > until:
                    raise
            time.sleep(_LOOK_SECONDS)
    if mode != "wal":
        raise StorageError(
            f"storage {url}: its file system cannot share a write-ahead log (journal mode stays {mode!r}); "
            "put the file on a local disk, or use a database server for several hosts."
        )


def _migrate(engine: Engine, url: str) -> None:
    with engine.connect() as connection:
        version = schema_version(connection)
    check_version(version, url)
    if version == len(migrations.MIGRATIONS):
        return
    try:
        _apply(engine, url)
    except DBAPIError:
        # Another process may have created the tables between our look and our transaction.
        with engine.connect() as connection:
            if schema_version(connection) != len(migrations.MIGRATIONS):
                raise


def _apply(engine: Engine, url: str) -> None:
    """Apply all migrations that are missing in one transaction, after a copy of what it begins with."""
    with engine.execution_options(qslm_write=True).begin() as connection:
        METADATA.create_all(connection, tables=[SCHEMA])
        if connection.execute(select(SCHEMA.c.id)).first() is None:
            connection.execute(insert(SCHEMA).values(id=1, version=0, written_by=__version__))
        version = schema_version(connection)
        check_version(version, url)
        if 0 < version < len(migrations.MIGRATIONS) and is_sqlite(url):
            _backup(sqlite_path(url), version, url)
        for migration in migrations.MIGRATIONS[version:]:
            migration(connection)
        newest = len(migrations.MIGRATIONS)
        connection.execute(update(SCHEMA).values(version=newest, written_by=__version__))


def _backup(path: Path, version: int, url: str) -> Path:
    """Copy the database, log included, beside itself: whole, or not at all."""
    size = sum(part.stat().st_size for part in (path, Path(f"{path}-wal")) if part.exists())
    if shutil.disk_usage(path.absolute().parent).free < size + ROOM_BYTES:
        raise StorageError(
            f"storage {url} is to be upgraded from schema {version}, and its disk has no room for the copy "
            f"of {size:,} bytes that is kept; free some space and run the command again."
        )
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S-%f")
    copy = path.with_name(f"{path.name}.schema{version}-{stamp}.bak")
    part = copy.with_suffix(".part")
    try:
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(part)) as target:
            shutil.copymode(path, part)
            source.backup(target)
        part.replace(copy)
    finally:
        part.unlink(missing_ok=True)
    return copy


def _sweep(engine: Engine) -> None:
    """Delete our rows of studies that Optuna no longer has, whoever deleted them."""
    if not inspect(engine).has_table(OPTUNA_STUDY_ATTRIBUTES.name):
        return
    key = OPTUNA_STUDY_ATTRIBUTES.c.key == "qslm_uuid"
    with engine.connect() as connection:
        kept = set(connection.execute(select(OPTUNA_STUDY_ATTRIBUTES.c.value_json).where(key)).scalars())
        old = STUDY.c.created < time.time() - _ORPHAN_SECONDS
        ours = connection.execute(select(STUDY.c.uuid).where(old)).scalars().all()
        orphans = {uuid for uuid in ours if f'"{uuid}"' not in kept}
        ours_too = (POWER_DEVICE, POWER_WINDOW, COMPARISON)
        for column in (RUN.c.uuid, *(table.c.study_uuid for table in ours_too)):
            homeless = column.not_in(select(STUDY.c.uuid))
            orphans.update(connection.execute(select(column).where(homeless).distinct()).scalars())
    if not orphans:
        return
    with engine.execution_options(qslm_write=True).begin() as connection:
        delete_power(connection, sorted(orphans))
        delete_comparisons(connection, sorted(orphans))
        for table in (RUN, STUDY):
            connection.execute(delete(table).where(table.c.uuid.in_(orphans)))
