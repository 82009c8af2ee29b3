"""Intervals and paired tests against published numbers, other implementations, and simulated truth."""

from __future__ import annotations

from functools import cache
from math import comb, exp, inf, log, sqrt

import numpy as np
import pytest
from scipy import optimize
from scipy import stats as reference

from qslm_opt import stats


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    [  # Newcombe, Statistics in Medicine 17 (1998) 857-872, table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_an_accuracy_has_wilsons_interval(correct: int, n: int, low: float, high: float) -> None:
    assert stats.accuracy_interval(correct, n) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(("correct", "n", "level"), [(724, 872, 0.95), (3, 7, 0.9), (50, 50, 0.99)])
def test_wilsons_interval_is_scipys(correct: int, n: int, level: float) -> None:
    wanted = reference.binomtest(correct, n).proportion_ci(level, method="wilson")
    assert stats.accuracy_interval(correct, n, level) == pytest.approx((wanted.low, wanted.high), abs=1e-12)


def test_the_lowest_accuracy_is_one_sided() -> None:
    assert stats.lowest_accuracy(80, 100, 0.95) == stats.accuracy_interval(80, 100, 0.9).low
    assert stats.lowest_accuracy(80, 100, 0.5) == pytest.approx(0.8)


@pytest.mark.parametrize(("lost", "won"), [(5, 15), (15, 5), (0, 6), (1, 1), (0, 0), (0, 1), (300, 220)])
def test_mcnemar_is_the_exact_binomial_test(lost: int, won: int) -> None:
    wanted = reference.binomtest(lost, lost + won).pvalue if lost + won else 1.0
    assert stats.mcnemar(lost, won) == pytest.approx(wanted, rel=1e-9)


def likeliest_statistic(lost: int, won: int, n: int, drop: float) -> float:
    """Tango's statistic with the likelihood maximized numerically."""

    def unlikely(q: float) -> float:
        cells = ((lost, q + drop), (won, q), (n - lost - won, 1 - 2 * q - drop))
        return -sum(count * log(max(share, 1e-300)) for count, share in cells if count)

    bounds = max(0.0, -drop), (1 - drop) / 2
    q = optimize.minimize_scalar(unlikely, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x
    return (lost - won - n * drop) / sqrt(n * (2 * q + drop - drop**2))


@pytest.mark.parametrize(
    ("lost", "won", "n"), [(12, 4, 200), (3, 9, 80), (1, 0, 44), (0, 7, 60), (90, 40, 872)]
)
def test_a_drops_limits_are_where_the_score_statistic_is_the_quantile(lost: int, won: int, n: int) -> None:
    low, high = stats.drop_interval(lost, won, n)
    assert low < (lost - won) / n < high
    assert likeliest_statistic(lost, won, n, low) == pytest.approx(1.959964, abs=1e-3)
    assert likeliest_statistic(lost, won, n, high) == pytest.approx(-1.959964, abs=1e-3)


def test_a_drop_has_tangos_interval_of_the_published_crossover_trial() -> None:
    # Tango 1998, table: 44 pairs, one discordant; 95 % interval of its method.
    assert stats.drop_interval(0, 1, 44) == (pytest.approx(-0.118, abs=1e-3), pytest.approx(0.059, abs=1e-3))


def test_no_lost_sentence_proves_no_more_than_the_data_can() -> None:
    z2 = stats.normal_quantile(0.95) ** 2
    assert stats.highest_drop(0, 0, 100, 0.95) == pytest.approx(z2 / (100 + z2), abs=1e-9)
    assert stats.highest_drop(7, 3, 100, 0.5) == pytest.approx(0.04, abs=1e-9)
    assert stats.highest_drop(10, 0, 10, 0.95) == pytest.approx(1.0)


@pytest.mark.parametrize("n", [5, 17, 26])
@pytest.mark.parametrize("confidence", [0.5, 0.8, 0.95, 0.999])
def test_the_highest_drop_rises_with_lost_and_falls_with_won_sentences(n: int, confidence: float) -> None:
    limit = {
        (b, c): stats.highest_drop(b, c, n, confidence) for b in range(n + 1) for c in range(n + 1 - b)
    }
    for (lost, won), value in limit.items():
        assert limit.get((lost + 1, won), inf) >= value - 1e-12
        assert limit.get((lost, won + 1), -inf) <= value + 1e-12


def test_a_mean_loss_over_equal_windows_is_the_plain_mean_and_its_error() -> None:
    losses, tokens = np.array([30.0, 50.0, 40.0, 44.0]), np.full(4, 10.0)
    found = stats.mean_loss(losses, tokens)
    each = losses / 10
    assert found == pytest.approx((each.mean(), reference.sem(each)))
    ppl = stats.perplexity_error(losses, tokens)
    assert ppl == pytest.approx((exp(each.mean()), exp(each.mean()) * reference.sem(each)))
    wanted = reference.t.interval(0.95, 3, each.mean(), reference.sem(each))
    assert stats.perplexity_interval(losses, tokens) == pytest.approx(tuple(np.exp(wanted)))
    margin = reference.t.ppf(0.9, 3) * reference.sem(each)
    assert stats.loss_margin(losses, tokens, 0.9) == pytest.approx(margin)


def test_one_window_says_nothing_about_its_spread() -> None:
    one = np.array([30.0]), np.array([10.0])
    assert stats.mean_loss(*one) == (3.0, inf)
    assert stats.loss_margin(*one, 0.95) == inf


def test_a_bootstrap_is_the_same_every_time_and_agrees_with_scipys() -> None:
    draw = np.random.default_rng(3)
    tokens = np.full(60, 128.0)
    before = draw.normal(5, 1, 60) * tokens
    after = before + draw.normal(0.02, 0.05, 60) * tokens
    found = stats.perplexity_ratio(before, after, tokens)
    assert found == stats.perplexity_ratio(before, after, tokens)
    each = (after - before) / tokens
    wanted = reference.bootstrap(
        (each,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(5)
    ).confidence_interval
    assert found.value == pytest.approx(exp(each.mean()))
    assert (log(found.low), log(found.high)) == pytest.approx((wanted.low, wanted.high), abs=1e-3)
    assert 0 < stats.perplexity_ratio(before, before + 9.0, tokens).p < 0.001
    assert stats.perplexity_ratio(before, before, tokens) == (1.0, 1.0, 1.0, 1.0)


# ------------------------------------------------------------------------------------------ simulated


@cache
def limit_of(lost: int, won: int, n: int) -> float:
    return stats.highest_drop(lost, won, n, 0.95)


def too_low(lost: float, won: float, n: int) -> float:
    """Share of samples whose limit is below the true drop."""
    cells = np.random.default_rng(11).multinomial(n, [lost, won, 1 - lost - won], 4000)
    return float(np.mean([limit_of(int(b), int(c), n) < lost - won for b, c, _ in cells]))


@pytest.mark.parametrize(("lost", "won", "n"), [(0.06, 0.04, 400), (0.1, 0.06, 300), (0.15, 0.12, 872)])
def test_the_highest_drop_is_too_low_for_about_one_sample_in_twenty(lost: float, won: float, n: int) -> None:
    assert too_low(lost, won, n) == pytest.approx(0.05, abs=0.015)


def test_where_nothing_is_ever_won_few_values_are_possible_and_the_limit_errs_upwards() -> None:
    assert 0.02 < too_low(0.05, 0.0, 300) < 0.05


def test_the_margin_of_a_loss_is_too_small_for_about_one_sample_in_twenty() -> None:
    draw, tokens = np.random.default_rng(12), np.array([64.0] * 29 + [20.0])
    missed = 0
    for _ in range(2000):
        losses = draw.normal(0.03, 0.1, 30) * tokens
        missed += stats.mean_loss(losses, tokens).value + stats.loss_margin(losses, tokens, 0.95) < 0.03
    assert missed / 2000 == pytest.approx(0.05, abs=0.015)


def test_wilsons_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    n, truth = 150, 0.83
    shares = [comb(n, k) * truth**k * (1 - truth) ** (n - k) for k in range(n + 1)]
    held = sum(
        share for k, share in enumerate(shares)
        if stats.accuracy_interval(k, n).low <= truth <= stats.accuracy_interval(k, n).high
    )  # fmt: skip
    assert held == pytest.approx(0.95, abs=0.02)
