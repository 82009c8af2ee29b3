from __future__ import annotations

import time
from fractions import Fraction
from itertools import pairwise
from math import inf, nextafter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qslm_opt.errors import UsageError
from qslm_opt.rank import Ranking, closest, envelope, pareto, rank, score
from qslm_opt.results import TrialRecord

FP32 = 1000


def record(number: int, value: float | None, size: int, **changes: Any) -> TrialRecord:
    given: dict[str, Any] = {
        "state": "complete", "tier": "global", "unit": "network", "bits": 4, "setting": "{}",
        "digest": f"d{number}", "fp32_bytes": FP32, "slack": {"metric": -0.1, "memory": -0.1}, "used": 10,
    }  # fmt: skip
    return TrialRecord(number=number, uuid=f"u{number}", value=value, bytes=size, **{**given, **changes})


def brute_winner(trials: list[TrialRecord], metric: str, lam: float) -> TrialRecord:
    sign = 1 if metric == "accuracy" else -1

    def gain(t: TrialRecord) -> Fraction:
        return sign * Fraction(t.value) - Fraction(lam) * Fraction(t.bytes, t.fp32_bytes)

    return min(trials, key=lambda t: (-gain(t), t.bytes, t.number))


eighths = st.integers(0, 8).map(lambda n: n / 8)
any_value = st.floats(0.0, 1.0) | eighths
candidates = st.lists(st.tuples(any_value, st.integers(1, 12)), min_size=1, max_size=30).map(
    lambda rows: [record(n, value, size * 25) for n, (value, size) in enumerate(rows)]
)
lambdas = st.floats(0.0, 50.0) | st.integers(0, 200).map(lambda n: n / 8)
metrics = st.sampled_from(["accuracy", "perplexity"])


def test_eq_1_rewards_accuracy_and_punishes_perplexity() -> None:
    assert score("accuracy", 0.8, 0.25, 0.2) == pytest.approx(0.75)
    assert score("perplexity", 20.0, 0.25, 0.2) == pytest.approx(20.05)


@given(candidates, metrics, lambdas)
@settings(max_examples=120, deadline=None)
def test_the_envelope_names_the_winner_of_every_lambda(
    trials: list[TrialRecord], metric: str, lam: float
) -> None:
    parts = envelope(trials, metric)
    named = [r for low, high, r in parts if low <= lam < high]
    assert named == [brute_winner(trials, metric, lam)]
    assert rank(trials, metric, lam)[0].record == named[0]


@given(candidates, metrics)
@settings(max_examples=120, deadline=None)
def test_the_envelope_is_exact_at_and_beside_its_own_bounds(trials: list[TrialRecord], metric: str) -> None:
    parts = envelope(trials, metric)
    assert parts[0][0] == 0.0
    assert parts[-1][1] == inf
    for (_, high, before), (low, _, after) in pairwise(parts):
        assert high == low
        assert brute_winner(trials, metric, low) == after
        assert brute_winner(trials, metric, nextafter(low, 0.0)) == before
        assert after.bytes < before.bytes


@given(candidates, metrics, lambdas)
@settings(max_examples=120, deadline=None)
def test_the_ranking_is_the_exact_order_of_scores(trials: list[TrialRecord], metric: str, lam: float) -> None:
    left = list(trials)
    for row in rank(trials, metric, lam):
        assert row.record == brute_winner(left, metric, lam)
        left.remove(row.record)
    assert not left


@given(candidates, metrics)
@settings(max_examples=120, deadline=None)
def test_the_pareto_front_holds_what_nothing_dominates(trials: list[TrialRecord], metric: str) -> None:
    sign = 1 if metric == "accuracy" else -1

    def beats(a: TrialRecord, b: TrialRecord) -> bool:
        assert a.value is not None
        assert b.value is not None
        no_worse = sign * a.value >= sign * b.value and a.bytes <= b.bytes
        return no_worse and ((a.value, a.bytes) != (b.value, b.bytes) or a.number < b.number)

    expected = [t for t in trials if not any(beats(o, t) for o in trials if o is not t)]
    front = pareto(trials, metric)
    assert sorted(front, key=lambda t: t.number) == expected
    assert [t.bytes for t in front] == sorted(t.bytes for t in front)


def test_a_tie_goes_to_fewer_bytes_and_then_to_the_lower_number() -> None:
    # At λ = 0.5 the first two tie exactly: 0.75 - 0.5 * 0.5 = 0.625 - 0.5 * 0.25.
    trials = [record(0, 0.75, 500), record(1, 0.625, 250), record(2, 0.625, 250)]
    assert [row.record.number for row in rank(trials, "accuracy", 0.5)] == [1, 2, 0]
    assert envelope(trials, "accuracy") == [(0.0, 0.5, trials[0]), (0.5, inf, trials[1])]


def test_a_candidate_on_the_line_between_two_winners_never_wins() -> None:
    trials = [record(0, 0.75, 500), record(1, 0.625, 375), record(2, 0.5, 250)]
    assert [r.number for _, _, r in envelope(trials, "accuracy")] == [0, 2]


def test_a_ranked_row_carries_its_score_place_and_interval() -> None:
    trials = [record(0, 20.0, 500), record(1, 21.0, 250), record(2, 25.0, 400)]
    first, second, third = rank(trials, "perplexity", 2.0)
    assert (first.record.number, first.rank, first.score, first.interval) == (0, 1, 21.0, (0.0, 4.0))
    assert (second.record.number, second.interval) == (1, (4.0, inf))
    assert (third.record.number, third.rank, third.interval) == (2, 3, None)


def test_settings_that_do_the_same_appear_once() -> None:
    trials = [record(3, 0.7, 100, digest="x"), record(1, 0.7, 100, digest="x"), record(2, 0.6, 100)]
    assert [row.record.number for row in rank(trials, "accuracy", 0.2)] == [1, 2]


def test_only_measured_settings_within_both_constraints_are_candidates() -> None:
    over = {"metric": -0.1, "memory": 0.01}
    trials = [
        record(0, 0.9, 100, slack=over),
        record(1, None, 100, state="pruned"),
        record(2, None, 100, state="running"),
        record(3, 0.9, 100, state="failed"),
        record(4, float("inf"), 100),
        record(5, 0.9, 100, slack={}),
        record(6, 0.5, 900),
    ]
    assert [row.record.number for row in rank(trials, "accuracy", 0.2)] == [6]
    everyone = rank(trials, "accuracy", 0.2, feasible_only=False)
    assert [row.record.number for row in everyone] == [6, 0, 5]
    assert everyone[1].interval is None
    assert [t.number for t in pareto(trials, "accuracy")] == [6]


def test_what_was_measured_ahead_and_not_needed_has_no_place() -> None:
    over = {"metric": 0.2, "memory": -0.1}
    trials = [record(0, 0.9, 100, extra=True), record(1, 0.5, 900), record(2, 0.4, 900, slack=over)]
    assert [row.record.number for row in rank(trials, "accuracy", 0.2, feasible_only=False)] == [1, 2]
    assert [t.number for t in pareto(trials, "accuracy")] == [1]
    near = closest([trials[0], trials[2]])
    assert near is not None
    assert near.number == 2


def test_nothing_to_rank_gives_empty_answers() -> None:
    assert rank([], "accuracy", 0.2) == []
    assert envelope([], "accuracy") == []
    assert pareto([], "perplexity") == []
    assert closest([]) is None


@pytest.mark.parametrize("lam", [-0.1, inf, float("nan")])
def test_a_lambda_that_cannot_be_is_refused(lam: float) -> None:
    with pytest.raises(UsageError, match="must be 0 or more"):
        rank([record(0, 0.5, 100)], "accuracy", lam)


def test_whole_number_lambdas_are_accepted() -> None:
    assert rank([record(0, 0.5, 100)], "accuracy", 1)[0].score == pytest.approx(0.4)


def test_the_closest_is_measured_and_has_the_smallest_violation() -> None:
    trials = [
        record(0, None, 90, state="pruned", used=0, slack={"metric": 0.0, "memory": 0.001}),
        record(1, None, 90, state="pruned", used=5, slack={"metric": 0.002, "memory": -0.5}),
        record(2, 0.6, 90, slack={"metric": 0.04, "memory": -0.5}),
        record(3, 0.7, 90, slack={"metric": 0.03, "memory": 0.02}),
        record(4, 0.1, 90, state="failed", slack={"metric": 0.0, "memory": 0.0}),
    ]
    assert closest(trials) == trials[2]
    assert closest(trials[:2]) == trials[1]
    assert closest(trials[:1]) == trials[0]


@pytest.mark.parametrize("spread", [False, True])
def test_a_new_lambda_over_ten_thousand_candidates_takes_milliseconds(spread: bool) -> None:
    big = 861_597_696
    trials = [
        record(
            n, 0.5 + 0.4 * (n / 10_000) ** 0.5 if spread else (n * 7919 % 872) / 872,
            100_000_000 + n * 13_007, fp32_bytes=big,
        )
        for n in range(10_000)
    ]  # fmt: skip
    ranking = Ranking(trials, "accuracy")
    assert ranking.at(0.2) == rank(trials, "accuracy", 0.2)
    seconds = []
    for lam in (0.0, 0.21, 0.22):
        start = time.perf_counter()
        rows = ranking.at(lam, top=60)
        seconds.append(time.perf_counter() - start)
    assert len(rows) == 60
    print(f"re-ranked 10,000 in {min(seconds) * 1e3:.1f} ms, {len(ranking.envelope)} winners")
    assert min(seconds) < 0.25


def test_hypervolume_of_points_is_the_share_of_the_box_that_they_dominate():
    from qslm_opt.rank import hypervolume

    assert hypervolume([], (10, 100)) == 0
    assert hypervolume([(0, 0)], (10, 100)) == 1
    assert hypervolume([(5, 50)], (10, 100)) == 0.25
    assert hypervolume([(5, 50), (5, 50), (6, 60)], (10, 100)) == 0.25  # dominated ones add nothing
    assert hypervolume([(5, 50), (2, 80), (8, 10)], (10, 100)) == pytest.approx(0.25 + 0.06 + 0.08)
    assert hypervolume([(10, 0), (0, 100), (11, 1), (-1, 1)], (10, 100)) == 0  # not inside the box
    with pytest.raises(UsageError, match="above 0"):
        hypervolume([(1, 1)], (0, 5))
