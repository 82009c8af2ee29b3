"""Power as the dashboard shows it: what was wanted of the recording, what was read, and how old it is.

No Textual. Times are seconds since 1970.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tui.text import number_text, state_role, state_sign
from tui.times import seconds_of

if TYPE_CHECKING:
    from qslm_opt.results import PowerDevice, PowerSample, PowerWindow, TrialRecord

STALE_INTERVALS = 3
SLOWEST_SECONDS = 2.0
"""Samples reach the storage in batches, and the dashboard looks twice a second: the interval of a lane is
never taken for shorter than this."""


@dataclass(frozen=True)
class PowerSpan:
    """Which part of the recording is wanted."""

    seconds: float = 120.0
    end: float | None = None
    """None follows the newest sample."""
    points: int = 240
    """Samples a device at most; what is longer is thinned by means."""


@dataclass(frozen=True)
class Power:
    """Devices of a study with the samples of one span of time."""

    devices: tuple[PowerDevice, ...] = ()
    samples: Mapping[str, tuple[PowerSample, ...]] = field(default_factory=dict)
    """Device id → samples in order of time."""
    since: float = 0.0
    until: float = 0.0
    following: bool = True
    """Whether ``until`` is the newest there is."""
    windows: Mapping[str, PowerWindow] = field(default_factory=dict)
    """Trial UUID → its window."""

    @property
    def newest(self) -> float | None:
        """Time of the newest sample of all devices in the span."""
        return max((kept[-1].at for kept in self.samples.values() if kept), default=None)

    def lanes(self) -> list[PowerLane]:
        """Return the devices that are or were read, in their order; those without a meter are not among them.

        Several processes on one device, at once or one after the other, share its lane. A device of
        which the span has no sample is left out where others have some.
        """
        found: dict[tuple[str, object], PowerLane] = {}
        for device in self.devices:
            if has_meter(device):
                place, samples = lane_place(device), self.samples.get(device.id, ())
                before = found.get(place)
                if before is not None:
                    newest = max(before.device, device, key=lambda d: d.started)
                    joined = sorted((*before.samples, *samples), key=lambda s: s.at)
                    found[place] = PowerLane(newest, joined)
                else:
                    found[place] = PowerLane(device, samples)
        lanes = list(found.values())
        return [lane for lane in lanes if lane.samples] or lanes

    def why_not(self) -> str:
        """Return why nothing is shown, in words; empty where a lane is."""
        if any(device.reason is None or self.samples.get(device.id) for device in self.devices):
            return ""
        reasons = dict.fromkeys(device.reason for device in self.devices if device.reason)
        return "power n/a: " + ("; ".join(reasons) or "no process has looked for a meter yet")


def has_meter(device: PowerDevice) -> bool:
    """Return whether the device is read, or was until it failed."""
    return device.source != "null"


def lane_place(device: PowerDevice) -> tuple[str, object]:
    """Return what is the same for all processes on one device."""
    return device.host, device.device if device.index is None else device.index


@dataclass(frozen=True)
class PowerLane:
    """One device with its samples."""

    device: PowerDevice
    samples: Sequence[PowerSample]

    @property
    def interval(self) -> float:
        """Seconds between two looks at the device, as the dashboard can tell."""
        rate = self.device.rate_hz
        return max(1 / rate if rate else 0.0, SLOWEST_SECONDS)

    @property
    def last(self) -> PowerSample | None:
        """The newest sample."""
        return self.samples[-1] if self.samples else None

    def stale_seconds(self, now: float) -> float | None:
        """Return the age of the newest sample when it is older than three intervals, else None."""
        if self.last is None:
            return None
        age = now - self.last.at
        return age if age > STALE_INTERVALS * self.interval else None

    @property
    def title(self) -> str:
        """Number and name: ``GPU 0 NVIDIA H200``, or what the host calls it; and why it is not read now."""
        index = self.device.index
        kind = "GPU" if self.device.source in ("nvml", "replay") else self.device.source.upper()
        why = f"({self.device.reason})" if self.device.reason else ""
        return " ".join(filter(None, (kind, "" if index is None else str(index), self.device.name, why)))

    def mean_w(self) -> float | None:
        """Return the mean power of the span."""
        known = [s.power_w for s in self.samples if s.power_w is not None]
        return sum(known) / len(known) if known else None


@dataclass(frozen=True)
class Mark:
    """A trial on the time axis."""

    number: int
    sign: str
    role: str
    began: float
    ended: float | None
    """None while it runs."""


def marks_of(trials: Iterable[TrialRecord], since: float, until: float) -> list[Mark]:
    """Return the trials that ran between two times, oldest first; ``trials`` come newest first.

    The search of the past ends at the first trial that was over long before ``since``: trials of several
    workers overlap, so one that ended earlier may stand among those that are wanted.
    """
    found: list[Mark] = []
    missed = 0
    if until <= since:
        return found
    for trial in trials:
        began, ended = seconds_of(trial.started), seconds_of(trial.finished)
        if began is None or began > until:
            continue
        if ended is not None and ended < since:
            missed += 1
            if missed > _LOOK_BACK:
                break
            continue
        found.append(Mark(trial.number, state_sign(trial), state_role(trial), began, ended))
    return sorted(found, key=lambda mark: mark.began)


_LOOK_BACK = 64


def watts(value: float | None) -> str:
    """Return ``612 W``, or ``n/a``."""
    return "n/a" if value is None else f"{number_text(value)} W"
