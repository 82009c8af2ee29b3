"""Statistics of evaluations: intervals, paired tests, standard errors. Closed forms or seeded, never random.

Sentences, and windows of text, are taken as independent draws. Numbers of sentences are whole; losses are
sums of negative log likelihood (NLL) over a window, in nats. Every limit is two-sided unless it is called
one-sided.
"""

from __future__ import annotations

from collections.abc import Callable
from math import copysign, exp, inf, sqrt
from statistics import NormalDist
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from numpy import float64
    from numpy.typing import NDArray

LEVEL = 0.95
"""Confidence level of the intervals that are shown."""
RESAMPLES = 4000
"""Of a bootstrap: its 95 % limits are then known to about a tenth of a standard error."""
SEED = 20
_CHUNK = 1 << 21
"""Numbers that a bootstrap draws at once."""
_HALVINGS = 60


class Interval(NamedTuple):
    """A value's lower and upper limit."""

    low: float
    high: float


class Estimate(NamedTuple):
    """A mean with its standard error."""

    value: float
    error: float
    """Infinite where fewer than two windows say nothing about it."""


class Ratio(NamedTuple):
    """How many times a perplexity is another's, by a paired bootstrap over windows."""

    value: float
    low: float
    high: float
    p: float
    """Two-sided, of the ratio being 1."""


def normal_quantile(confidence: float) -> float:
    """Return z with P(Z ≤ z) = ``confidence``, Z standard normal."""
    return NormalDist().inv_cdf(confidence)


def accuracy_interval(correct: int, n: int, level: float = LEVEL) -> Interval:
    """Return Wilson's score interval of an accuracy, in 0..1.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22
    (1927) 209–212; recommended over Wald's by Brown, Cai and DasGupta, Statistical Science 16 (2001) 101–133.
    """
    z = normal_quantile((1 + level) / 2)
    return Interval(_wilson(correct, n, -z), _wilson(correct, n, z))


def share_interval(value: float, n: int, level: float = LEVEL) -> Interval:
    """Return the ``accuracy_interval`` of an accuracy that was stored as a share of ``n``."""
    return accuracy_interval(round(min(1.0, max(0.0, value)) * n), n, level)


def lowest_accuracy(correct: int, n: int, confidence: float) -> float:
    """Return the one-sided lower limit of an accuracy; Wilson's, as in ``accuracy_interval``."""
    return _wilson(correct, n, -normal_quantile(confidence))


def _wilson(correct: int, n: int, z: float) -> float:
    share, z2 = correct / n, z * z
    middle = share + z2 / (2 * n)
    half = copysign(sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n * n))), z)
    return min(1.0, max(0.0, (middle + half) / (1 + z2 / n)))


def mcnemar(lost: int, won: int) -> float:
    """Return the exact two-sided p value that two models are right equally often.

    ``lost`` sentences only the first has right, ``won`` only the second: under the hypothesis ``lost`` is
    binomial with ``lost + won`` trials of probability ½. Source: Q. McNemar, Psychometrika 12 (1947) 153–157;
    exact form as in A. Agresti, "Categorical Data Analysis", section 11.1.
    """
    if lost == won:
        return 1.0
    from scipy.special import bdtr

    return min(1.0, 2 * float(bdtr(min(lost, won), lost + won, 0.5)))


def drop_interval(lost: int, won: int, n: int, level: float = LEVEL) -> Interval:
    """Return Tango's score interval of a paired drop in accuracy, (lost − won) / n in −1..1.

    It inverts ``_score``. Source: T. Tango, "Equivalence test and confidence interval for the difference in
    proportions for the paired-sample design", Statistics in Medicine 17 (1998) 891–908.
    """
    z = normal_quantile((1 + level) / 2)
    drop = (lost - won) / n
    return Interval(
        _root(lambda x: _score(lost, won, n, x) - z, -1.0, drop),
        _root(lambda x: _score(lost, won, n, x) + z, drop, 1.0),
    )


def highest_drop(lost: int, won: int, n: int, confidence: float) -> float:
    """Return the one-sided upper limit of a paired drop in accuracy; Tango's, as in ``drop_interval``.

    It rises with ``lost`` and falls with ``won``.
    """
    z = normal_quantile(confidence)
    return _root(lambda x: _score(lost, won, n, x) + z, (lost - won) / n, 1.0)


def _score(lost: int, won: int, n: int, drop: float) -> float:
    """Return the score statistic of a true ``drop``, about standard normal; it falls as ``drop`` rises.

    The likelihood under that drop is largest where the share of won sentences is the root q of a quadratic.
    """
    b = (2 * n - lost + won) * drop - lost - won
    root = b * b + 8 * n * won * drop * (1 - drop)
    q = (sqrt(max(0.0, root)) - b) / (4 * n)
    variance = n * (2 * q + drop * (1 - drop))
    above = lost - won - n * drop
    if variance <= 0:
        return copysign(inf, above) if above else 0.0
    return above / sqrt(variance)


def _root(falls: Callable[[float], float], low: float, high: float) -> float:
    """Return where a falling function is 0 between two places, to the last bits."""
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if falls(middle) > 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def mean_loss(losses: NDArray[float64], tokens: NDArray[float64]) -> Estimate:
    """Return the mean NLL per token over windows (W,), with its standard error.

    A ratio of two sums over windows. Source: W. G. Cochran, "Sampling Techniques", 3rd ed., eq. 6.13, without
    the finite population correction.
    """
    whole, windows = float(tokens.sum()), len(losses)
    mean = float(losses.sum()) / whole
    if windows < 2:
        return Estimate(mean, inf)
    rest = losses - mean * tokens
    spread = float(rest @ rest) * windows / (windows - 1)
    return Estimate(mean, sqrt(spread) / whole)


def perplexity_error(losses: NDArray[float64], tokens: NDArray[float64]) -> Estimate:
    """Return the perplexity over windows (W,) with its standard error, by the delta method.

    The perplexity is exp(mean NLL), whose derivative is itself.
    """
    mean, error = mean_loss(losses, tokens)
    value = exp(min(mean, 700.0))
    return Estimate(value, value * error)


def loss_margin(losses: NDArray[float64], tokens: NDArray[float64], confidence: float) -> float:
    """Return how far above the measured mean NLL (or paired difference) the true one may be, one-sided.

    Student's t with one degree of freedom less than windows, times the standard error of ``mean_loss``.
    """
    error = mean_loss(losses, tokens).error
    if error in (0.0, inf):
        return error
    from scipy.special import stdtrit

    return float(stdtrit(len(losses) - 1, confidence)) * error


def perplexity_interval(losses: NDArray[float64], tokens: NDArray[float64], level: float = LEVEL) -> Interval:
    """Return the interval of a perplexity: exp of Student's interval of the mean NLL."""
    margin = loss_margin(losses, tokens, (1 + level) / 2)
    mean = mean_loss(losses, tokens).value
    return Interval(exp(max(mean - margin, -700.0)), exp(min(mean + margin, 700.0)))


def perplexity_ratio(
    baseline: NDArray[float64], losses: NDArray[float64], tokens: NDArray[float64], level: float = LEVEL
) -> Ratio:
    """Return perplexity over baseline's on the same windows (W,), by a paired percentile bootstrap.

    Whole windows are drawn with replacement, both models' losses together, ``RESAMPLES`` times from a fixed
    seed. Source: B. Efron and R. J. Tibshirani, "An Introduction to the Bootstrap", chapters 13 and 16; p
    counts the measured sample as one of them, so that it is never 0 (A. C. Davison and D. V. Hinkley,
    "Bootstrap Methods and their Application", section 4.2).
    """
    import numpy as np

    difference = losses - baseline
    windows = len(losses)
    draw, each = np.random.default_rng(SEED), max(1, _CHUNK // windows)
    means = []
    for start in range(0, RESAMPLES, each):
        places = draw.integers(0, windows, (min(each, RESAMPLES - start), windows))
        means.append(difference[places].sum(axis=1) / tokens[places].sum(axis=1))
    found = np.concatenate(means)
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    side = min(int((found <= 0).sum()), int((found >= 0).sum()))
    p = min(1.0, 2 * (side + 1) / (RESAMPLES + 1))
    ratio = float(difference.sum() / tokens.sum())
    value, lowest, highest = (exp(min(float(x), 700.0)) for x in (ratio, low, high))
    return Ratio(value, lowest, highest, p)
