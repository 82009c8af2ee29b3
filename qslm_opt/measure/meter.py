"""Meters: power and energy over a window of time, or nothing at all.

A meter that cannot read returns ``None``, keeps the reason, and never raises while a model runs: a
missing watt must not cost a trial. What it returns was measured, never estimated.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Protocol

from qslm_opt.errors import UsageError
from qslm_opt.results import PowerDevice, PowerSample, PowerWindow

DEFAULT_RATE_HZ = 20.0
"""Samples per second that are asked for; the rate that was reached is in the PowerWindow."""
ENVIRONMENT_KEY = "QSLM_OPT_METER"
"""``off``, or ``replay:FILE``: plays a recording in place of the device's own meter."""

Listener = Callable[[PowerSample], None]
"""Told of every sample, in the meter's thread; must not wait and must not raise."""


class Window(Protocol):
    """A stretch of time under measurement: enter it, run the work, leave it, ask for the result."""

    def __enter__(self) -> Window: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

    @property
    def seconds(self) -> float:
        """How long the window has been open, or was."""
        ...

    def result(
        self, *, items: int | None = None, repeats: int = 1, run_items: int | None = None
    ) -> PowerWindow | None:
        """Return what was measured, None where nothing could be; RuntimeError while the window is open.

        ``items`` tokens or sentences and ``repeats`` runs of ``run_items`` each, if whole, were inside it.
        """
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

    @property
    def board(self) -> str | None:
        """Names the physical device whose power is read; None without one."""
        ...

    def window(self) -> Window:
        """Return a new window. Windows of one meter may overlap."""
        ...

    def measure_idle(self, seconds: float = 1.0) -> float | None:
        """Measure the device at rest for ``seconds``; return watts, kept as ``idle_w`` of later windows.

        Call it before the work starts: what runs on the device meanwhile counts.
        """
        ...

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Tell ``listener`` of every sample from now on; return the call that ends this."""
        ...

    def describe(self) -> PowerDevice:
        """Return what is measured, with rest, rate and reason so far; id, study and process are blank.

        Asks no device: the facts are those of the meter's begin, also after the device was lost.
        """
        ...

    def close(self) -> None:
        """Release the device. Windows opened later give None."""
        ...


class _NoWindow:
    """The window of a meter that measures nothing."""

    seconds = 0.0

    def __init__(self) -> None:
        self._left = False

    def __enter__(self) -> _NoWindow:
        return self

    def __exit__(self, *_: object) -> None:
        self._left = True

    def result(
        self, *, items: int | None = None, repeats: int = 1, run_items: int | None = None
    ) -> None:
        """Return None; RuntimeError before the window was left."""
        if not self._left:
            raise RuntimeError("the window is still open; leave its `with` block first")


class NullMeter:
    """No meter: every result is None, and ``reason`` says why."""

    source = "null"
    board: str | None = None

    def __init__(self, reason: str = "no power meter was asked for", device: str = "cpu") -> None:
        self.reason: str | None = reason
        self._device = device

    def window(self) -> _NoWindow:
        """Return a window without a result."""
        return _NoWindow()

    def measure_idle(self, seconds: float = 1.0) -> None:
        """Return None at once."""
        return

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Tell nothing, ever."""
        return lambda: None

    def describe(self) -> PowerDevice:
        """Return a device that says why it is not read."""
        return PowerDevice("", "", "", 0, self._device, reason=self.reason)

    def close(self) -> None:
        """Do nothing."""


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
    a window opens and before it closes, so that the window holds the work and nothing else. The
    environment's QSLM_OPT_METER wins: ``off``, or ``replay:FILE``; UsageError for anything else in it.
    """
    chosen = os.environ.get(ENVIRONMENT_KEY, "")
    if chosen:
        return _chosen(chosen, device, synchronize, rate_hz)
    match = re.fullmatch(r"cuda(?::(\d+))?", device)
    if match:
        from qslm_opt.measure.nvml import open_nvml

        return open_nvml(int(match[1] or 0), uuid=uuid, synchronize=synchronize, rate_hz=rate_hz)
    if device == "cpu":
        from qslm_opt.measure.rapl import open_rapl

        return open_rapl(rate_hz=rate_hz)
    why = f"no power meter is known for device {device!r}; NVML reads cuda, RAPL reads cpu"
    return NullMeter(why, device)


def _chosen(
    text: str, device: str, synchronize: Callable[[], None] | None, rate_hz: float
) -> Meter:
    kind, _, rest = text.partition(":")
    if text == "off":
        return NullMeter(f"{ENVIRONMENT_KEY} is off; unset it to measure", device)
    if kind == "replay" and rest:
        from qslm_opt.measure.replay import open_replay

        return open_replay(Path(rest), device, synchronize=synchronize, rate_hz=rate_hz)
    raise UsageError(
        f"{ENVIRONMENT_KEY} is {text!r}; write replay:FILE (play a recording) or off, or unset it."
    )
