"""What can go wrong, as one tree; every message names the value, the bound and the fix.

::

    QslmError                 exit code 1
    ├── UsageError            2   a flag, a TOML key, a path or a name that cannot be
    │   ├── SpecError         2   a study specification
    │   └── SettingError      2   a quantization setting or a number format
    ├── ModelError            1   a checkpoint that cannot be read or does not fit its config
    ├── DataError             1   a data set that cannot be read or does not fit the task
    ├── NumericsError         1   NaN or infinite numbers where finite ones are needed
    ├── OutOfMemoryError      1   one batch does not fit the memory of the GPU or of the host
    ├── StorageError          3   the study storage: missing, locked, full, read-only
    │   ├── StudyExistsError  3
    │   ├── SchemaError       3   tables written by a newer qslm-opt
    │   ├── ArchiveError      3   a study file that is damaged, altered or of a newer qslm-opt
    │   └── FingerprintError  3   model, data or spec are not those of the stored study
    ├── InfeasibleError       4   no setting can meet, or none met (by the deadline), both constraints
    ├── DeviceError           5   a GPU or a power meter was required and is missing, or failed
    ├── StudyNotFoundError    6
    └── StoppedError        130   a tuning was asked to stop before its end
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


MOST_CHARACTERS = 1500
"""Of a message: a file that is named in one may hold a value of a megabyte."""


class QslmError(Exception):
    """Base of every error that qslm-opt raises on purpose."""

    exit_code = 1

    def __str__(self) -> str:
        text = super().__str__()
        if len(text) <= MOST_CHARACTERS:
            return text
        return f"{text[: MOST_CHARACTERS - 500]} … {text[-450:]}"  # the fix is at the end


class UsageError(QslmError):
    """A flag, key, path or name that cannot be."""

    exit_code = 2


class SpecError(UsageError):
    """A study specification that cannot be."""


class SettingError(UsageError):
    """A quantization setting or number format that cannot be."""


class ModelError(QslmError):
    """A checkpoint that cannot be read, or does not fit its config."""


class DataError(QslmError):
    """A data set that cannot be read, or does not fit the task."""


class NumericsError(QslmError):
    """NaN or infinite numbers where finite ones are needed."""


class OutOfMemoryError(QslmError):
    """One batch does not fit the memory of the GPU or of the host."""


class StorageError(QslmError):
    """The study storage is missing, locked, full, read-only or damaged."""

    exit_code = 3


class StudyExistsError(StorageError):
    """The study name is taken."""


class SchemaError(StorageError):
    """The storage was written by a newer qslm-opt."""


class ArchiveError(StorageError):
    """A study file is damaged, altered, written by a newer qslm-opt, or no study file."""


class FingerprintError(StorageError):
    """Model, data or spec differ from those the study was created with."""


class InfeasibleError(QslmError):
    """No setting can meet, or none met, both constraints."""

    exit_code = 4


class DeviceError(QslmError):
    """A GPU or a power meter was required and is missing, or failed."""

    exit_code = 5


class StudyNotFoundError(QslmError):
    """No study of that name is in the storage."""

    exit_code = 6


class StoppedError(QslmError):
    """A tuning was asked to stop before its end; it has no result."""

    exit_code = 130


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the nearest known word, or an empty string."""
    match = get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" Did you mean {match[0]!r}?" if match else ""


def in_a_line(error: BaseException) -> str:
    """Return an error of another's code as one line, with its class."""
    return " ".join(f"{type(error).__name__}: {error}".split())
