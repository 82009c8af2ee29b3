"""Predicted losses: what was measured around a working point, and what follows for levels further away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from qslm_opt.formats import Bits

_LEAST = 1e-9
"""Least rise of the loss with the damage: fewer bits than were measured are never free."""


def distortion(bits: Bits) -> float:
    """Return the squared error of a uniform quantizer of so many bits, up to a factor."""
    return float(4.0 ** -float(bits))


def curve(levels: Sequence[Bits], losses: Mapping[Bits, float]) -> dict[Bits, float]:
    """Return for each level how much damage it does, up to a constant: the loss of the uniform level.

    Made to rise as the bits fall. Levels that were not measured follow from the nearest two that were, in
    proportion to the squared error; where there are not two, the squared error itself is the damage.
    """
    known: dict[Bits, float] = {}
    for bits in sorted((b for b in levels if b in losses), reverse=True):
        known[bits] = max(losses[bits], *(value + _LEAST for value in known.values()), losses[bits])
    if len(known) < 2:
        return {bits: distortion(bits) for bits in levels}
    return {bits: known[bits] if bits in known else _beyond(bits, known) for bits in levels}


def _beyond(bits: Bits, known: Mapping[Bits, float]) -> float:
    near, other = sorted(known, key=lambda level: (abs(level - bits), level))[:2]
    rate = (known[near] - known[other]) / (distortion(near) - distortion(other))
    return known[near] + rate * (distortion(bits) - distortion(near))


@dataclass(frozen=True)
class Sensitivities:
    """For each unit its level at the working point, and the change of the loss at the levels measured."""

    point: tuple[Bits, ...]
    """Level of each unit."""
    damage: Mapping[Bits, float]
    """See ``curve``."""
    changes: Mapping[tuple[int, Bits], float] = field(default_factory=dict)
    """(unit, level) → change of the mean loss when that unit alone has that level."""

    def measured(self, unit: int, changes: Mapping[Bits, float], level: Bits) -> Sensitivities:
        """Return a copy with what was found of one unit around ``level``, in place of what was known."""
        point = (*self.point[:unit], level, *self.point[unit + 1 :])
        kept = {key: value for key, value in self.changes.items() if key[0] != unit}
        return replace(self, point=point, changes={**kept, **{(unit, b): c for b, c in changes.items()}})

    def predict(self, unit: int, bits: Bits) -> float:
        """Return the change of the loss when ``unit`` alone has ``bits``, measured or extrapolated.

        From the measured level nearest to ``bits`` (on its side of the working point, where there is one), in
        proportion to the damage that these levels do to the whole network.
        """
        here = self.point[unit]
        if bits == here:
            return 0.0
        known = self.changes.get((unit, bits))
        if known is not None:
            return known
        return self._rate(unit, bits, here) * (self.damage[bits] - self.damage[here])

    def _rate(self, unit: int, bits: Bits, here: Bits) -> float:
        found = [(level, change) for (u, level), change in self.changes.items() if u == unit]
        side = [pair for pair in found if (pair[0] < here) == (bits < here)] or found
        if not side:
            return 1.0
        level, change = min(side, key=lambda pair: (abs(pair[0] - bits), pair[0]))
        return max(_LEAST, change / (self.damage[level] - self.damage[here]))

    def trusted(self, unit: int, levels: Sequence[Bits]) -> tuple[Bits, ...]:
        """Return those of ``levels`` (descending) that a prediction may use.

        The working point's, those measured, and one further down: what noise says of more bits is ignored.
        """
        near = [i for i, b in enumerate(levels) if b == self.point[unit] or (unit, b) in self.changes]
        return tuple(levels[min(near) : max(near) + 2]) if near else tuple(levels)
