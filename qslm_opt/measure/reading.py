"""What a meter's source says of a device, and the steady clock that stamps it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from qslm_opt.results import PowerDevice, PowerSample

Clock = Callable[[], float]
"""Seconds since 1970 that never jump."""


def steady_clock() -> Clock:
    """Return a clock that is set once, now, and then runs with the machine's monotonic one."""
    ahead = time.time() - time.perf_counter()
    return lambda: ahead + time.perf_counter()


@dataclass(frozen=True)
class Reading:
    """One answer of a source."""

    sample: PowerSample
    counter_j: float | None = None
    """The energy counter in joules from any start; None where there is none."""


class Source(Protocol):
    """Reads one device. Called from one thread at a time."""

    name: str
    """``nvml``, ``rapl`` or ``replay``."""
    domain: str
    """What the watts are: ``instant``, ``average`` over a second, or ``counter``: since the last reading."""
    quick: bool
    """Whether an answer costs the work nothing, so that a window may wait for one at each end."""
    shared: str
    """Whose watts are read besides the device's own, in words; empty when nobody's."""
    board: str
    """Names the physical device among all of this machine's."""

    def describe(self) -> PowerDevice:
        """Return what the device is; study, host, process and rest are not filled in."""
        ...

    def read(self, clock: Clock) -> Reading:
        """Ask the device; raise any exception when it does not answer."""
        ...

    def close(self) -> None:
        """Release the device."""
        ...
