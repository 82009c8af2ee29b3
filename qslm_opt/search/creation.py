"""Optuna's tables in a storage that several processes may create at the same moment."""

from __future__ import annotations

import time

from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from sqlalchemy import inspect
from sqlalchemy.exc import DBAPIError

from qslm_opt.store import find_database_error, optuna_storage_kwargs
from qslm_opt.store.engine import open_engine
from qslm_opt.store.failures import BUSY_SECONDS

_LAST_TABLE = "alembic_version"
"""Optuna writes its row after everything else."""
_LOOK_SECONDS = 0.05


def open_database(url: str) -> RDBStorage:
    """Return Optuna's storage on ``url``; its tables are created where they are not there.

    What fails because another process creates them now is tried again, until they are there.

    Raises:
        RuntimeError: the tables are of another release of Optuna.
        StorageInternalError, DBAPIError: the database fails, or the other one took ``BUSY_SECONDS``.
    """
    until = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            _create_tables(url)
            return RDBStorage(url, engine_kwargs=optuna_storage_kwargs(url))
        except (StorageInternalError, DBAPIError) as error:
            if not was_created_meanwhile(error) or time.monotonic() > until:
                raise
        time.sleep(_LOOK_SECONDS)


def was_created_meanwhile(error: BaseException) -> bool:
    """Return whether a statement failed because another process was quicker with the same table or row."""
    cause = find_database_error(error)
    text = str(getattr(cause, "orig", None) or cause).lower()
    return any(sign in text for sign in ("already exists", "unique", "duplicate"))


def _create_tables(url: str) -> None:
    """Create all of Optuna's tables in one transaction, so that nobody ever sees some of them."""
    engine = open_engine(url, "rwc")
    try:
        if inspect(engine).has_table(_LAST_TABLE):
            return
        with engine.execution_options(qslm_write=True).begin() as connection:
            models.BaseModel.metadata.create_all(connection)
    finally:
        engine.dispose()
