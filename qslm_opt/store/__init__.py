"""The storage: our tables beside Optuna's in one database. The only place that speaks SQL."""

from __future__ import annotations

from qslm_opt.safe import masked
from qslm_opt.store.archive import read_archive, write_archive, write_records
from qslm_opt.store.engine import optuna_storage_kwargs
from qslm_opt.store.failures import find_database_error, storage_error, study_exists
from qslm_opt.store.incoming import Imported, write_study
from qslm_opt.store.prepare import prepare
from qslm_opt.store.records import checked, with_words
from qslm_opt.store.repository import Repository
from qslm_opt.store.rows import StudyRow, StudyState
from qslm_opt.store.transfer import read_study
from qslm_opt.store.urls import DEFAULT_URL, default_url

__all__ = [
    "DEFAULT_URL",
    "Imported",
    "Repository",
    "StudyRow",
    "StudyState",
    "checked",
    "default_url",
    "find_database_error",
    "masked",
    "optuna_storage_kwargs",
    "prepare",
    "read_archive",
    "read_study",
    "storage_error",
    "study_exists",
    "with_words",
    "write_archive",
    "write_records",
    "write_study",
]
