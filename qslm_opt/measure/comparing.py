"""Whether two arms of interleaved windows differ, and the smallest difference that could have been seen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import exp, inf, lgamma, log, sqrt
from statistics import fmean, stdev

POWER_FACTOR = 2.8
"""z(97.5 %) + z(80 %): a difference of so many standard errors is found four times in five at 5 %."""
_TINY = 1e-300


@dataclass(frozen=True)
class Comparison:
    """One quantity of an arm against that of another, window by window."""

    pairs: int
    difference: float
    """Mean of (second − first), relative to the mean of the first."""
    p: float
    """Chance of at least this difference when there is none: Student's paired t, two-sided."""
    smallest: float
    """Smallest relative difference seen with 80 % power at the 5 % level: 2.8·σ_d/√n."""

    @property
    def differs(self) -> bool:
        """Whether the difference is significant at the 5 % level."""
        return self.p < 0.05


def compare(first: Sequence[float], second: Sequence[float]) -> Comparison | None:
    """Compare paired windows; None below two pairs, or when the first arm's mean is 0."""
    pairs = list(zip(first, second, strict=True))
    base = fmean(first) if pairs else 0.0
    if len(pairs) < 2 or base == 0:
        return None
    differences = [b - a for a, b in pairs]
    mean, error = fmean(differences), stdev(differences) / sqrt(len(pairs))
    t = mean / error if error > 0 else (inf if mean else 0.0)
    smallest = POWER_FACTOR * error / abs(base)
    return Comparison(len(pairs), mean / base, two_sided_p(t, len(pairs) - 1), smallest)


def two_sided_p(t: float, freedom: int) -> float:
    """Return P(|T| ≥ |t|) of Student's t with ``freedom`` degrees."""
    if t in (inf, -inf):
        return 0.0
    squared = t * t
    if squared < freedom:  # near 1 the other argument has no digits left
        return 1 - incomplete_beta(0.5, freedom / 2, squared / (freedom + squared))
    return incomplete_beta(freedom / 2, 0.5, freedom / (freedom + squared))


def incomplete_beta(a: float, b: float, x: float) -> float:
    """Return the regularized incomplete beta function I_x(a, b), x in 0..1, by its continued fraction."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # where the fraction converges slowly, the other tail does not
        return 1 - incomplete_beta(b, a, 1 - x)
    front = exp(lgamma(a + b) - lgamma(a) - lgamma(b) + a * log(x) + b * log(1 - x)) / a
    return front * _fraction(a, b, x)


def _fraction(a: float, b: float, x: float) -> float:
    """Evaluate the continued fraction of I_x(a, b) from the front (Lentz)."""
    value, c, d = 1.0, 1.0, 0.0
    for term in _terms(a, b, x):
        d = 1 / (1 + term * d or _TINY)
        c = 1 + term / c or _TINY
        value *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return 1 / value


def _terms(a: float, b: float, x: float) -> Iterator[float]:
    for m in range(300):
        yield -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        n = m + 1
        yield n * (b - n) * x / ((a + 2 * n - 1) * (a + 2 * n))


def interleaved(arms: int, rounds: int) -> Iterator[int]:
    """Yield the arm of each window: every round has each arm once, and every other round runs backwards.

    A drift that is linear in time then touches all arms alike.
    """
    for number in range(rounds):
        order = range(arms)
        yield from order if number % 2 == 0 else reversed(order)
