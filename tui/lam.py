"""λ as something to turn: steps, the scale of its ruler, and the parts of the ruler that each winner holds.

A fine step moves the second significant digit of λ, a coarse one the first, so that the same keys suit an
accuracy (λ near 0.2) and a perplexity (λ near 20).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import expm1, floor, isfinite, log1p, log10
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qslm_opt.results import TrialRecord

Winners = Sequence[tuple[float, float, "TrialRecord"]]
_SMALLEST = 1e-6


def step(lam: float, up: bool, coarse: bool) -> float:
    """Return λ one step on; 0 is the floor, and the first step up from it is 0.001 (coarse 0.01)."""
    if lam < _SMALLEST:
        return (0.01 if coarse else 0.001) if up else 0.0
    power = floor(log10(lam) + 1e-12)
    size = 10.0 ** (power if coarse else power - 1)
    if not up and lam <= 10.0**power * (1 + 1e-9):
        size /= 10
    count = lam / size
    whole = floor(count + 1e-9)
    exact = abs(count - round(count)) < 1e-6
    steps = (round(count) if exact else whole) + 1 if up else (round(count) - 1 if exact else whole)
    value = float(f"{steps * size:.6g}")
    return value if value >= 0.0005 else 0.0


def next_winner(winners: Winners, lam: float) -> float | None:
    """Return a λ inside the next winner's interval, the first one's after the last; None without two."""
    parts = [(low, high) for low, high, _ in winners if high > low]
    if len(parts) < 2:
        return None
    low, high = next(((a, b) for a, b in parts if a > lam or (a == lam and a > 0)), parts[0])
    return inside(low, high)


def inside(low: float, high: float) -> float:
    """Return a round number well inside an interval of λ."""
    middle = (low + high) / 2 if isfinite(high) else max(low * 1.5, low + 0.001)
    for digits in range(1, 7):
        value = float(f"{middle:.{digits}g}")
        if low < value < high:
            return value
    return middle


@dataclass(frozen=True)
class Scale:
    """Maps λ in 0 … ``top`` to 0 … 1: linear, or logarithmic above ``knee`` when winners span decades."""

    top: float
    knee: float | None = None

    @classmethod
    def of(cls, winners: Winners, *also: float) -> Scale:
        """Return the scale that shows every winner's interval and the given λs."""
        edges = [low for low, _, _ in winners if low > 0]
        top = 1.25 * max([*edges, *also, 0.004])
        top = _round_up(top)
        smallest = min(edges, default=top)
        return cls(top, smallest if top / smallest > 20 else None)

    def place(self, lam: float) -> float:
        """Return where λ lies, 0 … 1."""
        lam = min(max(lam, 0.0), self.top)
        if self.knee is None:
            return lam / self.top
        return log1p(lam / self.knee) / log1p(self.top / self.knee)

    def value(self, place: float) -> float:
        """Return the λ at a place in 0 … 1."""
        place = min(max(place, 0.0), 1.0)
        if self.knee is None:
            return place * self.top
        return self.knee * expm1(place * log1p(self.top / self.knee))


def _round_up(value: float) -> float:
    size = 10.0 ** floor(log10(value))
    return next(
        float(f"{m * size:.6g}") for m in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if m * size >= value * (1 - 1e-9)
    )
