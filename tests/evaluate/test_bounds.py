"""The metric constraint: exact at its edge, and certain only when nothing can save the run."""

from __future__ import annotations

from fractions import Fraction
from itertools import accumulate
from math import exp, inf, log, nextafter

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from qslm_opt.evaluate.bounds import MetricBound
from qslm_opt.results import Baseline
from qslm_opt.spec import StudySpec


def spec(task: str, **bound: object) -> StudySpec:
    return StudySpec(name="s", model="demo", task=task, memory_budget="1MB", **bound)


def accuracy(correct: int, n: int, **bound: object) -> MetricBound:
    return MetricBound.of(spec("sst2", **bound), Baseline("accuracy", correct / n, n, correct, 0.0, 4))


def perplexity(value: float, **bound: object) -> MetricBound:
    return MetricBound.of(spec("wikitext2", **bound), Baseline("perplexity", value, 1000, None, 0.0, 4))


def test_a_drop_of_two_points_from_724_of_872_asks_for_707_right():
    bound = accuracy(724, 872, max_drop=0.02)  # 724 - 17.44 = 706.56
    assert (bound.limit, bound.value) == (707, 707 / 872)
    assert bound.slack(707 / 872) <= 0 < bound.slack(706 / 872)


@pytest.mark.parametrize(
    ("n", "share", "limit"), [(100, 0.29, 29), (100, 0.07, 7), (1000, 0.563, 563), (3, 1.0, 3), (7, 0.0, 0)]
)
def test_float_dust_in_a_share_does_not_ask_for_one_more_sentence(n, share, limit):
    assert accuracy(n, n, min_accuracy=share).limit == limit


def test_a_drop_of_nothing_accepts_the_baseline_and_nothing_less():
    bound = accuracy(81, 100, max_drop=0.0)
    assert bound.slack(0.81) <= 0 < bound.slack(0.80)


def test_a_drop_larger_than_the_accuracy_accepts_everything():
    bound = accuracy(10, 100, max_drop=0.5)
    assert bound.limit == 0
    assert bound.slack(0.0) <= 0


@pytest.mark.parametrize(
    ("bound", "limit"),
    [
        ({"max_increase": "1.0"}, 21.0),
        ({"max_increase": "5%"}, 21.0),
        ({"max_increase": "0"}, 20.0),
        ({"max_increase": "0%"}, 20.0),
        ({"max_perplexity": 25.5}, 25.5),
    ],
)
def test_the_perplexity_limit_is_absolute_or_a_share_of_the_baseline(bound, limit):
    assert perplexity(20.0, **bound).limit == pytest.approx(limit, rel=1e-15)


@given(st.floats(1, 1e6))
def test_an_increase_of_nothing_accepts_the_baseline_itself(value):
    for bound in ("0", "0%"):
        assert perplexity(value, max_increase=bound).slack(value) <= 0


@given(st.floats(1, 1e12), st.floats(1, inf, exclude_max=True))
def test_perplexity_slack_is_feasible_exactly_within_the_limit(limit, value):
    bound = MetricBound("perplexity", 10, limit)
    assert (bound.slack(value) <= 0) == (value <= limit)


@given(st.floats(1, 1e12))
def test_the_next_float_above_the_limit_is_a_violation(limit):
    bound = MetricBound("perplexity", 10, limit)
    assert bound.slack(limit) <= 0 < bound.slack(nextafter(limit, inf))


@given(st.integers(1, 10**6).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(0, n))))
def test_accuracy_slack_is_feasible_exactly_from_the_limit_up(case):
    n, limit, right = case
    bound = MetricBound("accuracy", n, float(limit))
    assert (bound.slack(right / n) <= 0) == (right >= limit)


@given(
    st.integers(1, 5000).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))),
    st.integers(0, 1000).map(lambda k: k / 1000),
)
def test_the_accuracy_limit_is_the_smallest_count_within_the_drop(case, drop):
    n, correct = case
    exact = Fraction(correct) - Fraction(str(drop)) * n
    bound = accuracy(correct, n, max_drop=drop)
    assert bound.limit == max(0, -(-exact.numerator // exact.denominator))


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.data())
def test_accuracy_is_called_lost_exactly_when_no_ending_can_save_it(answers, data):
    n = len(answers)
    bound = MetricBound("accuracy", n, float(data.draw(st.integers(0, n))))
    used = data.draw(st.integers(0, n))
    right = sum(answers[:used])
    every_ending = range(right, right + n - used + 1)
    lost = all(bound.slack(final / n) > 0 for final in every_ending)
    assert bound.certain(bound.best_case(used, right, 0.0)) == lost


terms = st.lists(st.floats(0, 50), min_size=1, max_size=60)


@given(terms, st.floats(1, 1e9), st.data())
def test_a_certain_perplexity_violation_holds_for_every_completion(losses, limit, data):
    bound = MetricBound("perplexity", len(losses), limit)
    used = data.draw(st.integers(0, len(losses)))
    partial = sum(losses[:used])
    if bound.certain(bound.best_case(used, None, partial)):
        best, actual = bound.best_case(len(losses), None, partial), exp(sum(losses) / len(losses))
        assert bound.slack(best) > 0
        assert bound.slack(actual) > 0


@given(terms, st.floats(1, 1e9))
def test_a_certain_violation_stays_certain(losses, limit):
    bound = MetricBound("perplexity", len(losses), limit)
    verdicts = [
        bound.certain(bound.best_case(used, None, total)) for used, total in enumerate(accumulate(losses), 1)
    ]
    assert verdicts == sorted(verdicts)


@given(terms, st.floats(1, 1e9))
def test_a_clear_violation_is_noticed_at_the_latest_at_the_end(losses, limit):
    mean = sum(losses) / len(losses)
    assume(mean > log(limit) * (1 + 1e-6) + 1e-6)
    bound = MetricBound("perplexity", len(losses), limit)
    assert bound.certain(bound.best_case(len(losses), None, sum(losses)))


@given(st.floats(1, 1e9))
def test_float_rounding_alone_never_makes_a_violation_certain(limit):
    bound = MetricBound("perplexity", 1000, limit)
    at_the_limit = bound.best_case(1000, None, log(limit) * 1000)
    assert not bound.certain(at_the_limit)
    assert not bound.certain(limit * (1 + 1e-12))
    assert bound.certain(limit * (1 + 1e-6))


def test_a_sum_beyond_the_floats_is_certain_and_a_huge_limit_is_not():
    assert MetricBound("perplexity", 1, 1e6).best_case(1, None, 1e6) == inf
    assert MetricBound("perplexity", 1, 1e6).certain(inf)
    assert not MetricBound("perplexity", 1, 1e307).certain(exp(705))


def test_best_case_counts_the_rest_as_right_or_free():
    assert MetricBound("accuracy", 10, 5.0).best_case(4, 1, 0.0) == 7 / 10
    assert MetricBound("perplexity", 10, 5.0).best_case(4, None, 20.0) == exp(2.0)
    assert MetricBound("accuracy", 10, 5.0).best_case(0, 0, 0.0) == 1.0
    assert MetricBound("perplexity", 10, 5.0).best_case(0, None, 0.0) == 1.0
