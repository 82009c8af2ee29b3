"""Optuna's published conformance suite on the sampler, and what it asks for, asked on a study of ours."""

from __future__ import annotations

import pickle
from collections import Counter
from functools import partial

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    RelativeSamplerTestCase,
    SingleOnlySamplerTestCase,
)
from optuna.trial import TrialState

from qslm_opt.search.sampler import TieredSampler
from qslm_opt.search.space import SearchSpace
from qslm_opt.search.tiers import Proposal
from tests.search.toy import Metric, hierarchy, spec

SPACE = SearchSpace.of(spec(memory_budget="17%"), hierarchy())
METRIC = Metric(SPACE, limit=2.0)
ALL = 1000
"""More trials than the search has."""


class TestWithoutASpace(BasicSamplerTestCase, RelativeSamplerTestCase, SingleOnlySamplerTestCase):
    @pytest.fixture
    def sampler(self):
        return TieredSampler


class TestWithASpaceOnAStudyOfSomebodyElse(
    BasicSamplerTestCase, RelativeSamplerTestCase, SingleOnlySamplerTestCase
):
    @pytest.fixture
    def sampler(self):
        return partial(TieredSampler, SPACE)


# -- the same demands on a study of ours ----------------------------------------------------------


def ours(sampler: TieredSampler | None = None, **options) -> optuna.Study:
    study = optuna.create_study(sampler=sampler or TieredSampler(SPACE), **options)
    study.set_user_attr("qslm_uuid", "1")
    study.set_user_attr("spec", spec().to_json())
    return study


def tell(trial: optuna.Trial, proposal: Proposal) -> float:
    verdict = METRIC.verdict(proposal)
    trial.set_constraint("metric", 0.0 if verdict.metric_ok is not False else 1.0)
    trial.set_constraint("memory", proposal.bytes / SPACE.budget - 1)
    if not proposal.run:
        raise optuna.TrialPruned
    trial.set_user_attr("value", verdict.value)
    trial.set_user_attr("loss", verdict.loss)
    return verdict.value


def objective(trial: optuna.Trial) -> float:
    return tell(trial, trial.study.sampler.suggest(trial))


def told(study: optuna.Study) -> list[dict]:
    return [t.params for t in study.trials if t.params]


def digests(study: optuna.Study) -> list[str]:
    return [t.user_attrs["digest"] for t in study.trials if t.params]


@pytest.fixture(scope="module")
def sequential() -> optuna.Study:
    study = ours()
    study.optimize(objective, n_trials=ALL)
    assert len(study.trials) > 20
    return study


def test_relative_parameters_are_python_values_of_the_choices(sequential):
    distributions = TieredSampler(SPACE).distributions
    for params in told(sequential):
        assert set(params) == set(distributions)
        for name, value in params.items():
            assert value in distributions[name].choices
            assert type(value) in (int, str)


def test_the_search_space_of_ours_is_relative_and_the_same_in_every_trial(sequential):
    sampler = sequential.sampler
    for trial in sequential.trials:
        assert sampler.infer_relative_search_space(sequential, trial) == sampler.distributions
    assert sampler.infer_relative_search_space(optuna.create_study(), sequential.trials[0]) == {}


def test_other_parameters_of_a_trial_are_sampled_independently_and_change_no_proposal(sequential):
    def with_more(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", -10, 10)
        y = trial.suggest_int("y", 1, 100, log=True)
        z = trial.suggest_categorical("z", ["a", "b"])
        assert -10 <= x <= 10 and 1 <= y <= 100 and z in ("a", "b")
        return tell_beside(trial)

    study = ours(TieredSampler(SPACE, seed=3))
    study.optimize(with_more, n_trials=12)
    names = ("tier", "unit", "bits")
    proposed = [{name: t.user_attrs[name] for name in names} for t in study.trials]
    assert proposed == told(sequential)[:12]
    assert len({t.params["x"] for t in study.trials}) == 12


def tell_beside(trial: optuna.Trial) -> float:
    """Tell the outcome of a trial that has parameters of its own besides the proposal."""
    sampler = trial.study.sampler
    for name, distribution in sampler.distributions.items():
        trial.set_user_attr(name, trial.suggest_categorical(name, distribution.choices))
    proposal, _ = sampler._proposals[trial._trial_id]
    return tell(trial, proposal)


def test_two_objectives_are_refused():
    study = ours(directions=["minimize", "minimize"])
    trial = study._storage.get_trial(study._storage.create_new_trial(study._study_id))
    with pytest.raises(ValueError, match="multi-objective"):
        study.sampler.sample_relative(study, trial, study.sampler.distributions)
    with pytest.raises(ValueError, match="multi-objective"):
        study.sampler.sample_independent(study, trial, "x", FloatDistribution(0, 1))


@pytest.mark.parametrize("value", [float("nan"), None])
def test_an_objective_without_a_number_fails_its_trial_and_the_setting_comes_again(value, sequential):
    def without_a_number(trial: optuna.Trial) -> float | None:
        trial.study.sampler.suggest(trial)
        return value

    study = ours()
    study.optimize(objective, n_trials=5)
    study.optimize(without_a_number, n_trials=1)
    assert study.trials[5].state == TrialState.FAIL
    study.optimize(objective, n_trials=ALL)
    assert digests(study) == [*digests(sequential)[:6], *digests(sequential)[5:]]


def test_a_setting_whose_objective_fails_again_and_again_ends_as_a_violation():
    bad = ours()
    bad.optimize(objective, n_trials=16)
    victim = bad.sampler.peek(bad).digest
    failures = Counter()

    def failing(trial: optuna.Trial) -> float:
        proposal = trial.study.sampler.suggest(trial)
        if proposal.digest == victim:
            failures[victim] += 1
            raise RuntimeError("out of memory")
        return tell(trial, proposal)

    bad.optimize(failing, n_trials=ALL, catch=(RuntimeError,))
    walk = bad.sampler.refresh(bad)
    assert walk.done
    assert failures[victim] == 3
    assert victim not in {step.proposal.digest for step in walk.candidates}
    assert {t.state for t in bad.trials if t.user_attrs["digest"] == victim} == {TrialState.FAIL}


def test_two_jobs_end_with_the_result_of_one(sequential):
    study = ours()
    study.optimize(objective, n_trials=ALL, n_jobs=2)
    walk, alone = study.sampler.refresh(study), sequential.sampler.refresh(sequential)
    assert walk.done
    assert walk.visited == alone.visited
    assert [s.proposal.digest for s in walk.candidates] == [s.proposal.digest for s in alone.candidates]
    assert walk.candidates
    assert {t.state for t in study.trials} == {TrialState.COMPLETE, TrialState.PRUNED}


@pytest.mark.parametrize("trials", [0, 9])
def test_reseeding_changes_no_tier_but_the_random_numbers(trials, sequential):
    study = ours(TieredSampler(SPACE, seed=1))
    study.optimize(objective, n_trials=trials + 1)
    trial = study.trials[0]

    def numbers() -> list[float]:
        line = FloatDistribution(0, 1)
        return [study.sampler.sample_independent(study, trial, "x", line) for _ in range(4)]

    study.sampler.reseed_rng()
    again = TieredSampler(SPACE, seed=1)
    first = [again.sample_independent(study, trial, "x", FloatDistribution(0, 1)) for _ in range(4)]
    assert numbers() != first
    study.optimize(objective, n_trials=ALL)
    assert told(study) == told(sequential)


@pytest.mark.parametrize(("bits", "proposed"), [(2, False), (8, True)])
def test_a_parameter_fixed_by_hand_is_a_proposal_only_where_it_is_what_was_proposed(bits, proposed):
    study = ours()
    sampler = study.sampler
    assert sampler.peek(study).bits == 8
    with pytest.warns(optuna.exceptions.ExperimentalWarning):
        study.sampler = optuna.samplers.PartialFixedSampler({"bits": bits}, sampler)
    trial = study.ask(sampler.distributions)
    assert trial.params["bits"] == bits
    assert (sampler.proposal(trial) is not None) is proposed
    if not proposed:
        with pytest.raises(ValueError, match="this sampler did not propose"):
            sampler.suggest(trial)


def test_a_fixed_parameter_that_is_not_of_the_search_leaves_it_as_it_is(sequential):
    study = ours()
    sampler = study.sampler
    with pytest.warns(optuna.exceptions.ExperimentalWarning):
        study.sampler = optuna.samplers.PartialFixedSampler({"x": 0.25}, sampler)

    def with_x(trial: optuna.Trial) -> float:
        assert trial.suggest_float("x", 0, 1) == 0.25
        for name, distribution in sampler.distributions.items():
            assert isinstance(distribution, CategoricalDistribution)
            trial.set_user_attr(name, trial.suggest_categorical(name, distribution.choices))
        return tell(trial, sampler._proposals[trial._trial_id][0])

    study.optimize(with_x, n_trials=8)
    proposed = [{name: t.user_attrs[name] for name in ("tier", "unit", "bits")} for t in study.trials]
    assert proposed == told(sequential)[:8]


@pytest.mark.parametrize("done", [0, 9])
def test_a_pickled_sampler_goes_on_with_the_study(done, sequential):
    study = ours()
    study.optimize(objective, n_trials=done + 1)
    study.sampler = pickle.loads(pickle.dumps(study.sampler))
    assert study.sampler.space == SPACE
    study.optimize(objective, n_trials=ALL)
    assert told(study) == told(sequential)
