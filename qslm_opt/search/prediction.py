"""Predicted losses: what was measured around a working point, and what follows for levels further away."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from qslm_opt.formats import Bits

_LEAST = 1e-9
"""Rise of the loss per unit of distortion where none was measured: fewer bits are never free."""


def distortion(bits: Bits) -> float:
    """Return the squared error of a uniform quantizer of so many bits, up to a factor."""
    return float(4.0 ** -float(bits))


@dataclass(frozen=True)
class Sensitivities:
    """For each unit its level at the working point, and the change of the loss at the levels measured."""

    point: tuple[Bits, ...]
    """Level of each unit."""
    changes: Mapping[tuple[int, Bits], float] = field(default_factory=dict)
    """(unit, level) → change of the mean loss when that unit alone has that level."""

    def measured(self, unit: int, changes: Mapping[Bits, float], level: Bits) -> Sensitivities:
        """Return a copy with what was found of one unit around ``level``, in place of what was known."""
        point = (*self.point[:unit], level, *self.point[unit + 1 :])
        kept = {key: value for key, value in self.changes.items() if key[0] != unit}
        return replace(self, point=point, changes={**kept, **{(unit, b): c for b, c in changes.items()}})

    def predict(self, unit: int, bits: Bits) -> float:
        """Return the change of the loss when ``unit`` alone has ``bits``, measured or extrapolated.

        From the measured level nearest to ``bits`` (on its side of the working point, where there is one) in
        proportion to the quantizer's squared error, which falls fourfold with every bit.
        """
        here = self.point[unit]
        if bits == here:
            return 0.0
        known = self.changes.get((unit, bits))
        if known is not None:
            return known
        rise = distortion(bits) - distortion(here)
        return self._rate(unit, bits, here) * rise

    def _rate(self, unit: int, bits: Bits, here: Bits) -> float:
        found = [(level, change) for (u, level), change in self.changes.items() if u == unit]
        side = [pair for pair in found if (pair[0] < here) == (bits < here)] or found
        if not side:
            return 1.0
        level, change = min(side, key=lambda pair: (abs(pair[0] - bits), pair[0]))
        return max(_LEAST, change / (distortion(level) - distortion(here)))
