"""Meters: power and energy over a window of time, or nothing at all.

A meter that cannot read returns ``None``, keeps the reason, and never raises while a model runs: a
missing watt must not cost a trial. What it returns was measured, never estimated.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Protocol

from qslm_opt.measure.sampling import Sample, summarize
from qslm_opt.results import PowerWindow

DEFAULT_RATE_HZ = 20.0
"""Samples per second that are asked for; the rate that was reached is in the PowerWindow."""


class Window(Protocol):
    """A stretch of time under measurement: enter it, run the work, leave it, ask for the result."""

    def __enter__(self) -> Window: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

    def result(self) -> PowerWindow | None:
        """Return what was measured, None where nothing could be; RuntimeError while the window is open."""
        ...


class Meter(Protocol):
    """Something that measures the power of one device."""

    @property
    def source(self) -> str:
        """``nvml``, ``rapl``, ``replay`` or ``null``."""
        ...

    @property
    def reason(self) -> str | None:
        """Why there is no reading, mostly followed by ``; `` and the fix; None while the meter works."""
        ...

    def window(self) -> Window:
        """Return a new window. Windows of one meter may overlap."""
        ...

    def measure_idle(self, seconds: float = 1.0) -> float | None:
        """Measure the device at rest for ``seconds``; return watts, kept as ``idle_w`` of later windows.

        Call it before the work starts: what runs on the device meanwhile counts.
        """
        ...

    def close(self) -> None:
        """Release the device. Windows opened later give None."""
        ...


class ClosedWindow:
    """A window whose result is known beforehand (null and replay)."""

    def __init__(self, outcome: PowerWindow | None) -> None:
        self._outcome = outcome
        self._left = False

    def __enter__(self) -> ClosedWindow:
        return self

    def __exit__(self, *_: object) -> None:
        self._left = True

    def result(self) -> PowerWindow | None:
        """Return the known result; RuntimeError before the window was left."""
        if not self._left:
            raise RuntimeError("the window is still open; leave its `with` block first")
        return self._outcome


class NullMeter:
    """No meter: every result is None, and ``reason`` says why."""

    source = "null"

    def __init__(self, reason: str = "no power meter was asked for") -> None:
        self.reason: str | None = reason

    def window(self) -> ClosedWindow:
        """Return a window without a result."""
        return ClosedWindow(None)

    def measure_idle(self, seconds: float = 1.0) -> None:
        """Return None at once."""
        return

    def close(self) -> None:
        """Do nothing."""


class ReplayMeter:
    """Plays recordings: the n-th window gives what the n-th recording measured."""

    source = "replay"

    def __init__(
        self,
        recordings: Iterable[Sequence[Sample]],
        *,
        idle: Sequence[Sample] | None = None,
        memory_bytes: int | None = None,
    ) -> None:
        """Take one recording of (seconds, watts) a window, and one of the device at rest."""
        self._recordings = iter([list(r) for r in recordings])
        self._idle = idle
        self._idle_w: float | None = None
        self._memory_bytes = memory_bytes
        self.reason: str | None = None

    def window(self) -> ClosedWindow:
        """Return the next recording's window; without a result when there is none left."""
        samples = next(self._recordings, None)
        if samples is None:
            self.reason = "the recording has ended; record more windows"
            return ClosedWindow(None)
        found = summarize(samples, source=self.source, idle_w=self._idle_w, memory_bytes=self._memory_bytes)
        self.reason = None if found else f"the recording has {len(samples)} samples; a window needs 2"
        return ClosedWindow(found)

    def measure_idle(self, seconds: float = 1.0) -> float | None:
        """Return the mean watts of the recording at rest; None when there is none."""
        rest = summarize(self._idle or (), source=self.source)
        self._idle_w = rest.mean_w if rest else None
        return self._idle_w

    def close(self) -> None:
        """Forget the recordings that are left."""
        self._recordings = iter([])


def open_meter(
    device: str,
    *,
    uuid: str | None = None,
    synchronize: Callable[[], None] | None = None,
    rate_hz: float = DEFAULT_RATE_HZ,
) -> Meter:
    """Return the meter of a torch device: NVML for ``cuda[:N]``, RAPL for ``cpu``, else a NullMeter.

    ``uuid`` (``str(torch.cuda.get_device_properties(device).uuid)``) names the GPU for certain where
    CUDA and NVML may count differently. ``synchronize`` (``torch.cuda.synchronize``) is called before
    a window opens and before it closes, so that the window holds the work and nothing else.
    """
    match = re.fullmatch(r"cuda(?::(\d+))?", device)
    if match:
        from qslm_opt.measure.nvml import open_nvml

        return open_nvml(int(match[1] or 0), uuid=uuid, synchronize=synchronize, rate_hz=rate_hz)
    if device == "cpu":
        from qslm_opt.measure.rapl import open_rapl

        return open_rapl(rate_hz=rate_hz)
    return NullMeter(f"no power meter is known for device {device!r}; NVML reads cuda, RAPL reads cpu")
