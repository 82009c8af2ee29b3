"""The reading thread: looks at the storage twice a second and reports what it found. No Textual.

A daemon thread, so that a storage which does not answer can never keep the dashboard from closing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any

from qslm_opt.errors import QslmError, SchemaError, StudyNotFoundError
from tui.reader import Source, StudiesReader, StudyReader, Trouble

if TYPE_CHECKING:
    from tui.model import StudyView
    from tui.power import PowerSpan
    from tui.reader import StudyLine

_LONGEST_WAIT_SECONDS = 5.0
_SLOWEST_SECONDS = 2.0
"""However much there is to show, the storage is looked at this often."""


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
        new: Callable[[], bool] = lambda: False,
        interval: float = 0.5,
        share: float | None = None,
        clock: Callable[[], datetime] = datetime.now,
    ) -> None:
        """``new``: whether the storage is not there yet, and so holds no study.

        ``share``: look less often where the whole process would take more than this of a core.
        """
        super().__init__(name="qslm-opt-reader", daemon=True)
        self._share, self._new = share, new
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
                if read is not None:
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
        """Return the time until the next look, when the last took ``used`` CPU seconds with its showing."""
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

    def _reading(self) -> Callable[[], None] | None:
        """Return what reads, None while there is no storage yet."""
        if self._study is None and self._new():
            self._tell(self._on_studies, [])
            return None
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
