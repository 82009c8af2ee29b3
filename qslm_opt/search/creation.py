"""Optuna's tables in a storage that several processes may create at the same moment."""

from __future__ import annotations

import time

from optuna.storages import RDBStorage
from optuna.storages._rdb import models

from qslm_opt.store import create_at_once, optuna_storage_kwargs, was_created_meanwhile

WAIT_SECONDS = 30.0
"""How long another process may take to create the tables."""
_LAST_TABLE = "alembic_version"
"""Optuna writes its row after everything else."""
_LOOK_SECONDS = 0.05


def open_database(url: str) -> RDBStorage:
    """Return Optuna's storage on ``url``; its tables are created where they are not there.

    What fails because another process creates them now is tried again, until they are there. Any other
    error comes out, and so does that one after ``WAIT_SECONDS``. RuntimeError: the tables are of another
    release of Optuna.
    """
    until = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            create_at_once(url, models.BaseModel.metadata, _LAST_TABLE)
            return RDBStorage(url, engine_kwargs=optuna_storage_kwargs(url))
        except Exception as error:
            if not was_created_meanwhile(error) or time.monotonic() > until:
                raise
        time.sleep(_LOOK_SECONDS)
