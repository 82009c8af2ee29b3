"""The storage: our tables beside Optuna's in one database. The only place that speaks SQL."""

from __future__ import annotations

from qslm_opt.store.compact import Compacted, compact
from qslm_opt.store.engine import optuna_storage_kwargs
from qslm_opt.store.failures import find_database_error, storage_error, study_exists
from qslm_opt.store.prepare import prepare
from qslm_opt.store.repository import Repository
from qslm_opt.store.rows import StudyRow, StudyState
from qslm_opt.store.urls import DEFAULT_URL, default_url, is_grpc, masked

__all__ = [
    "DEFAULT_URL",
    "Compacted",
    "Repository",
    "StudyRow",
    "StudyState",
    "compact",
    "default_url",
    "find_database_error",
    "is_grpc",
    "masked",
    "open_repository",
    "optuna_storage_kwargs",
    "prepare",
    "storage_error",
    "study_exists",
]


def open_repository(url: str, *, read_only: bool = False) -> Repository:
    """Return the repository of a database, or of the proxy that ``grpc://host:port`` names."""
    if is_grpc(url):
        from qslm_opt.store.remote import RemoteRepository

        return RemoteRepository(url)
    return Repository(url, read_only=read_only)
