"""The storage: our tables beside Optuna's in one database. The only place that speaks SQL."""

from __future__ import annotations

from qslm_opt.safe import masked
from qslm_opt.store.archive import read_archive, write_archive, write_records
from qslm_opt.store.compact import Compacted, compact
from qslm_opt.store.creation import create_at_once, was_created_meanwhile
from qslm_opt.store.engine import optuna_storage_kwargs
from qslm_opt.store.failures import find_database_error, storage_error, study_exists
from qslm_opt.store.incoming import Imported, write_study
from qslm_opt.store.prepare import is_new, prepare
from qslm_opt.store.records import checked, with_words
from qslm_opt.store.repository import Repository
from qslm_opt.store.rows import StudyRow, StudyState
from qslm_opt.store.transfer import read_study
from qslm_opt.store.urls import DEFAULT_URL, default_url, is_grpc

__all__ = [
    "DEFAULT_URL",
    "Compacted",
    "Imported",
    "Repository",
    "StudyRow",
    "StudyState",
    "checked",
    "compact",
    "create_at_once",
    "default_url",
    "find_database_error",
    "is_grpc",
    "is_new",
    "masked",
    "open_repository",
    "optuna_storage_kwargs",
    "prepare",
    "read_archive",
    "read_study",
    "storage_error",
    "study_exists",
    "was_created_meanwhile",
    "with_words",
    "write_archive",
    "write_records",
    "write_study",
]


def open_repository(url: str, *, read_only: bool = False) -> Repository:
    """Return the repository of a database, or of the proxy that ``grpc://host:port`` names."""
    if is_grpc(url):
        from qslm_opt.store.remote import RemoteRepository

        return RemoteRepository(url)
    return Repository(url, read_only=read_only)
