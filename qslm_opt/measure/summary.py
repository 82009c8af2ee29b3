"""What the readings of a window add up to: mean, spread, joules by integral and by counter, steadiness."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import pairwise
from math import fsum, isfinite, sqrt

from qslm_opt.measure.reading import Reading
from qslm_opt.results import PowerWindow

Point = tuple[float, float]
"""(seconds, value)."""

COUNTER_SECONDS = 2.0
"""Shortest window whose energy comes from a GPU's counter, which moves about ten times a second."""
STEADY_SAMPLES = 8
"""Fewer samples say nothing about steadiness."""
STEADY_DRIFT = 0.05
"""Most relative difference of mean power between a steady window's halves, and of its SM clock."""
AVERAGE_SECONDS = 1.0
"""What an ``average`` reading looks back on."""
_LIMITS = frozenset({
    "power cap", "hardware slowdown", "thermal", "hardware thermal", "power brake", "sync boost",
})  # fmt: skip
"""What slows a device down by itself; a clock that the user has set does not make power unsteady."""


class Recorded:
    """Readings as a window keeps them: 16 bytes each, however long it is open."""

    def __init__(self) -> None:
        self._at, self._watts = array("d"), array("d")
        self.ticks: list[Point] = []
        """(seconds, joules) at the first two readings and the last at which the energy counter had moved."""
        self.throttle: set[str] = set()
        self.clocks: tuple[int, int] | None = None
        """Lowest and highest SM clock in MHz."""
        self.memory_bytes: int | None = None
        self.temperature_c: float | None = None

    def add(self, reading: Reading) -> None:
        """Take one reading in."""
        sample, joules = reading.sample, reading.counter_j
        if sample.power_w is not None and isfinite(sample.power_w):
            self._at.append(sample.at)
            self._watts.append(sample.power_w)
        if joules is not None and (not self.ticks or joules > self.ticks[-1][1]):
            self.ticks[2:] = []
            self.ticks.append((sample.at, joules))
        self.throttle.update(sample.throttle)
        if sample.sm_clock_mhz is not None:
            low, high = self.clocks or (sample.sm_clock_mhz, sample.sm_clock_mhz)
            self.clocks = min(low, sample.sm_clock_mhz), max(high, sample.sm_clock_mhz)
        if sample.memory_bytes is not None:
            self.memory_bytes = sample.memory_bytes
        if sample.temperature_c is not None:
            self.temperature_c = sample.temperature_c

    def points(self, began: float, ended: float) -> list[Point]:
        """Return the (seconds, watts) from ``began`` to ``ended``."""
        return [point for point in zip(self._at, self._watts, strict=True) if began <= point[0] <= ended]


def summarize(
    recorded: Recorded, span: Point, *, source: str, domain: str, shared: str = ""
) -> PowerWindow | None:
    """Return the window of ``span`` (its begin and end); None below two samples or at 0 W.

    The mean is over time, the spread is the standard deviation of the samples. A ``counter`` domain has its
    mean and energy from the counter, and its span runs from the first to the last reading.
    """
    if domain == "counter":
        span = (recorded.ticks[0][0], recorded.ticks[-1][0]) if recorded.ticks else span
    points, seconds = recorded.points(*span), span[1] - span[0]
    if domain == "counter":
        points = [point for point in points if point[0] > span[0]]  # the first step began before the window
    if seconds <= 0 or len(points) < (1 if domain == "counter" else 2):
        return None
    counter = _counter(recorded.ticks, points, span, domain)
    integral = None if domain == "counter" else integrate(points, *span)
    energy = counter if counter is not None else integral
    centre = (energy if integral is None else integral) or 0.0
    if energy is None or centre <= 0:  # a running device draws power: a meter that says 0 does not measure
        return None
    steady, why = steadiness(points, seconds, recorded, domain, shared)
    return PowerWindow(
        source=source, samples=len(points), rate_hz=len(points) / seconds, mean_w=centre / seconds,
        std_w=spread(points), energy_j=energy, memory_bytes=recorded.memory_bytes, seconds=seconds,
        counter_j=counter, integral_j=integral, began=span[0], ended=span[1], domain=domain, steady=steady,
        steady_reason=why, temperature_c=recorded.temperature_c, throttle=tuple(sorted(recorded.throttle)),
    )  # fmt: skip


def spread(points: Sequence[Point]) -> float:
    """Return the standard deviation of the watts of ``points``."""
    centre = fsum(w for _, w in points) / len(points)
    return sqrt(fsum((w - centre) ** 2 for _, w in points) / len(points))


def integrate(points: Sequence[Point], began: float, ended: float) -> float:
    """Return the integral of (seconds, watts) from ``began`` to ``ended`` in joules, by trapezoids.

    The first and the last point stand for what is outside them.
    """
    if ended <= began:
        return 0.0
    inside = [point for point in points if began < point[0] < ended]
    whole = [(began, _at(points, began)), *inside, (ended, _at(points, ended))]
    return fsum((t1 - t0) * (w0 + w1) / 2 for (t0, w0), (t1, w1) in pairwise(whole))


def _at(points: Sequence[Point], moment: float) -> float:
    """Return the watts at a moment, on the line between its neighbours."""
    before = [point for point in points if point[0] <= moment]
    after = [point for point in points if point[0] >= moment]
    if not before or not after:
        return (after[0] if after else before[-1])[1]
    (t0, w0), (t1, w1) = before[-1], after[0]
    return w0 if t1 <= t0 else w0 + (w1 - w0) * (moment - t0) / (t1 - t0)


def _counter(
    ticks: Sequence[Point], points: Sequence[Point], span: Point, domain: str
) -> float | None:
    """Return the joules by the counter; None where the window is too short for it.

    Between the counter's first and last move the difference is exact. What is outside them, at most a move
    at each end, comes from the samples.
    """
    if len(ticks) < 2:
        return None
    (first, low), (last, high) = ticks[0], ticks[-1]
    if domain == "counter":
        return high - low
    if span[1] - span[0] < COUNTER_SECONDS:
        return None
    # The first reading says where the counter stands, not that it has just moved.
    first, low = ticks[1] if len(ticks) > 2 else ticks[0]
    if last - first < (span[1] - span[0]) / 2:
        return None
    return high - low + integrate(points, span[0], first) + integrate(points, last, span[1])


def steadiness(
    points: Sequence[Point], seconds: float, recorded: Recorded, domain: str, shared: str
) -> tuple[bool | None, str]:
    """Return whether power stayed where it was, and why; None where that cannot be told."""
    if shared:
        return None, shared
    if len(points) < STEADY_SAMPLES:
        return None, f"{len(points)} samples are too few, {STEADY_SAMPLES} are needed"
    if domain == "average" and seconds < 2 * AVERAGE_SECONDS:
        return None, f"samples are averages over {AVERAGE_SECONDS:g} s, too long for {seconds:.1f} s"
    causes = _causes(points, recorded)
    halves = f"the halves differ by {100 * drift(points):.1f} %"
    return (False, "; ".join(causes)) if causes else (True, halves)


def drift(points: Sequence[Point]) -> float:
    """Return the relative difference between the mean watts of the second and of the first half."""
    middle = len(points) // 2
    first = fsum(w for _, w in points[:middle]) / middle
    second = fsum(w for _, w in points[middle:]) / (len(points) - middle)
    return second / first - 1 if first > 0 else float("inf")


def _causes(points: Sequence[Point], recorded: Recorded) -> list[str]:
    """Return what makes a window unsteady, in words."""
    causes, moved = [], drift(points)
    limits = sorted(recorded.throttle & _LIMITS)
    if limits:
        causes.append(f"clocks were limited: {', '.join(limits)}")
    if recorded.clocks and recorded.clocks[0] < (1 - STEADY_DRIFT) * recorded.clocks[1]:
        causes.append("the SM clock went between {} and {} MHz".format(*recorded.clocks))
    if abs(moved) > STEADY_DRIFT:
        causes.append(f"the second half drew {100 * moved:+.1f} %")
    return causes
