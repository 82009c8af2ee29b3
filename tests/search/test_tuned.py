"""The tier that tunes: smaller answers, few of them tuned, and nothing that depends on the order."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qslm_opt.errors import SpecError
from qslm_opt.search.driver import create_study, run_study
from qslm_opt.search.machine import Verdict, setting_of
from qslm_opt.search.space import SearchSpace
from qslm_opt.search.strategies import Strategy
from qslm_opt.search.summary import RunSummary
from qslm_opt.setting import QuantSetting
from qslm_opt.store import Repository
from tests.search.test_tiers import disorderly, problems, sequential
from tests.search.toy import Recorder, spec, toy

FEW = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
NAMES = ("tiered", "beam", "knapsack")


def strategy(name: str, tune: int = 100) -> Strategy:
    return Strategy(name, spec(strategy=name, tune=tune).tiers, beam_width=2, every=4, tune=tune)


def run(path, **changes) -> RunSummary:
    generous = spec(max_increase="30%", memory_budget="30%", lam=1000, **changes)
    url, session = f"sqlite:///{path}", toy(generous)
    create_study(session.spec, url, session)
    return run_study("toy", url, session, listener=Recorder())


def smallest(path) -> int | None:
    return min((step.proposal.bytes for step in path.candidates), default=None)


@pytest.mark.parametrize("name", NAMES)
@FEW
@given(problem=problems())
def test_tuning_never_makes_the_answer_larger_and_is_the_last_tier(name, problem):
    space, metric = problem
    plain = sequential(space, metric.verdict, strategy(name, 0).path)
    path, told = sequential(space, metric.verdict, strategy(name).path)
    tuned = [p for p in told if p.tune]
    if name != "tiered":  # there, a beam of one incumbent stands in, with the same answer
        assert [p.digest for p in told if not p.tune] == [p.digest for p in plain[1]]
    assert told[len(told) - len(tuned) :] == tuned and all(p.tier == "tuned" for p in tuned)
    before, after = smallest(plain[0]), smallest(path)
    assert before is None or after <= before
    for proposal in tuned:
        setting = setting_of(space, proposal)
        assert setting.tune == 100 and setting.digest(space.hierarchy) == proposal.digest
        assert QuantSetting.from_json(setting.to_json()) == setting


@FEW
@given(problem=problems())
def test_with_a_smooth_metric_no_uniform_level_is_smaller_than_the_answer(problem):
    space, metric = problem
    if metric.noise:
        return
    path, told = sequential(space, metric.verdict, strategy("tiered").path)
    good = [
        space.memory(levels) for levels in map(space.uniform, space.precisions)
        if space.memory(levels) <= space.budget
        and metric.loss(QuantSetting(space.setting_of(levels).units, space.fixed, space.quantizer, 100))
        <= metric.limit
    ]  # fmt: skip
    assert not good or smallest(path) <= min(good)
    assert sum(p.tune > 0 for p in told) <= 5 + len(space.modules).bit_length()


@pytest.mark.parametrize("name", NAMES)
@settings(FEW, max_examples=5)
@given(problem=problems(), workers=st.integers(1, 4), seed=st.integers(0, 10**6))
def test_workers_disorder_and_kills_change_nothing(name, problem, workers, seed):
    space, metric = problem
    how = strategy(name)
    expected, _ = sequential(space, metric.verdict, how.path)
    path = disorderly(space, metric.verdict, workers, random.Random(seed), how.path)
    assert path.visited == expected.visited
    assert path.candidates == expected.candidates
    assert path.progress() == expected.progress()


def test_a_study_stores_what_was_tuned_and_ranks_it(tmp_path):
    plain = run(tmp_path / "a.db")
    tuned = run(tmp_path / "b.db", tune=50)
    assert plain.best is not None and tuned.best is not None
    assert tuned.best.bytes < plain.best.bytes
    assert QuantSetting.from_json(tuned.best.setting).tune == 50
    assert tuned.evaluations["tuned"] >= 1 and "tuned" not in plain.evaluations


def test_steps_out_of_range_are_refused():
    with pytest.raises(SpecError, match="tune -1 is out of range"):
        spec(tune=-1)


def test_an_answer_that_cannot_be_smaller_is_tuned_itself(tmp_path):
    summary = run(tmp_path / "a.db", tune=50, precisions=(8, 6))
    assert summary.best is not None and summary.evaluations["tuned"] == 1
    with Repository(f"sqlite:///{tmp_path}/a.db") as repository:
        trials = repository.trials("toy")
    (tuned,) = [t for t in trials if t.tier == "tuned"]
    assert tuned.bytes == min(t.bytes for t in trials if t.value is not None and t.tier == "global")


@pytest.mark.parametrize("ties", [("attention.*/att.key",), ("attention.*",), ("attention.0/*",)])
def test_tied_modules_are_tuned_at_the_same_bits(ties):
    made = spec(ties=ties, memory_budget="60%")
    space = SearchSpace.of(made, toy(made).hierarchy)
    wanted = [space.positions(unit) for unit in space.moves.smallest]
    asked = []
    for limit in range(12, 60, 4):  # so that bisections end in all places

        def verdict(proposal, share=limit / 100):
            good = proposal.bytes >= share * space.memory(space.uniform(space.precisions[0]))
            return Verdict(good and bool(proposal.tune), proposal.memory_ok, 1.0, 1.0)

        _, told = sequential(space, verdict, strategy("knapsack").path)
        asked += [p for p in told if p.tune]
    assert asked
    assert all(len({p.levels[i] for i in places}) == 1 for p in asked for places in wanted)
