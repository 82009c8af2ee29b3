"""Ranking of measured settings: Eq. 1, the λ envelope and the Pareto front. Pure, exact.

Eq. 1 of the paper, r = m_q / m_o::

    classification   S = A   − λ r    maximize
    generation       S = PPL + λ r    minimize

With a = A or −PPL every setting is a line a − λ r, and the winners over all λ are the upper hull of those
lines. Metrics and λ are binary fractions and bytes are integers, so every comparison here is one of whole
numbers: no rounding decides a rank. Ties go to fewer bytes, then to the lower trial number.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import inf, isfinite, lcm, nextafter
from typing import TYPE_CHECKING

from qslm_opt.errors import UsageError

if TYPE_CHECKING:
    from qslm_opt.results import TrialRecord


CONFIRMED = 16
"""Candidates that are measured on held-back data, at most."""


@dataclass(frozen=True)
class Ranked:
    """A trial with its place at one λ."""

    record: TrialRecord
    score: float
    """S of Eq. 1."""
    rank: int
    """1 is the best."""
    interval: tuple[float, float] | None
    """It wins for λ from the first up to, not including, the second (may be inf); None: for no λ."""


def score(metric: str, value: float, ratio: float, lam: float) -> float:
    """Return S of Eq. 1 for a metric ``value`` and the memory ratio m_q / m_o."""
    return value - lam * ratio if metric == "accuracy" else value + lam * ratio


def rank(trials: Sequence[TrialRecord], metric: str, lam: float, feasible_only: bool = True) -> list[Ranked]:
    """Return the measured trials of one study, best first at ``lam``; see ``Ranking``."""
    return Ranking(trials, metric, feasible_only).at(lam)


def envelope(trials: Sequence[TrialRecord], metric: str) -> list[tuple[float, float, TrialRecord]]:
    """Return (low, high, winner) by rising λ over [0, inf): the winner holds for low ≤ λ < high.

    The bounds are floats rounded up, so they are right for every float λ.
    """
    return Ranking(trials, metric).envelope


def pareto(trials: Sequence[TrialRecord], metric: str) -> list[TrialRecord]:
    """Return the candidates that no other beats in metric or bytes without losing in the other.

    By rising bytes, which is also from the worst metric to the best.
    """
    ranking = Ranking(trials, metric)
    return [ranking.records[i] for i in ranking.front]


def to_confirm(trials: Sequence[TrialRecord], metric: str, lam: float) -> list[TrialRecord]:
    """Return the candidates to measure on held-back data: the winner at ``lam``, then the Pareto front.

    At most ``CONFIRMED``, by rising bytes; of a longer front the smallest, the largest and evenly spaced ones
    between them. What they are depends on the trials alone.
    """
    ranking = Ranking(trials, metric)
    front = [ranking.records[i] for i in ranking.front]
    best = [entry.record for entry in ranking.at(lam, 1)]
    rest = [record for record in front if record not in best]
    room = CONFIRMED - len(best)
    if len(rest) > room:
        rest = [rest[place * (len(rest) - 1) // (room - 1)] for place in range(room)]
    return [*best, *rest]


def closest(trials: Sequence[TrialRecord]) -> TrialRecord | None:
    """Return what came closest to both bounds when nothing met them; None without any verdict.

    The smallest sum of relative violations wins; a full measurement goes before a run that was stopped
    (its violation is a lower bound), and that before a setting whose model never ran.
    """
    ended = (t for t in trials if t.state in ("complete", "pruned") and not t.cheap)
    judged = [t for t in ended if t.slack and not t.extra]
    meant = [t for t in judged if t.tier != "sensitivity"]  # that tier leaves all but one block in float32
    return min(meant or judged, key=_distance, default=None)


def violation(record: TrialRecord) -> float:
    """Return the sum of the relative violations of both constraints; 0 when both are met."""
    return sum(max(0.0, slack) for slack in record.slack.values())


def hypervolume(points: Iterable[tuple[float, float]], reference: tuple[float, float]) -> float:
    """Return the share of the box from 0 to ``reference`` that is dominated, 0..1; both axes are minimized.

    A point outside of the box dominates nothing of it; the reference is positive.
    """
    height, width = reference
    if not (height > 0 and width > 0):
        raise UsageError(f"the reference point {reference} must be above 0 in both directions.")
    inside = sorted((x, y) for y, x in points if 0 <= y < height and 0 <= x < width)
    area, top = 0.0, height
    for x, y in inside:
        if y < top:
            area += (top - y) * (width - x)
            top = y
    return area / (height * width)


class Ranking:
    """The measured trials of one study, made ready to be ranked at any λ.

    Settings that do the same (equal digest) appear once. With ``feasible_only=False`` those that violate
    a constraint follow behind all that do not, and win no interval.
    """

    def __init__(self, trials: Iterable[TrialRecord], metric: str, feasible_only: bool = True) -> None:
        self.metric = metric
        self.records, self._violates = _distinct(trials, feasible_only)
        sign = 1 if metric == "accuracy" else -1
        pairs = [(r.value or 0.0).as_integer_ratio() for r in self.records]
        # Whole numbers: a = gains / 2**shift and r = costs / whole.
        self._shift = max((d.bit_length() - 1 for _, d in pairs), default=0)
        self._gains = [sign * n << (self._shift + 1 - d.bit_length()) for n, d in pairs]
        sizes = {r.fp32_bytes or 1 for r in self.records}
        self._whole = lcm(*sizes)
        scale = {size: self._whole // size for size in sizes}
        self._costs = [r.bytes * scale[r.fp32_bytes or 1] for r in self.records]

    def at(self, lam: float, top: int | None = None) -> list[Ranked]:
        """Return the ranked trials at ``lam``, or only the first ``top`` of them."""
        if not 0 <= lam < inf:
            raise UsageError(f"lambda {lam} is out of range; it must be 0 or more and finite.")
        numerator, denominator = lam.as_integer_ratio()
        up, down = self._whole * denominator, numerator << self._shift
        losses = (cost * down - gain * up for gain, cost in zip(self._gains, self._costs, strict=True))
        order = sorted(zip(self._violates, losses, self._costs, range(len(self.records)), strict=False))
        ranked, wins = [], self._intervals
        for place, (*_, i) in enumerate(order[:top], start=1):
            record = self.records[i]
            value = score(self.metric, record.value or 0.0, record.bytes / (record.fp32_bytes or 1), lam)
            ranked.append(Ranked(record, value, place, wins.get(record.number)))
        return ranked

    @cached_property
    def front(self) -> list[int]:
        """Indices into ``records`` of the Pareto front by rising bytes, hence by strictly better metric."""
        feasible = (i for i, violates in enumerate(self._violates) if not violates)
        front: list[int] = []
        for _, loss, i in sorted((self._costs[i], -self._gains[i], i) for i in feasible):
            if not front or -loss > self._gains[front[-1]]:
                front.append(i)
        return front

    @cached_property
    def envelope(self) -> list[tuple[float, float, TrialRecord]]:
        """(low, high, winner) by rising λ; see the function of this name."""
        gains, costs = self._gains, self._costs
        hull: list[int] = []
        for k in self.front:
            while len(hull) > 1:
                i, j = hull[-2], hull[-1]
                rise, run = gains[j] - gains[i], costs[j] - costs[i]
                if rise * (costs[k] - costs[j]) > (gains[k] - gains[j]) * run:
                    break
                hull.pop()
            hull.append(k)
        parts, low = [], 0.0
        for n in range(len(hull) - 1, -1, -1):
            high = self._crossing(hull[n - 1], hull[n]) if n else inf
            if low < high:
                parts.append((low, high, self.records[hull[n]]))
            low = high
        return parts

    @cached_property
    def _intervals(self) -> dict[int, tuple[float, float]]:
        return {record.number: (low, high) for low, high, record in self.envelope}

    def _crossing(self, i: int, j: int) -> float:
        """Return the smallest float λ at which record ``i`` (fewer bytes) is not behind ``j``."""
        gain, cost = self._gains[j] - self._gains[i], self._costs[j] - self._costs[i]
        exact = Fraction(gain * self._whole, cost << self._shift)
        try:
            near = float(exact)
        except OverflowError:
            return inf
        return nextafter(near, inf) if Fraction(near) < exact else near


def _distinct(trials: Iterable[TrialRecord], feasible_only: bool) -> tuple[list[TrialRecord], list[bool]]:
    """Return the measured trials by number, one for each digest, and whether each violates a bound.

    Those that workers measured ahead and the search did not need are left out.
    """
    found: dict[str, tuple[TrialRecord, bool]] = {}
    for trial in sorted(trials, key=lambda t: t.number):
        if trial.extra or trial.state != "complete" or trial.value is None or not isfinite(trial.value):
            continue
        feasible = trial.feasible
        if feasible or not feasible_only:
            found.setdefault(trial.digest or f"#{trial.number}", (trial, not feasible))
    return [trial for trial, _ in found.values()], [violates for _, violates in found.values()]


def _distance(record: TrialRecord) -> tuple[int, float, int, int]:
    certainty = 0 if record.value is not None else 1 if record.used else 2
    return certainty, violation(record), record.bytes, record.number
