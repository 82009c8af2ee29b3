"""The log of a run in the background: one file and a few older ones, each of a bounded size."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

LOG_KEY = "QSLM_OPT_LOG"
"""Names the log file to a process that runs in the background."""
MOST_BYTES = 1_000_000
KEPT = 3
"""Older files, named .1 to .3, the newest first."""


class RotatingLog(io.TextIOBase):
    """A text stream into ``path``, which is renamed before a line would make it larger than ``most``."""

    def __init__(self, path: Path, most: int = MOST_BYTES) -> None:
        self._path, self._most = path, most
        self._file = path.open("ab", buffering=0)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """What it writes."""
        return "utf-8"

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, text: str) -> int:
        """Write a text, after a rotation when it would not fit."""
        data = text.encode("utf-8", errors="replace")
        if self._file.tell() and self._file.tell() + len(data) > self._most:
            self._rotate()
        self._file.write(data)
        return len(text)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()

    def _rotate(self) -> None:
        self._file.close()
        for number in range(KEPT, 0, -1):
            newer = self._path if number == 1 else Path(f"{self._path}.{number - 1}")
            if newer.exists():
                newer.replace(f"{self._path}.{number}")
        self._file = self._path.open("ab", buffering=0)


def write_to_log() -> None:
    """Write what this process says to the log that its environment names; its children inherit none."""
    path = os.environ.pop(LOG_KEY, None)
    if path:
        sys.stdout = sys.stderr = RotatingLog(Path(path))
