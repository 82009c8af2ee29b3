"""The sampler under Optuna's own loop, without the driver."""

from __future__ import annotations

import os
import subprocess
import sys

import optuna
import pytest
from optuna.trial import TrialState

from qslm_opt.search.sampler import NothingToProposeError, TieredSampler
from qslm_opt.search.space import SearchSpace
from qslm_opt.search.walk import Walk
from tests.search.toy import Metric, hierarchy, spec

optuna.logging.set_verbosity(optuna.logging.ERROR)
SPACE = SearchSpace.of(spec(memory_budget="17%"), hierarchy())
METRIC = Metric(SPACE, limit=1.2)


def new_study(sampler: TieredSampler) -> optuna.Study:
    study = optuna.create_study(sampler=sampler)
    study.set_user_attr("qslm_uuid", "1")
    study.set_user_attr("spec", spec().to_json())
    return study


def objective(trial: optuna.Trial) -> float:
    proposal = trial.study.sampler.suggest(trial)
    verdict = METRIC.verdict(proposal)
    trial.set_constraint("metric", 0.0 if verdict.metric_ok is not False else 1.0)
    trial.set_constraint("memory", proposal.bytes / SPACE.budget - 1)
    if not proposal.run:
        raise optuna.TrialPruned
    trial.set_user_attr("value", verdict.value)
    trial.set_user_attr("loss", verdict.loss)
    return verdict.value


def expected() -> list[tuple[str, str, int]]:
    """(tier, unit, bits) of one sequential search."""
    walk, verdicts, told = Walk(SPACE), {}, []
    while (proposal := next(walk.proposals(verdicts), None)) is not None:
        told.append((proposal.tier, proposal.unit, proposal.bits))
        verdicts[proposal.digest] = METRIC.verdict(proposal)
    return told


def params(study: optuna.Study) -> list[tuple[str, str, int]]:
    return [(t.params["tier"], t.params["unit"], t.params["bits"]) for t in study.trials if t.params]


def test_optimize_runs_the_tiers_in_order_and_stops_by_itself_without_a_trial_too_many():
    study = new_study(TieredSampler(SPACE))
    study.optimize(objective, n_trials=1000)
    assert params(study) == expected()
    assert len(study.trials) == len(expected())


def test_a_new_sampler_goes_on_where_the_last_one_was():
    study = new_study(TieredSampler(SPACE))
    study.optimize(objective, n_trials=17)
    study.sampler = TieredSampler(SPACE, seed=5)
    study.optimize(objective, n_trials=1000)
    assert params(study) == expected()


@pytest.fixture
def restless_threads():
    """Let threads take turns a thousand times as often: what is not locked breaks."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(before)


def test_threads_do_not_repeat_each_other_and_visit_what_one_would(restless_threads):
    study = new_study(TieredSampler(SPACE))
    study.optimize(objective, n_trials=1000, n_jobs=3)
    assert set(expected()) <= set(params(study))
    walk = study.sampler.refresh(study)
    assert walk.done
    measured = [t.user_attrs["digest"] for t in study.trials if "value" in t.user_attrs]
    assert len(measured) - len(set(measured)) <= 2  # the last one may be run by every idle thread


def test_an_exhausted_study_prunes_one_trial_without_parameters_and_stops():
    study = new_study(TieredSampler(SPACE))
    study.optimize(objective, n_trials=1000)
    before = len(study.trials)
    study.optimize(objective, n_trials=10)
    assert [(t.state, t.params) for t in study.trials[before:]] == [(TrialState.PRUNED, {})]


def test_what_others_are_running_is_not_proposed_again():
    sampler = TieredSampler(SPACE)
    study = new_study(sampler)
    trials = [study.ask(sampler.distributions) for _ in range(40)]
    assert len({sampler.proposal(t)[0].digest for t in trials}) == 40
    for trial in trials:
        stored = study._storage.get_trial(trial._trial_id)
        proposal, uuid = sampler.proposal(trial)
        assert stored.user_attrs["digest"] == proposal.digest
        assert stored.user_attrs["uuid"] == uuid
        assert stored.user_attrs["setting"] == SPACE.setting_of(proposal.levels, proposal.fixed).to_json()
        assert stored.user_attrs["bytes"] == proposal.bytes
        assert stored.user_attrs["fp32_bytes"] == SPACE.hierarchy.fp32_bytes()


def test_a_failed_setting_is_proposed_again_and_counts_as_violated_after_three_times():
    sampler = TieredSampler(SPACE)
    study = new_study(sampler)
    digests = []
    for _ in range(4):
        trial = study.ask(sampler.distributions)
        digests.append(sampler.proposal(trial)[0].digest)
        study.tell(trial, state=TrialState.FAIL)
    assert len(set(digests[:3])) == 1
    assert digests[3] != digests[0]
    assert sampler.walk.steps[0].verdict.failed


@pytest.mark.parametrize("reason", ["interrupted: the run was stopped", "stale: its process is gone"])
def test_a_trial_that_was_cut_off_is_not_held_against_its_setting(reason):
    sampler = TieredSampler(SPACE)
    study = new_study(sampler)
    for _ in range(5):
        trial = study.ask(sampler.distributions)
        trial.set_user_attr("reason", reason)
        study.tell(trial, state=TrialState.FAIL)
    assert sampler.refresh(study).visited == ()


def test_a_patient_sampler_says_when_there_is_nothing_to_propose():
    sampler = TieredSampler(SPACE, patient=True)
    study = new_study(sampler)
    study.optimize(objective, n_trials=len(expected()) - 1)

    def ask_on():
        for _ in range(20):
            study.ask(sampler.distributions)

    with pytest.raises(NothingToProposeError):
        ask_on()
    assert sampler.others
    assert sampler.peek(study) is None


def test_the_choices_of_the_parameters_are_constant_and_hold_every_proposal():
    distributions = TieredSampler(SPACE).distributions
    for tier, unit, bits in expected():
        for name, value in {"tier": tier, "unit": unit, "bits": bits}.items():
            assert value in distributions[name].choices


def test_on_a_study_of_somebody_else_it_samples_at_random_and_independently():
    study = optuna.create_study(sampler=TieredSampler(SPACE, seed=1))
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=20)
    assert len({t.params["x"] for t in study.trials}) == 20


def test_a_seed_gives_the_same_numbers_in_another_process():
    code = (
        "import optuna, qslm_opt.search.sampler as s; optuna.logging.set_verbosity(40);"
        "study = optuna.create_study(sampler=s.TieredSampler(seed=7));"
        "study.optimize(lambda t: t.suggest_float('x', 0, 1) + t.suggest_int('k', 0, 99), n_trials=5);"
        "print([sorted(t.params.items()) for t in study.trials])"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(outputs) == 1
    assert "x" in outputs.pop()
