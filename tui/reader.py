"""Reading a study without disturbing it: only what is new, in a thread of its own. No Textual.

``StudyReader`` is the incremental read; ``Poller`` runs it twice a second and reports what it found. A
daemon thread, so that a storage which does not answer can never keep the dashboard from closing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from qslm_opt.errors import QslmError, SchemaError, StudyNotFoundError
from tui.model import ENDED, StudyView
from tui.power_reader import PowerReader
from tui.times import seconds_of

if TYPE_CHECKING:
    from qslm_opt.results import PowerDevice, PowerSample, PowerWindow, TrialRecord, TrialState
    from qslm_opt.store import StudyRow
    from tui.power import Power, PowerSpan

_ROW_EVERY_SECONDS = 3.0
"""A dead process writes nothing, so the study's row is read again this often even when nothing changed."""
_LONGEST_WAIT_SECONDS = 5.0
_SLOWEST_SECONDS = 2.0
"""However much there is to show, the storage is looked at this often."""
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
        self._row_read_at = datetime.min

    def read(self) -> StudyView | None:
        """Return the study as it is now, None when nothing changed since the last call."""
        version, now, span = self.source.changed(), self.clock(), self.span
        moved, other = version != self._version, span is not None and span != self._shown_span
        if not moved and not other and (now - self._row_read_at).total_seconds() < _ROW_EVERY_SECONDS:
            return None
        row, before = self.source.study(self.name), self._view
        self._row_read_at = now
        if not moved and not other and before is not None and row == before.row:
            return None
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
            self._view = self._view.with_power(self._read_power(self._view, span))
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


class Poller(threading.Thread):
    """Polls a storage and calls back, from its own thread, with views, study lists or trouble."""

    def __init__(
        self,
        open_source: Callable[[], Source],
        name: str | None,
        *,
        on_view: Callable[[StudyView], object],
        on_studies: Callable[[list[StudyLine]], object],
        on_trouble: Callable[[Trouble], object],
        interval: float = 0.5,
        share: float | None = None,
        clock: Callable[[], datetime] = datetime.now,
    ) -> None:
        """``share``: look less often where the whole process would take more than this of a core."""
        super().__init__(name="qslm-opt-reader", daemon=True)
        self._share = share
        self._open_source, self._study = open_source, name
        self._interval, self._clock = interval, clock
        self._on_view, self._on_studies, self._on_trouble = on_view, on_studies, on_trouble
        self._stop_asked = threading.Event()
        self._woken = threading.Event()
        self._source: Source | None = None
        self._reader: StudyReader | None = None
        self._span: PowerSpan | None = None

    def stop(self) -> None:
        """Ask the thread to end; does not wait for it."""
        self._stop_asked.set()
        self._woken.set()

    def want_power(self, span: PowerSpan | None) -> None:
        """Say which part of the power recording is shown from now on; None: no part."""
        self._span = span
        if self._reader is not None:
            self._reader.span = span
        self._woken.set()

    def run(self) -> None:
        """Read until stopped; a failure is reported, then tried again more and more slowly."""
        read: Callable[[], None] | None = None
        failures, used = 0, time.process_time()
        while not self._stop_asked.is_set():
            before, used = used, time.process_time()
            wait = self._wait_seconds(used - before)
            try:
                read = read or self._reading()
                read()
                failures = 0
            except Exception as error:  # noqa: BLE001 whatever a driver raises is shown, no traceback
                failures += 1
                read = None
                self._close()
                wait = min(_LONGEST_WAIT_SECONDS, self._interval * 2 ** min(failures, 8))
                self._tell(self._on_trouble, trouble_of(error, failures, wait))
            self._woken.wait(wait)
            self._woken.clear()
        self._close()

    def _wait_seconds(self, used: float) -> float:
        """Return the time until the next look, after one that took ``used`` seconds of CPU with its showing."""
        if self._share is None:
            return self._interval
        return min(max(self._interval, used / self._share), _SLOWEST_SECONDS)

    def _close(self) -> None:
        source, self._source = self._source, None
        if source is not None:
            with suppress(QslmError):
                source.close()

    def _tell(self, listener: Callable[[Any], object], news: object) -> None:
        if not self._stop_asked.is_set():
            try:
                listener(news)
            except RuntimeError:  # the app's event loop has just been closed
                self._stop_asked.set()

    def _reading(self) -> Callable[[], None]:
        source = self._source = self._open_source()
        if self._study is None:
            known = StudiesReader(source, self._clock)
            return lambda: self._read_list(known)
        reader = self._reader = StudyReader(source, self._study, self._clock)
        reader.span = self._span
        return lambda: self._read_study(reader)

    def _read_study(self, reader: StudyReader) -> None:
        view = reader.read()
        if view is not None:
            self._tell(self._on_view, view)

    def _read_list(self, reader: StudiesReader) -> None:
        studies = reader.read()
        if studies is not None:
            self._tell(self._on_studies, studies)


def trouble_of(error: Exception, attempt: int, wait_seconds: float) -> Trouble:
    """Return the words for a failed read."""
    if isinstance(error, StudyNotFoundError):
        return Trouble("missing", str(error), attempt, wait_seconds)
    if isinstance(error, SchemaError):
        return Trouble("newer", str(error), attempt, wait_seconds)
    if isinstance(error, QslmError):
        return Trouble("storage", str(error), attempt, wait_seconds)
    text = " ".join(str(error).split())
    return Trouble("unexpected", f"{type(error).__name__}: {text[:300]}", attempt, wait_seconds)
