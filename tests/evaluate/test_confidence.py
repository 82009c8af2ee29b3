"""The bound with a confidence: what meets it, and when a violation is certain."""

from __future__ import annotations

from itertools import product
from math import exp, inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qslm_opt import stats
from qslm_opt.evaluate.bounds import MetricBound
from qslm_opt.evaluate.confidence import ConfidentBound, unreachable
from qslm_opt.items import Items
from qslm_opt.results import Baseline
from qslm_opt.spec import StudySpec


def items_of(right: list[bool], seen: int | None = None) -> Items:
    items = Items.empty(len(right), None)
    count = len(right) if seen is None else seen
    items.add(range(count), np.zeros(count), np.array(right[:count], bool))
    return items


def windows_of(losses: list[float], tokens: int = 10) -> Items:
    items = Items.empty(len(losses), [tokens] * len(losses))
    items.add(range(len(losses)), losses, None)
    return items


def bound_of(before: Items, confidence: float = 0.95, **bound: object) -> ConfidentBound:
    if before.right is not None:
        n, correct = len(before), int(before.right.sum())
        baseline = Baseline("accuracy", correct / n, n, correct, 0.0, 4)
    else:
        losses, tokens = before.sums
        n = int(tokens.sum())
        baseline = Baseline("perplexity", exp(losses.sum() / n), n, None, float(losses.sum()), 4)
    task = "sst2" if before.right is not None else "wikitext2"
    values = {"name": "s", "model": "m", "task": task, "memory_budget": "10%", "confidence": confidence}
    return ConfidentBound.with_items(StudySpec.from_mapping({**values, **bound}), baseline, before)


def slack(bound: ConfidentBound, items: Items) -> float:
    if items.right is not None:
        return bound.slack(bound.judged(float(items.right.mean()), items))
    losses, tokens = items.sums
    return bound.slack(bound.judged(exp(losses.sum() / tokens.sum()), items))


def test_the_same_drop_needs_enough_sentences_to_be_shown() -> None:
    for n, shown in ((200, False), (2000, True)):
        before = items_of([True] * n)
        after = items_of([i >= n // 50 for i in range(n)])  # 2 % lost
        assert (slack(bound_of(before, max_drop=0.03), after) <= 0) == shown
        assert MetricBound("accuracy", n, 0.97 * n).slack(0.98) <= 0


def test_what_is_held_against_the_bound_is_the_highest_credible_drop() -> None:
    before, after = items_of([True] * 80 + [False] * 20), items_of([True] * 77 + [False] * 21 + [True] * 2)
    bound = bound_of(before, max_drop=0.05)
    assert bound.judged(0.79, after) == pytest.approx(0.8 - stats.highest_drop(3, 2, 100, 0.95))
    assert bound.value == pytest.approx(0.75)


def test_a_confidence_of_one_half_is_the_plain_bound() -> None:
    before = items_of([True] * 50 + [False] * 50)
    for correct in range(40, 60):
        after = items_of([True] * correct + [False] * (100 - correct))
        plain = MetricBound("accuracy", 100, 45.0)
        found = bound_of(before, 0.5, max_drop=0.05)
        if correct != 45:  # there rounding decides
            assert (slack(found, after) <= 0) == (plain.slack(correct / 100) <= 0)


def test_an_absolute_accuracy_is_held_against_wilsons_limit() -> None:
    before = items_of([True] * 90 + [False] * 10)
    after = items_of([True] * 85 + [False] * 15)
    low = stats.lowest_accuracy(85, 100, 0.9)
    for wanted, met in ((low - 0.001, True), (low + 0.001, False)):
        assert (slack(bound_of(before, 0.9, min_accuracy=wanted), after) <= 0) == met


@given(
    st.lists(st.booleans(), min_size=9, max_size=9),
    st.lists(st.booleans(), min_size=9, max_size=9),
    st.sampled_from([{"max_drop": 0.2}, {"max_drop": 0.45}, {"min_accuracy": 0.3}]),
    st.sampled_from([0.5, 0.8, 0.95]),
)
def test_a_lost_accuracy_is_certain_when_no_ending_could_meet_the_bound(
    before: list[bool], after: list[bool], asked: dict[str, float], confidence: float
) -> None:
    bound = bound_of(items_of(before), confidence, **asked)
    for seen in range(3, 10):
        partial = items_of(after, seen)
        correct = sum(after[:seen])
        certain = bound.certain(bound.best_case(seen, correct, 0.0, partial))
        endings = product([False, True], repeat=9 - seen)
        slacks = [slack(bound, items_of([*after[:seen], *rest])) for rest in endings]
        if abs(min(slacks)) > 1e-6:  # at the limit itself rounding decides, and nothing is certain
            assert certain == (min(slacks) > 0)


def test_a_perplexity_is_held_against_its_highest_credible_ratio() -> None:
    before = windows_of([30.0, 31.0, 29.0, 33.0, 30.5])
    after = windows_of([30.4, 31.2, 29.9, 33.1, 30.6])
    each = (after.sums[0] - before.sums[0]) / 10
    highest = each.mean() + stats.loss_margin(each, np.ones(5), 0.95)
    base = exp(before.sums[0].sum() / 50)
    for share, met in ((1.01 * (exp(highest) - 1), True), (0.99 * (exp(highest) - 1), False)):
        assert (slack(bound_of(before, max_increase=f"{100 * share}%"), after) <= 0) == met
        assert (slack(bound_of(before, max_increase=base * share), after) <= 0) == met
    assert slack(bound_of(before, max_increase="0%"), before) <= 0


def test_an_absolute_perplexity_is_held_against_its_own_limit() -> None:
    after = windows_of([30.4, 31.2, 29.9, 33.1, 30.6])
    high = stats.perplexity_interval(*after.sums, 0.8).high  # two-sided 80 % is one-sided 90 %
    for wanted, met in ((high + 0.01, True), (high - 0.01, False)):
        assert (slack(bound_of(after, 0.9, max_perplexity=wanted), after) <= 0) == met


def test_one_window_shows_nothing() -> None:
    one = windows_of([30.0])
    assert bound_of(one, max_increase="50%").judged(20.0, one) == inf


@given(
    st.lists(st.floats(0.5, 60), min_size=5, max_size=8),
    st.lists(st.floats(0.5, 60), min_size=5, max_size=5),
    st.integers(1, 4),
)
def test_a_lost_perplexity_is_certain_only_if_no_ending_could_meet_the_bound(
    losses: list[float], before: list[float], seen: int
) -> None:
    bound = bound_of(windows_of(before), 0.9, max_increase="20%")
    if bound.certain(bound.best_case(10 * seen, None, sum(losses[:seen]))):
        kindest = [*losses[:seen], *[0.0] * (5 - seen)]
        assert slack(bound, windows_of(kindest)) > 0
        assert slack(bound, windows_of(losses[:5])) > 0


def test_a_bound_that_the_data_cannot_show_is_said_with_the_way_out() -> None:
    same = items_of([True] * 90 + [False] * 10)
    bound = bound_of(same, max_drop=0.02)
    assert slack(bound, same) > 0
    text = unreachable(bound, Baseline("accuracy", 0.9, 100, 90, 0.0, 4), "--max-drop 0.02")
    assert "with 100 sentences" in text
    assert "--max-drop 0.02 at 95 % confidence" in text
    assert "lower --confidence" in text
    assert slack(bound_of(items_of([True] * 200), max_drop=0.02), items_of([True] * 200)) <= 0


def test_the_pruner_judges_reports_as_the_search_does() -> None:
    """From spec and baseline alone, without the items, a reported best case means the same."""
    before = items_of([True] * 300 + [False] * 100)
    bound = bound_of(before, max_drop=0.05)
    plain = MetricBound(bound.metric, bound.n, bound.limit, bound.confidence)
    for best in (0.699, 0.7, 0.701, 0.75):
        assert plain.certain(best) == bound.certain(best) == (best < 0.7)
