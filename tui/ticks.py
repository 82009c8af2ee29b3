"""Round values for the axes of a plot."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import floor, log10


def linear_ticks(low: float, high: float, wanted: int) -> list[float]:
    """Return round values inside the range, about ``wanted`` of them, from high to low."""
    rough = (high - low) / max(1, wanted)
    size = 10.0 ** floor(log10(rough))
    size *= next(m for m in (1, 2, 5, 10) if m * size >= rough * 0.999)
    first = -floor(-low / size - 1e-9)
    values = [i * size for i in range(first, floor(high / size + 1e-9) + 1)]
    return values[::-1] or [(low + high) / 2]


def tick_label(value: float, ticks: Sequence[float], percent: bool) -> str:
    """Return a value with as many places as its neighbours need to differ."""
    gap = abs(ticks[0] - ticks[1]) if len(ticks) > 1 else abs(value) or 1.0
    scale = 100.0 if percent else 1.0
    places = max(0, -floor(log10(gap * scale) + 1e-9))
    return f"{value * scale:.{min(places, 6)}f}"


def byte_ticks(low: float, high: float, wanted: int) -> Iterable[float]:
    """Return round byte sizes for a logarithmic axis: the coarsest set that has enough of them."""
    if high < 6 * low:
        return linear_ticks(low, high, wanted + 2)[::-1]
    found: list[float] = []
    for mantissas in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
        decades = range(floor(log10(low)), floor(log10(high)) + 1)
        found = [m * 10.0**d for d in decades for m in mantissas if low <= m * 10.0**d <= high]
        if len(found) >= wanted:
            break
    return found
