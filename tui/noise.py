"""How far chance alone can move a score: which candidates tie with the winner. Pure.

An accuracy of p over n sentences has the binomial standard error √(p (1−p) / n); λ m/M is exact, so the
score has the same. For a difference both errors add in squares. Both settings saw the same sentences, which
makes the true error of their difference smaller in most cases: ties are counted rather too many than too few.
A perplexity has none here, because the spread over its tokens is not stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import hypot, sqrt
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qslm_opt.rank import Ranked
    from qslm_opt.results import TrialRecord


@dataclass(frozen=True)
class Gap:
    """The difference of two scores, and how much of it may be chance."""

    score: float
    """How far the second is behind the first, 0 or more; negative when it is ahead."""
    noise: float | None
    """One standard error of the difference; None where it is not known."""

    @property
    def tied(self) -> bool:
        """Whether the difference is smaller than its noise."""
        return self.noise is not None and abs(self.score) < self.noise


def standard_error(metric: str, value: float | None, n: int) -> float | None:
    """Return the standard error of an accuracy (0..1) over ``n`` sentences; None for a perplexity."""
    if metric != "accuracy" or value is None or n <= 0:
        return None
    return sqrt(max(0.0, value * (1.0 - value)) / n)


def noise(metric: str, first: TrialRecord, second: TrialRecord) -> float | None:
    """Return one standard error of the difference of two trials' metrics; None where it is not known."""
    errors = [standard_error(metric, t.value, t.used) for t in (first, second)]
    if errors[0] is None or errors[1] is None:
        return None
    return hypot(errors[0], errors[1])


def gap(metric: str, first: Ranked, second: Ranked) -> Gap:
    """Return how far ``second`` is behind ``first`` at the λ they were ranked at."""
    sign = 1.0 if metric == "accuracy" else -1.0
    return Gap(sign * (first.score - second.score), noise(metric, first.record, second.record))
