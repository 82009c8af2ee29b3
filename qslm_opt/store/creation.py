"""Creating tables that several processes may create at the same moment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import inspect

from qslm_opt.store.engine import open_engine
from qslm_opt.store.failures import find_database_error

if TYPE_CHECKING:
    from sqlalchemy import MetaData


def create_at_once(url: str, tables: MetaData, last: str) -> None:
    """Create ``tables`` in one transaction, so that nobody ever sees some of them.

    Nothing is done where the table ``last`` is there, which is written after all others.
    """
    engine = open_engine(url, "rwc")
    try:
        if inspect(engine).has_table(last):
            return
        with engine.execution_options(qslm_write=True).begin() as connection:
            tables.create_all(connection)
    finally:
        engine.dispose()


def was_created_meanwhile(error: BaseException) -> bool:
    """Return whether a statement failed because another process was quicker with the same table or row."""
    cause = find_database_error(error)
    text = "" if cause is None else str(getattr(cause, "orig", None) or cause).lower()
    return any(sign in text for sign in ("already exists", "unique", "duplicate"))
