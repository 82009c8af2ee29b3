"""Ctrl-C, SIGTERM and a closed terminal: at once while a model runs, never in the middle of what is stored"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))


class Interrupts:
    """While entered, these signals wait for an ``exposed`` block, and raise KeyboardInterrupt there.

    One that is ignored (``nohup``) stays so. Only the main thread of a process receives signals; elsewhere
    this does nothing.
    """

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._exposed = False
        self._pending = False

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._before = {
                number: signal.signal(number, self._received)
                for number in _SIGNALS
                if signal.getsignal(number) != signal.SIG_IGN
            }
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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

    def _raise_pending(self) -> None:
        if self._pending:
            self._pending = False
            raise KeyboardInterrupt

    def _received(self, number: int, frame: FrameType | None) -> None:
        self._pending = True
        if self._exposed:
            self._raise_pending()
