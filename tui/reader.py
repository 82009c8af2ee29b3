"""Reading a study without disturbing it: only what is new. No Textual."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from tui.model import ENDED, StudyView
from tui.power_reader import PowerReader
from tui.times import seconds_of

if TYPE_CHECKING:
    from qslm_opt.results import PowerDevice, PowerSample, PowerWindow, TrialRecord, TrialState
    from qslm_opt.store import StudyRow
    from tui.power import Power, PowerSpan

_ROW_EVERY_SECONDS = 3.0
"""A dead process writes nothing, so the study's row is read again this often even when nothing changed."""
_POWER_EVERY_SECONDS = 2.0
"""Samples are no change that every storage tells, so power that is shown is read again this often."""
_LAST_ENDED = 64
"""Among so many of the last trials by number is the one that ended last."""


class Source(Protocol):
    """What the dashboard needs of ``qslm_opt.store.Repository``."""

    def changed(self) -> int:
        """Return a number that moves when anything was written."""

    def studies(self) -> list[StudyRow]:
        """Return all studies of the storage."""

    def study(self, name: str) -> StudyRow:
        """Return one study; raise StudyNotFoundError."""

    def best(self, name: str) -> TrialRecord | None:
        """Return the best feasible trial at the study's own λ."""

    def trials(
        self, name: str, after: int = -1, states: Sequence[TrialState] | None = None
    ) -> list[TrialRecord]:
        """Return the trials numbered above ``after``, in order."""

    def power_devices(self, study_uuid: str) -> list[PowerDevice]:
        """Return the devices that processes of the study measure, or cannot."""

    def power_samples(
        self, device_id: str, since: float, until: float, points: int | None = None
    ) -> list[PowerSample]:
        """Return a device's samples between two times, thinned to at most ``points``."""

    def power_windows(self, study_uuid: str, after: float = 0.0) -> dict[str, PowerWindow]:
        """Return trial UUID → power window of the windows that ended after a time."""

    def close(self) -> None:
        """Let the storage go."""


class StudyLine(NamedTuple):
    """A study in the list of studies."""

    row: StudyRow
    best: TrialRecord | None
    """Its best feasible trial at its own λ."""


@dataclass(frozen=True)
class Trouble:
    """Why nothing new could be read, in words for the user."""

    kind: Literal["missing", "newer", "storage", "unexpected"]
    text: str
    attempt: int
    wait_seconds: float
    """Time until the next attempt."""


def is_new(url: str) -> bool:
    """Return whether a storage is an SQLite file that the first study will make; raise StorageError."""
    from qslm_opt.store.urls import is_grpc, is_sqlite, sqlite_path

    if is_grpc(url) or not is_sqlite(url):
        return False
    path = sqlite_path(url)
    return not path.exists() and path.absolute().parent.is_dir()


class StudyReader:
    """Keeps a study's trials and reads only new and unfinished ones, and of its power only what is shown."""

    def __init__(self, source: Source, name: str, clock: Callable[[], datetime] = datetime.now) -> None:
        self.source, self.name, self.clock = source, name, clock
        self.span: PowerSpan | None = None
        """What of the power recording is shown; None: nothing of it is read. Any thread may set it."""
        self._shown_span: PowerSpan | None = None
        self._power = PowerReader(source)
        self._version: int | None = None
        self._view: StudyView | None = None
        self._trials: dict[int, TrialRecord] = {}
        """By number, in order."""
        self._pending: set[int] = set()
        self._row_read_at = self._power_read_at = datetime.min

    def read(self) -> StudyView | None:
        """Return the study as it is now, None when nothing changed since the last call."""
        version, now, span = self.source.changed(), self.clock(), self.span
        moved, other = version != self._version, span is not None and span != self._shown_span
        if not moved and not other and (now - self._row_read_at).total_seconds() < _ROW_EVERY_SECONDS:
            return self._with_newer_power(now, span)
        row, before = self.source.study(self.name), self._view
        self._row_read_at = now
        if not moved and not other and before is not None and row == before.row:
            return self._with_newer_power(now, span)
        if before is not None and (row.uuid, row.extra) != (before.row.uuid, before.row.extra):
            self._trials.clear()
            self._pending.clear()  # another study of the same name, or its search has ended and marked trials
            before = None
        new_trials = self._update_trials()
        self._version, self._shown_span = version, span
        if before is None or new_trials:
            self._view = StudyView(row, tuple(self._trials.values()), now)
        else:
            self._view = before.with_row(row, now)
        if span is not None:
            self._power_read_at = now
            self._view = self._view.with_power(self._read_power(self._view, span))
        return self._view

    def _with_newer_power(self, now: datetime, span: PowerSpan | None) -> StudyView | None:
        """Return the view with power as it is now, None when it is not due or says nothing new."""
        due = (now - self._power_read_at).total_seconds() >= _POWER_EVERY_SECONDS
        if span is None or self._view is None or not due:
            return None
        self._power_read_at, power = now, self._read_power(self._view, span)
        if power == self._view.power:
            return None
        self._view = self._view.with_row(self._view.row, now).with_power(power)
        return self._view

    def _read_power(self, view: StudyView, span: PowerSpan) -> Power:
        newest = self.clock().timestamp()
        if view.row.state != "running":
            ends = (seconds_of(trial.finished) for trial in view.ended[-_LAST_ENDED:])
            newest = max((end for end in ends if end), default=newest)
        return self._power.read(view.row.uuid, span, newest)

    def _update_trials(self) -> bool:
        """Read what is new; return whether anything was."""
        last = next(reversed(self._trials), -1)
        still: dict[int, TrialRecord] = {}
        pending = self._pending & self._trials.keys()
        if pending:
            still = {t.number: t for t in self.source.trials(self.name, states=("running", "waiting"))}
            last = min(pending - still.keys(), default=last + 1) - 1
        new = {t.number: t for t in self.source.trials(self.name, after=last)}
        new |= {n: t for n, t in still.items() if t != self._trials.get(n)}
        late = any(n < last and n not in self._trials for n in new)
        self._trials |= new
        if late:
            self._trials = dict(sorted(self._trials.items()))
        self._pending -= new.keys()
        self._pending |= {n for n, t in new.items() if t.state not in ENDED}
        return bool(new)


class StudiesReader:
    """Reads the list of studies when it may have changed, and the best of those that came further."""

    def __init__(self, source: Source, clock: Callable[[], datetime] = datetime.now) -> None:
        self.source, self.clock = source, clock
        self._version: int | None = None
        self._known: list[StudyLine] | None = None
        self._read_at = datetime.min

    def read(self) -> list[StudyLine] | None:
        """Return the studies as they are now, None when nothing changed since the last call."""
        version, now = self.source.changed(), self.clock()
        if version == self._version and (now - self._read_at).total_seconds() < _ROW_EVERY_SECONDS:
            return None
        before = self._known
        kept = {_progress_of(line.row): line for line in before or ()}
        self._known = [StudyLine(row, self._best(row, kept)) for row in self.source.studies()]
        self._version, self._read_at = version, now
        return self._known if self._known != before else None

    def _best(self, row: StudyRow, kept: dict[object, StudyLine]) -> TrialRecord | None:
        known = kept.get(_progress_of(row))
        return known.best if known else self.source.best(row.name)


def _progress_of(row: StudyRow) -> object:
    """Return what moves when a study's best may have."""
    return row.uuid, row.counts.get("complete"), len(row.extra)
