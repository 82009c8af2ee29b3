"""A stored study's mapping file is the one it was created with, which is seen before any code of it runs."""

from __future__ import annotations

from pathlib import Path

from qslm_opt.errors import FingerprintError, UsageError
from qslm_opt.models.mapping.keys import read_mapping
from qslm_opt.models.registry import is_mapping_file


def check_mapping(study: str, family: str | None, known: str | None) -> None:
    """Compare the content of a study's mapping file with what the study stored; no code is run.

    Args:
        study: name of the study.
        family: its family, as it is to be opened; nothing is done where that is no mapping file.
        known: SHA-256 of the mapping file that the study stored; None where it stored none.

    Raises:
        FingerprintError: the file, or the .py file beside it, is another.
        ModelError, UsageError: it is gone, cannot be read, or is no mapping file any more.
    """
    if family is None or not is_mapping_file(family):
        return
    path = Path(family).expanduser()
    if not path.is_file():
        raise UsageError(
            f"mapping file {family!r} does not exist, and study {study!r} was created with it; put it back "
            "there, with the .py file that it names."
        )
    now = read_mapping(path).digest
    if now != known:
        raise FingerprintError(
            f"study {study!r} was created with another mapping file than {family!r} is now (SHA-256 "
            f"{(known or 'none')[:16]} → {now[:16]}), so none of its code was run; put the one it was "
            "created with there, with its .py file, or create a new study."
        )
