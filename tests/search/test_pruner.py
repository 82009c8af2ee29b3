"""The pruner stops exactly what is certain."""

from __future__ import annotations

from math import exp, inf, log, nan

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import TrialState, create_trial

from qslm_opt.evaluate.bounds import MetricBound
from qslm_opt.results import Baseline
from qslm_opt.search.pruner import ConstraintPruner
from tests.search.toy import spec

ACCURACY = spec(task="sst2", max_increase=None, max_drop=0.02)


def study(of=ACCURACY, **baseline) -> optuna.Study:
    made = optuna.create_study(pruner=ConstraintPruner())
    values = {
        "metric": "accuracy",
        "value": 0.9,
        "n": 1000,
        "correct": 900,
        "nll_sum": 1.0,
        "bytes": 1,
        **baseline,
    }
    made.set_user_attr("spec", of.to_json())
    made.set_user_attr("baseline", Baseline(**values).to_json())
    return made


def prunes(of: optuna.Study, *reports: float, tier: str = "block") -> bool:
    choice = optuna.distributions.CategoricalDistribution(["sensitivity", "global", "block", "module"])
    trial = create_trial(
        state=TrialState.RUNNING,
        params={"tier": tier},
        distributions={"tier": choice},
        intermediate_values=dict(enumerate(reports)),
    )
    return of.pruner.prune(of, trial)


def test_one_sentence_too_many_is_certain_and_none_is_not():
    of = study()  # 880 right sentences are needed
    assert not prunes(of, 0.880)
    assert prunes(of, 0.879)


def test_only_the_last_report_counts():
    assert not prunes(study(), 0.5, 0.99)
    assert prunes(study(), 0.99, 0.5)


def test_the_sensitivity_tier_is_never_pruned():
    assert not prunes(study(), 0.0, tier="sensitivity")


@pytest.mark.parametrize("reports", [(), (nan,)])
def test_without_a_number_nothing_is_certain(reports):
    assert not prunes(study(), *reports)


def test_a_study_without_baseline_prunes_nothing():
    assert not prunes(optuna.create_study(pruner=ConstraintPruner()), 0.0)


def test_an_infinite_perplexity_is_certain():
    of = study(spec(max_increase="10%"), metric="perplexity", value=20.0, correct=None)
    assert prunes(of, inf)
    assert not prunes(of, 21.99)
    assert prunes(of, 22.01)


@given(st.lists(st.floats(0, 12), min_size=2, max_size=60), st.floats(1.01, 50), st.data())
def test_no_setting_that_would_have_been_good_enough_is_ever_pruned(terms, limit, data):
    """Every prefix of a run whose full perplexity meets the bound is let go on."""
    n = len(terms)
    bound = MetricBound("perplexity", n, limit)
    total = sum(terms)
    if exp(total / n) > limit:
        terms = [term * max(0.0, log(limit)) * n / total for term in terms]
    of = study(
        spec(max_increase=None, max_perplexity=limit), metric="perplexity", value=1.0, correct=None, n=n
    )
    used = data.draw(st.integers(1, n))
    if bound.slack(exp(sum(terms) / n)) <= 0:
        assert not prunes(of, bound.best_case(used, None, sum(terms[:used])))
