"""Recordings of power as JSON lines, and the meter that plays one in place of a device.

A line ``{"device": {…}}`` says what is measured, each other one is a sample with ``at`` in seconds and what
was read then; where there are several devices, also the ``device``'s name.
``qslm-opt power watch --json`` and ``qslm-opt power recording`` write this form.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from math import isfinite
from pathlib import Path
from typing import Any

from qslm_opt.errors import UsageError
from qslm_opt.measure.meter import DEFAULT_RATE_HZ
from qslm_opt.measure.reading import Clock, Reading
from qslm_opt.measure.sampled import SampledMeter
from qslm_opt.results import PowerDevice, PowerSample

_SHOWN = ("device", "index", "name", "source", "limit_w", "memory_bytes", "idle_w", "idle_std_w", "rate_hz")


class ReplaySource:
    """Plays samples from the moment of its first reading, at their own pace, and again from the start."""

    name, domain, quick, shared = "replay", "instant", False, ""

    def __init__(self, samples: Sequence[PowerSample], device: PowerDevice) -> None:
        """Take at least one sample, in order of time."""
        self._samples, self._described = samples, device
        self._length = samples[-1].at - samples[0].at
        self._began: float | None = None
        self._place = 0
        self.board = f"replay of {device.device}"

    def describe(self) -> PowerDevice:
        """Return the device of the recording, under the name of the one that it stands for."""
        return self._described

    def read(self, clock: Clock) -> Reading:
        """Return what the recording says of this moment: the last sample until then."""
        at = clock()
        self._began = at if self._began is None else self._began
        passed = (at - self._began) % self._length if self._length > 0 else 0.0
        moment = self._samples[0].at + passed
        if self._samples[self._place].at > moment:
            self._place = 0
        while self._place + 1 < len(self._samples) and self._samples[self._place + 1].at <= moment:
            self._place += 1
        return Reading(replace(self._samples[self._place], at=at))

    def close(self) -> None:
        """Do nothing."""


def open_replay(
    path: Path,
    device: str,
    *,
    synchronize: Callable[[], None] | None = None,
    rate_hz: float = DEFAULT_RATE_HZ,
) -> SampledMeter:
    """Return a meter that plays the recording in ``path`` for ``device``; UsageError when it cannot."""
    recorded, samples = read_recording(path, device)
    source = ReplaySource(samples, replace(recorded, device=device))
    return SampledMeter(source, rate_hz=rate_hz, synchronize=synchronize)


def read_recording(path: Path, wanted: str = "") -> tuple[PowerDevice, list[PowerSample]]:
    """Return the device and the samples of a recording, in order of time; UsageError with the line.

    Of several devices in it, ``wanted``, or the first where that is not among them.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"recording {str(path)!r} cannot be read: {error}; 'qslm-opt power watch --json' makes one."
        ) from None
    devices: dict[str, PowerDevice] = {}
    samples: dict[str, list[PowerSample]] = {}
    last = "cpu"
    for number, line in enumerate(lines, start=1):
        try:
            value = json.loads(line) if line.strip() else None
            if value and "device" in value and "at" not in value:
                found = _device(value["device"])
                last = found.device
                devices.setdefault(last, found)
            elif value:
                samples.setdefault(value.get("device", last), []).append(_sample(value))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UsageError(f"recording {str(path)!r}, line {number} is no sample: {error}.") from None
    if not samples:
        raise UsageError(f"recording {str(path)!r} has no samples; record some with power watch --json.")
    chosen = wanted if wanted in samples else next(iter(samples))
    device = devices.get(chosen) or PowerDevice("", "", "", 0, chosen)
    return device, sorted(samples[chosen], key=lambda sample: sample.at)


def recording_lines(device: PowerDevice, samples: Iterable[PowerSample]) -> Iterable[str]:
    """Yield the lines of a recording."""
    yield json.dumps({"device": {name: getattr(device, name) for name in _SHOWN}})
    for sample in samples:
        yield json.dumps(asdict(sample), separators=(",", ":"))


def _device(value: Mapping[str, Any]) -> PowerDevice:
    return PowerDevice("", "", "", 0, **{name: value[name] for name in _SHOWN if name in value})


def _sample(value: Mapping[str, Any]) -> PowerSample:
    known = {field.name: value[field.name] for field in fields(PowerSample) if field.name in value}
    numbers = [known["at"], *([known["power_w"]] if known.get("power_w") is not None else [])]
    if not all(isinstance(number, (int, float)) and isfinite(number) for number in numbers):
        raise ValueError(f"at and power_w are {numbers}, not finite numbers")
    return PowerSample(**{**known, "throttle": tuple(known.get("throttle", ()))})
