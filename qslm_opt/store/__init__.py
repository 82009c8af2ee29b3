"""The storage: our tables beside Optuna's in one database. The only place that speaks SQL."""

from __future__ import annotations

from qslm_opt.store.compact import Compacted, compact
from qslm_opt.store.engine import optuna_storage_kwargs
from qslm_opt.store.failures import find_database_error, storage_error, study_exists
from qslm_opt.store.prepare import prepare
from qslm_opt.store.repository import Repository
from qslm_opt.store.rows import StudyRow, StudyState
from qslm_opt.store.urls import DEFAULT_URL, default_url, masked

__all__ = [
    "DEFAULT_URL",
    "Compacted",
    "Repository",
    "StudyRow",
    "StudyState",
    "compact",
    "default_url",
    "find_database_error",
    "masked",
    "optuna_storage_kwargs",
    "prepare",
    "storage_error",
    "study_exists",
]
