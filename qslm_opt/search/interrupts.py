"""Ctrl-C, SIGTERM, a closed terminal and a deadline: at once while a model runs, never while one stores"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from qslm_opt.search.deadline import Deadline, DeadlineReached

_SIGNALS = (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))

_SOON = 0.001
"""Seconds of an alarm whose time has come: zero would turn it off."""


class Interrupts:
    """While entered, these signals wait for an ``exposed`` block, and raise KeyboardInterrupt there.

    One that is ignored (``nohup``) stays so. A deadline raises DeadlineReached, which is one, by an alarm of
    the system. Only the main thread of a process receives signals; elsewhere, and where the system has no
    alarm, a deadline is seen at the start of an ``exposed`` block and by ``check``, and nothing else is.
    """

    def __init__(self, deadline: Deadline | None = None) -> None:
        self.deadline = deadline
        self._before: dict[int, Any] = {}
        self._exposed = False
        self._pending = self._alarm = False

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._before = {
                number: signal.signal(number, self._received)
                for number in _SIGNALS
                if signal.getsignal(number) != signal.SIG_IGN
            }
            self._set_alarm()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._alarm:
            signal.setitimer(signal.ITIMER_REAL, 0)
            self._alarm = False
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    @contextmanager
    def exposed(self) -> Iterator[None]:
        """Let signals raise KeyboardInterrupt inside the block; one that waits does so at its start."""
        with self._set(True):
            self._raise_pending()
            yield

    @contextmanager
    def shielded(self) -> Iterator[None]:
        """Hold signals back inside the block; one that came raises at its end when that is exposed."""
        with self._set(False):
            yield
        if self._exposed:
            self._raise_pending()

    @contextmanager
    def _set(self, exposed: bool) -> Iterator[None]:
        before, self._exposed = self._exposed, exposed
        try:
            yield
        finally:
            self._exposed = before

    def check(self) -> None:
        """Raise DeadlineReached once the deadline has come, where signals may raise."""
        if self._exposed:
            self._raise_pending()

    def _raise_pending(self) -> None:
        if self._pending:
            self._pending = False
            raise KeyboardInterrupt
        if self.deadline is not None and not self.deadline.left():
            raise DeadlineReached

    def _set_alarm(self) -> None:
        if self.deadline is not None and hasattr(signal, "setitimer"):
            self._before[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._rung)
            signal.setitimer(signal.ITIMER_REAL, max(self.deadline.left(), _SOON))
            self._alarm = True

    def _rung(self, number: int, frame: FrameType | None) -> None:
        if self.deadline is not None and self.deadline.left():  # the alarm's clock was ahead of ours
            signal.setitimer(signal.ITIMER_REAL, max(self.deadline.left(), _SOON))
        elif self._exposed:
            self._raise_pending()

    def _received(self, number: int, frame: FrameType | None) -> None:
        self._pending = True
        if self._exposed:
            self._raise_pending()
