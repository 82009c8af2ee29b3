"""How what takes long inside a trial, a measurement of power or a tuning, hears that it is to stop."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qslm_opt.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from qslm_opt.search.interrupts import Interrupts

STOP_SECONDS = 0.5
"""How often a measurement or a tuning looks whether somebody asked the study to stop."""


def now_and_then(stopping: Callable[[], bool]) -> Callable[[], bool]:
    """Return what asks ``stopping`` at most every ``STOP_SECONDS``, and says no in between."""
    looked = time.monotonic()

    def stop() -> bool:
        nonlocal looked
        if time.monotonic() - looked < STOP_SECONDS:
            return False
        looked = time.monotonic()
        return stopping()

    return stop


@dataclass(frozen=True)
class Stops:
    """What may end a run from outside: a request in the storage, a signal, a deadline."""

    asked: Callable[[], bool]
    """Whether the storage holds a request to stop the study."""
    interrupts: Interrupts

    def watch(self) -> Callable[[], bool]:
        """Return a ``stop`` for one tuning: True on a request; KeyboardInterrupt on a signal or deadline."""
        look = now_and_then(self._look)

        def stop() -> bool:
            self.interrupts.check()
            return look()

        return stop

    def _look(self) -> bool:
        """A storage that does not answer asks for nothing: what was computed so far is not thrown away."""
        with self.interrupts.shielded():
            try:
                return self.asked()
            except StorageError:
                return False
