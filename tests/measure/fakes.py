"""A device and a clock that stand still until a test moves them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from qslm_opt.measure.reading import Clock, Reading, Source
from qslm_opt.measure.sampled import SampledMeter
from qslm_opt.results import PowerDevice, PowerSample


class FakeSource:
    """Says what ``says`` says; an exception there is raised."""

    name, domain, quick, shared, board = "nvml", "instant", False, "", "GPU-1"

    def __init__(self, **says: Any) -> None:
        self.says: dict[str, Any] = {"power_w": 300.0, **says}
        self.counter_j: float | None = None
        self.error: Exception | None = None
        self.closed = self.described = 0
        self.facts: dict[str, Any] = {"name": "Fake", "limit_w": 700.0, "memory_bytes": 2**37}

    def describe(self) -> PowerDevice:
        self.described += 1
        return PowerDevice("", "", "", 0, "cuda:0", **self.facts)

    def read(self, clock: Clock) -> Reading:
        if self.error is not None:
            raise self.error
        return Reading(PowerSample(clock(), **self.says), self.counter_j)

    def close(self) -> None:
        self.closed += 1


class Bench:
    """A meter on a fake source, driven by hand: time passes only in ``go``."""

    def __init__(self, source: Source | None = None, **options: Any) -> None:
        self.now = 1000.0
        self.source: Any = source or FakeSource()
        self.meter = SampledMeter(self.source, clock=lambda: self.now, thread=False, **options)
        self.meter.pause = self.go

    def go(
        self, seconds: float, period: float = 0.1, watts: Callable[[float], float] | None = None
    ) -> None:
        """Let time pass with a reading in every period; ``watts`` of the seconds since the start."""
        began = self.now
        for step in range(1, round(seconds / period) + 1):
            self.now = began + step * period
            if watts is not None:
                self.source.says["power_w"] = watts(self.now - began)
            self.meter.step()
        self.now = began + seconds

    def sample(self, **says: Any) -> PowerSample:
        """A sample of this moment."""
        return replace(PowerSample(self.now), **says)
