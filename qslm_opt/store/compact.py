"""Making a storage small again: reports of finished trials away, free pages given back, the log emptied."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine, delete, inspect, select, text

from qslm_opt.errors import StorageError, UsageError
from qslm_opt.safe import masked
from qslm_opt.store.engine import open_engine
from qslm_opt.store.failures import storage_errors
from qslm_opt.store.repository import Repository
from qslm_opt.store.tables import METADATA, OPTUNA_REPORTS, OPTUNA_STUDIES, OPTUNA_TRIALS
from qslm_opt.store.urls import is_sqlite, refuse_proxy, sqlite_path

if TYPE_CHECKING:
    from qslm_opt.store.rows import StudyRow

_OPTUNA_TABLES = (
    "trials", "trial_params", "trial_values", "trial_user_attributes", "trial_system_attributes",
    "trial_intermediate_values",
)  # fmt: skip


@dataclass(frozen=True)
class Compacted:
    """What compacting came to."""

    before_bytes: int | None
    """The SQLite file with its log, or the database of a PostgreSQL server; None for another server."""
    after_bytes: int | None
    reports: int
    """Intermediate reports of finished trials that were deleted; no command of ours reads them."""


def compact(url: str, name: str | None = None) -> Compacted:
    """Compact a storage; of all studies, or of ``name`` alone, intermediate reports are deleted.

    Trials, settings, measurements and verdicts stay as they are.

    Raises:
        UsageError: a study of the storage is running.
        StudyNotFoundError: no study of that name.
        StorageError: the storage cannot be written, or there is no room for the copy that SQLite makes.
    """
    refuse_proxy(url, "compact")
    with Repository(url) as repository:
        chosen = repository.studies() if name is None else [repository.study(name)]
        _refuse_running(repository.studies(), url)
    engine = open_engine(url, "rw")
    try:
        with storage_errors(url):
            before = _size(engine, url)
            with engine.execution_options(qslm_write=True).begin() as connection:
                reports = _drop_reports(connection, [study.name for study in chosen])
            _vacuum(engine, url)
            return Compacted(before, _size(engine, url), reports)
    finally:
        engine.dispose()


def _refuse_running(studies: Sequence[StudyRow], url: str) -> None:
    for study in studies:
        if study.state == "running":
            raise UsageError(
                f"study {study.name!r} in storage {masked(url)} is being run by process {study.pid} on "
                f"{study.host}; compact when it has ended, or stop it: qslm-opt study stop {study.name}."
            )


def _drop_reports(connection: Connection, names: Sequence[str]) -> int:
    """Delete the intermediate values of finished trials; return how many there were."""
    if not inspect(connection).has_table(OPTUNA_REPORTS.name):
        return 0
    t, s = OPTUNA_TRIALS.c, OPTUNA_STUDIES.c
    studies = select(s.study_id).where(s.study_name.in_(names))
    running = select(t.trial_id).where(t.study_id.in_(studies), t.datetime_complete.is_(None))
    mine = select(t.trial_id).where(t.study_id.in_(studies))
    r = OPTUNA_REPORTS.c.trial_id
    return connection.execute(delete(OPTUNA_REPORTS).where(r.in_(mine), r.not_in(running))).rowcount


def _vacuum(engine: Engine, url: str) -> None:
    if is_sqlite(url):
        with closing(engine.raw_connection()) as connection:
            cursor = connection.cursor()
            cursor.execute("VACUUM")
            busy, *_ = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise StorageError(
                f"storage {url} is in use, its log could not be emptied; close what reads it and run the "
                "command again."
            )
    elif engine.dialect.name == "postgresql":
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            there = set(inspect(connection).get_table_names())
            for table in (*_OPTUNA_TABLES, *METADATA.tables):
                if table in there:
                    connection.execute(text(f'VACUUM (FULL, ANALYZE) "{table}"'))


def _size(engine: Engine, url: str) -> int | None:
    if is_sqlite(url):
        path = sqlite_path(url)
        files = (Path(f"{path}{end}") for end in ("", "-wal"))
        return sum(file.stat().st_size for file in files if file.exists())
    if engine.dialect.name != "postgresql":
        return None
    with engine.connect() as connection:
        found: Any = connection.execute(text("SELECT pg_database_size(current_database())")).scalar_one()
        return int(found)
