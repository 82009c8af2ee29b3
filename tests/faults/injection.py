"""Faults that a process does to itself in the middle of a study; see ``run.py``."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event

ANY, SQLITE = ("sqlite", "postgresql"), ("sqlite",)


@dataclass(frozen=True)
class Kind:
    """A fault: where it may strike, and the exit codes with which a run may leave."""

    name: str
    at: str
    """``statement``: before some SQL statement; ``evaluation``: in the middle of a model run."""
    codes: frozenset[int]
    storages: tuple[str, ...] = ANY
    suspends: bool = False
    """Whether the process is only stopped, and goes on when another one has finished the study."""


KINDS = (
    Kind("kill -9 (the OOM killer's too)", "statement", frozenset({-signal.SIGKILL})),
    Kind("kill -9 during an evaluation", "evaluation", frozenset({-signal.SIGKILL})),
    # Held back while a trial is stored; one that comes at the very last statements finds nothing to stop,
    # and before the run has begun SIGTERM ends the process as it ends any.
    Kind("Ctrl-C", "statement", frozenset({130, 0})),
    Kind("SIGTERM", "statement", frozenset({130, 0, -signal.SIGTERM})),
    Kind("SIGTERM during an evaluation", "evaluation", frozenset({130})),
    Kind("closed terminal (SIGHUP)", "evaluation", frozenset({130})),
    Kind("power cut (files copied between writes)", "statement", frozenset({-signal.SIGKILL}), SQLITE),
    Kind("power cut, log torn at a random byte", "statement", frozenset({-signal.SIGKILL}), SQLITE),
    Kind("full disk", "statement", frozenset({3, 0}), SQLITE),  # 0: the last statements need no new page
    Kind("file system turned read-only", "statement", frozenset({3}), SQLITE),
    Kind("out of memory (MemoryError)", "evaluation", frozenset({1})),
    Kind("GPU fell off (CUDA error)", "evaluation", frozenset({5})),
    Kind("suspended past its lease, then woken", "evaluation", frozenset({0}), suspends=True),
)


@dataclass(frozen=True)
class Point:
    """One fault at one place of a run."""

    kind: Kind
    number: int
    """Which statement or evaluation, from 1."""
    share: float = 0.5
    """Of the write-ahead log that is left of it after a torn power cut."""
    folder: Path | None = None
    """Where the files of a power cut are copied to."""
    database: Path | None = None
    """The SQLite file."""


def count_statements() -> Callable[[], int]:
    """Count the SQL statements of this process from now on; return how to read the count."""
    counted = [0]

    def before(*_: Any) -> None:
        counted[0] += 1

    event.listen(Engine, "before_cursor_execute", before)
    return lambda: counted[0]


def strike_at_statement(point: Point, fired: Callable[[], None]) -> None:
    """Let the fault strike before statement ``point.number`` of this process."""
    counted = [0]

    def before(connection: Any, cursor: Any, *_: Any) -> None:
        counted[0] += 1
        if counted[0] == point.number:
            fired()
            _strike(point)
        if counted[0] >= point.number:
            _spoil(point.kind, cursor.connection)

    event.listen(Engine, "before_cursor_execute", before)


def strike_in_evaluation(point: Point, fired: Callable[[], None]) -> None:
    """Let the fault strike now, in the middle of a model run."""
    fired()
    if point.kind.name.startswith("out of memory"):
        raise MemoryError
    if point.kind.name.startswith("GPU"):
        raise RuntimeError("CUDA error: unspecified launch failure\nCUDA kernel errors may come later")
    _strike(point)


def _strike(point: Point) -> None:
    name = point.kind.name
    if name.startswith("power cut"):
        _copy(point)
    if name.startswith(("kill", "power cut")):
        os.kill(os.getpid(), signal.SIGKILL)
    for start, number in (("Ctrl-C", signal.SIGINT), ("SIGTERM", signal.SIGTERM),
                          ("closed", signal.SIGHUP), ("suspended", signal.SIGSTOP)):  # fmt: skip
        if name.startswith(start):
            os.kill(os.getpid(), number)


def _copy(point: Point) -> None:
    """Copy database, log and index as they are on the disk at this moment."""
    assert point.folder is not None
    assert point.database is not None
    torn = "torn" in point.kind.name
    for end in ("", "-wal") if torn else ("", "-wal", "-shm"):
        source = Path(f"{point.database}{end}")
        if source.exists():
            shutil.copy(source, point.folder / source.name)
    log = point.folder / f"{point.database.name}-wal"
    if torn and log.exists():
        os.truncate(log, int(point.share * log.stat().st_size))


def _spoil(kind: Kind, connection: sqlite3.Connection) -> None:
    """Let SQLite itself refuse to grow, or to write at all."""
    if kind.name == "full disk":
        connection.execute("PRAGMA max_page_count=1")  # it takes the number of pages there are
    elif kind.name.startswith("file system"):
        connection.execute("PRAGMA query_only=1")
