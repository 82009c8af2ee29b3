"""From evaluations to stored outcomes."""

from __future__ import annotations

import json
from math import inf, nan

import pytest
from optuna.trial import TrialState

from qslm_opt.evaluate.bounds import MetricBound
from qslm_opt.results import Evaluation, PowerWindow
from qslm_opt.search.outcome import Judge
from qslm_opt.search.space import SearchSpace
from qslm_opt.search.tiers import TierMachine
from tests.search.toy import hierarchy, spec

SPACE = SearchSpace.of(spec(memory_budget="50%"), hierarchy())
PROPOSAL = TierMachine(SPACE).pending(TierMachine(SPACE).start())
ACCURACY = Judge(SPACE, MetricBound("accuracy", 100, 80.0), 0.2)
PERPLEXITY = Judge(SPACE, MetricBound("perplexity", 100, 20.0), 0.2)


def evaluation(
    metric: str, value: float | None, used: int = 100, correct: int | None = None, nll: float = 50.0
):
    return Evaluation(
        metric,
        value,
        100,
        used,
        correct,
        nll,
        PROPOSAL.bytes,
        SPACE.fp32_bytes,
        0.5,
        "cpu",
        "fp32",
        "numba",
        "d",
        "1",
    )


def test_a_complete_accuracy_run_scores_accuracy_minus_lambda_times_the_memory_ratio():
    outcome = ACCURACY.judge(PROPOSAL, evaluation("accuracy", 0.81, correct=81), None)
    assert outcome.state == TrialState.COMPLETE
    assert outcome.score == 0.81 - 0.2 * (PROPOSAL.bytes / SPACE.fp32_bytes)
    assert outcome.constraints == {"metric": -1 / 80, "memory": PROPOSAL.bytes / SPACE.budget - 1}
    assert outcome.attributes["correct"] == 81
    assert json.loads(outcome.attributes["evaluation"])["kernel"] == "numba"


def test_a_complete_run_below_the_bound_is_complete_and_infeasible():
    outcome = ACCURACY.judge(PROPOSAL, evaluation("accuracy", 0.79, correct=79), None)
    assert outcome.state == TrialState.COMPLETE
    assert outcome.constraints["metric"] > 0


def test_a_stopped_run_is_pruned_with_the_violation_that_was_certain():
    outcome = ACCURACY.judge(PROPOSAL, evaluation("accuracy", None, used=50, correct=20), None)
    assert (outcome.state, outcome.score) == (TrialState.PRUNED, None)
    assert outcome.constraints["metric"] == 10 / 80
    assert outcome.attributes["value"] is None


def test_an_endless_loss_is_stored_as_a_finite_slack():
    outcome = PERPLEXITY.judge(PROPOSAL, evaluation("perplexity", None, used=10, nll=inf), None)
    assert outcome.constraints["metric"] == 1e9
    assert outcome.attributes["loss"] is None
    assert "Infinity" not in outcome.attributes["evaluation"]


def test_a_run_that_stopped_without_a_certain_violation_failed():
    outcome = PERPLEXITY.judge(PROPOSAL, evaluation("perplexity", None, used=10), None)
    assert outcome.state == TrialState.FAIL
    assert outcome.attributes == {"reason": "the run ended after 10 of 100 without a certain violation"}


@pytest.mark.parametrize("value", [inf, nan])
def test_a_value_that_is_not_finite_fails(value):
    outcome = PERPLEXITY.judge(PROPOSAL, evaluation("perplexity", value), None)
    assert outcome.state == TrialState.FAIL
    assert f"perplexity is {value}" in outcome.attributes["reason"]


def test_power_is_stored_only_when_it_was_measured():
    run = evaluation("perplexity", 10.0)
    assert PERPLEXITY.judge(PROPOSAL, run, None).attributes["power_w"] is None
    window = PowerWindow("nvml", 50, 10.0, 300.0, 5.0, 1500.0, idle_w=70.0)
    attributes = PERPLEXITY.judge(PROPOSAL, run, window).attributes
    assert (attributes["power_w"], attributes["energy_j"]) == (300.0, 1500.0)
    assert json.loads(attributes["evaluation"])["power"]["idle_w"] == 70.0


def test_a_memory_violation_needs_no_run():
    outcome = PERPLEXITY.violates_memory(PROPOSAL)
    assert outcome.state == TrialState.PRUNED
    assert outcome.constraints == {"metric": 0.0, "memory": PROPOSAL.bytes / SPACE.budget - 1}
