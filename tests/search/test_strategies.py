"""Beam, knapsack and Optuna's samplers as pure machines: exact, orderless, and never worse than uniform."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from math import exp

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qslm_opt.errors import SpecError
from qslm_opt.search.machine import Proposal, Verdict
from qslm_opt.search.space import SearchSpace
from qslm_opt.search.strategies import Strategy, machine_of
from qslm_opt.search.walk import Walk
from tests.search.test_tiers import disorderly, problems, sequential
from tests.search.toy import Metric, hierarchy, spec

FEW = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
STRATEGIES = (
    Strategy("beam", spec(strategy="beam").tiers, beam_width=3),
    Strategy("knapsack", spec(strategy="knapsack").tiers, every=4),
    Strategy("knapsack", spec(strategy="knapsack", gate=True).tiers, gate=True, every=4),
    Strategy("beam", spec(strategy="beam", gate=True).tiers, gate=True, beam_width=2),
    Strategy("nsga2", spec(strategy="nsga2").tiers, evaluations=30),
)
OURS = STRATEGIES[:4]


def named(how: object) -> str:
    return how.name + "+gate" * how.gate if isinstance(how, Strategy) else str(how)


def smallest(path) -> int | None:
    return min((step.proposal.bytes for step in path.candidates), default=None)


def best_uniform(space: SearchSpace, metric: Metric) -> int | None:
    sizes = [
        space.memory(space.uniform(n)) for n in space.precisions
        if space.memory(space.uniform(n)) <= space.budget
        and metric.loss(space.setting_of(space.uniform(n))) <= metric.limit
    ]  # fmt: skip
    return min(sizes, default=None)


@pytest.mark.parametrize("how", STRATEGIES, ids=named)
@FEW
@given(problem=problems())
def test_candidates_are_exactly_what_was_measured_and_meets_both_constraints(how, problem):
    space, metric = problem
    path, told = sequential(space, metric.verdict, how.path)
    feasible = {
        p.digest for p in told
        if not p.cheap and p.bytes <= space.budget
        and metric.loss(space.setting_of(p.levels, p.fixed)) <= metric.limit
    }  # fmt: skip
    assert {step.proposal.digest for step in path.candidates} == feasible
    assert all(p.bytes == space.memory(p.levels, p.fixed) for p in told)
    assert path.spent == pytest.approx(sum(p.cost for p in {p.digest: p for p in told}.values()))


@pytest.mark.parametrize("how", STRATEGIES, ids=named)
@FEW
@given(problem=problems())
def test_the_answer_is_never_larger_than_the_best_uniform_one_that_is_feasible(how, problem):
    space, metric = problem
    uniform = best_uniform(space, metric)
    if uniform is not None:
        assert smallest(sequential(space, metric.verdict, how.path)[0]) <= uniform


@FEW
@given(problem=problems(), width=st.integers(1, 4))
def test_the_beam_is_never_larger_than_the_greedy_tiers(problem, width):
    space, metric = problem
    greedy = smallest(sequential(space, metric.verdict)[0])
    path, _ = sequential(space, metric.verdict, Strategy("beam", beam_width=width).path)
    if greedy is not None:
        assert smallest(path) <= greedy
    if width == 1:
        assert smallest(path) == greedy


@pytest.mark.parametrize("how", STRATEGIES, ids=named)
@settings(FEW, max_examples=5)
@given(problem=problems(), workers=st.integers(1, 5), seed=st.integers(0, 10**6))
def test_workers_disorder_and_kills_change_nothing(how, problem, workers, seed):
    space, metric = problem
    expected, _ = sequential(space, metric.verdict, how.path)
    path = disorderly(space, metric.verdict, workers, random.Random(seed), how.path)
    assert path.visited == expected.visited
    assert path.candidates == expected.candidates
    assert path.progress() == expected.progress()
    assert path.spent == expected.spent


@pytest.mark.parametrize("how", OURS[1:3], ids=named)
@FEW
@given(problem=problems())
def test_pins_hold_in_every_setting(how, problem):
    space, metric = problem
    for proposal in sequential(space, metric.verdict, how.path)[1]:
        setting = space.setting_of(proposal.levels, proposal.fixed)
        pinned = {unit: fmt for unit, fmt in space.pins.items() if "/" in unit}
        assert {unit: setting.format_of(unit) for unit in pinned} == pinned


@pytest.mark.parametrize("how", STRATEGIES[:2], ids=named)
@FEW
@given(problem=problems(), n=st.integers(2, 8))
def test_speculation_starts_with_what_is_needed_and_never_repeats(how, problem, n):
    space, metric = problem
    path, verdicts = how.path(space), {}
    while offered := [p for p, _ in zip(path.proposals(verdicts), range(n), strict=False)]:
        assert not offered[0].speculative
        flags = [p.speculative for p in offered]
        assert flags == sorted(flags)
        assert len({p.digest for p in offered}) == len(offered)
        verdicts[offered[0].digest] = metric.verdict(offered[0])
    assert path.done


def test_workers_find_something_to_do_while_one_decision_is_open():
    space, metric = big(0)
    path, verdicts, ahead = Strategy("knapsack", spec(strategy="knapsack").tiers).path(space), {}, 0
    while (proposal := next(path.proposals(verdicts), None)) is not None:
        if proposal.tier == "allocation":
            ahead += next(path.proposals(verdicts, {proposal.digest}), None) is not None
            if ahead == 3:
                return
        verdicts[proposal.digest] = metric(proposal)
    raise AssertionError(f"only {ahead} decisions left something to do")


@pytest.mark.parametrize("how", [*OURS, Strategy()], ids=named)
@pytest.mark.parametrize("cap", [1, 7, 23])
def test_a_cap_on_evaluations_holds_and_the_shorter_search_begins_as_the_longer(how, cap):
    space = SearchSpace.of(spec(memory_budget="30%"), hierarchy(attention=3))
    metric = Metric(space, limit=1.4)
    path, told = sequential(space, metric.verdict, replace(how, evaluations=cap).path)
    assert path.done
    assert path.spent == sum(p.cost for p in told) <= cap


# -- a model of 84 modules -------------------------------------------------------------------------

MODULES = ("att.key", "att.value", "att.receptance", "att.output", "ffn.key", "ffn.value", "ffn.receptance")


def big(seed: int, cross: float = 0.0, limit: float = 1.08):
    """A space of 84 modules with levels down to 1 bit, and a loss with (cross > 0) terms of pairs."""
    tree = hierarchy(attention=12, modules=MODULES, width=64, vocabulary=500, sign_only=True)
    pins = {"output": "int4/channel/affine"}
    low = spec(memory_budget="30%", precisions=(4, 3, 2, 1.58, 1), sign_embedding=True, pins=pins)
    space = SearchSpace.of(low, tree)
    count, rng = len(space.modules), random.Random(seed)
    weights = [rng.lognormvariate(0, 1.2) / count * 6 for _ in range(count)]
    pairs = [(rng.randrange(count), rng.randrange(count), rng.uniform(-1, 1) * cross) for _ in range(count)]

    def distortion(bits: float) -> float:
        return 0.0 if bits >= 16 else 4.0**-bits

    def loss(levels) -> float:
        total = 1 + sum(w * distortion(b) for w, b in zip(weights, levels, strict=True))
        return total + sum(c * (distortion(levels[i]) * distortion(levels[j])) ** 0.5 for i, j, c in pairs)

    def say(proposal: Proposal) -> Verdict:
        if not proposal.run:
            return Verdict(None, False)
        found = loss(proposal.levels)
        if proposal.every > 1:
            noise = random.Random(proposal.digest).gauss(0, 2e-4)
            return Verdict(None, proposal.memory_ok, loss=found + noise)
        return Verdict(found <= limit, proposal.memory_ok, exp(found), found, slack=exp(found - limit) - 1)

    return space, say


@pytest.mark.parametrize(("seed", "cross"), [(0, 0.0), (1, 0.05)])
def test_knapsack_is_smaller_than_the_tiers_at_a_third_of_the_evaluations(seed, cross):
    space, say = big(seed, cross)
    assert len(space.modules) == 84
    tiers, _ = sequential(space, say)
    path, told = sequential(space, say, Strategy("knapsack", spec(strategy="knapsack").tiers, every=8).path)
    assert smallest(path) < 0.96 * smallest(tiers)
    assert path.spent <= 0.34 * tiers.spent
    assert path.spent == pytest.approx(sum(p.cost for p in told))
    assert {b for p in told if p.tier == "allocation" for b in p.levels} >= {4, 2, 1}


def test_few_evaluations_make_the_knapsack_measure_blocks():
    space, say = big(0)
    how = Strategy("knapsack", spec(strategy="knapsack").tiers, evaluations=30, every=4)
    path, told = sequential(space, say, how.path)
    units = {p.unit for p in told if p.tier == "steps"} - {"network"}
    assert units == set(space.blocks)
    assert path.spent <= 30
    assert smallest(path) < best_of_uniform(space, say)


def best_of_uniform(space: SearchSpace, say) -> int:
    sizes = []
    for bits in space.precisions:
        levels = space.uniform(bits)
        size = space.memory(levels)
        proposal = Proposal("global", "network", bits, levels, levels, "", size, size <= space.budget, True)
        if say(proposal).metric_ok:
            sizes.append(size)
    return min(sizes)


def test_a_move_is_refused_twice_at_most_and_refusals_end_the_refinement():
    space, say = big(1)
    path = Strategy("knapsack", spec(strategy="knapsack").tiers, every=8).path(space)

    def stubborn(proposal: Proposal) -> Verdict:
        verdict = say(proposal)
        return replace(verdict, metric_ok=False) if proposal.tier == "refinement" else verdict

    verdicts = {}
    while (proposal := next(path.proposals(verdicts), None)) is not None:
        verdicts[proposal.digest] = stubborn(proposal)
    tried = [step for step in path.steps if step.proposal.tier == "refinement"]
    assert len(tried) == 8


# -- when nothing, or hardly anything, is good -------------------------------------------------------


@pytest.mark.parametrize("how", OURS, ids=named)
def test_without_any_good_setting_there_is_no_candidate(how):
    space = SearchSpace.of(spec(memory_budget="20%"), hierarchy())
    path, told = sequential(space, Metric(space, limit=0.5).verdict, how.path)
    assert path.candidates == ()
    assert any(p.tier == "global" and p.run for p in told)


def test_a_failed_step_counts_as_the_worst_one():
    space, say = big(2)
    bad = space.modules[3]

    def failing(proposal: Proposal) -> Verdict:
        if proposal.every > 1 and proposal.unit == bad:
            return Verdict(False, True, failed=True)
        return say(proposal)

    path, told = sequential(space, failing, Strategy("knapsack", spec(strategy="knapsack").tiers).path)
    first = next(p for p in told if p.tier == "allocation")
    assert first.levels[3] >= max(Counter(first.levels))  # what could not be measured is not lowered
    assert path.candidates


# -- the gate ---------------------------------------------------------------------------------------


@FEW
@given(problem=problems(), seed=st.integers(0, 10**6))
def test_what_the_gate_postpones_is_evaluated_in_the_end_where_it_could_improve_the_answer(problem, seed):
    space, metric = problem
    how = STRATEGIES[2]

    def say(proposal: Proposal) -> Verdict:  # a drift that says nothing at all about the metric
        verdict = metric.verdict(proposal)
        drift = random.Random(f"{seed}{proposal.digest}").random()
        return replace(verdict, drift=drift) if proposal.drift else verdict

    path, told = sequential(space, say, how.path)
    drifted = {p.digest.removesuffix("~drift"): p for p in told if p.drift}
    best = smallest(path)
    moved = [p for p in told if p.tier in ("refinement", "postponed")]
    assert {p.digest for p in moved} <= set(drifted)
    if best is not None and any(p.tier == "postponed" for p in told):
        good = [s for s in path.steps if s.proposal.tier == "refinement" and s.verdict.metric_ok]
        last = [step.proposal.bytes for step in good]
        assert all(p.bytes < min(last, default=10**12) for p in told if p.tier == "postponed")


# -- Optuna's samplers ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tpe", "nsga2", "random"])
def test_optunas_samplers_repeat_with_the_seed_and_spend_what_they_may(name):
    space = SearchSpace.of(spec(memory_budget="20%"), hierarchy())
    metric = Metric(space, limit=1.4)
    how = Strategy(name, spec(strategy=name).tiers, evaluations=25, seed=3)
    path, told = sequential(space, metric.verdict, how.path)
    again, _ = sequential(space, metric.verdict, how.path)
    other, _ = sequential(space, metric.verdict, replace(how, seed=4).path)
    assert path.visited == again.visited != other.visited
    assert sum(p.run for p in told) <= 25
    assert sum(p.run for p in told) >= 20
    assert all(p.to_end for p in told)
    assert all(not p.run for p in told if not p.memory_ok)
    assert [p.bits for p in told if p.tier == "global"] == list(space.precisions)


def test_optunas_samplers_learn_from_the_bytes_and_the_violations():
    space = SearchSpace.of(spec(memory_budget="30%"), hierarchy(attention=2))
    metric = Metric(space, limit=1.6)
    found = {}
    for name in ("tpe", "random"):
        how = Strategy(name, spec(strategy=name).tiers, evaluations=80, seed=1)
        _, told = sequential(space, metric.verdict, how.path)
        late = [p for p in told if p.tier == "sampled" and p.run][20:]
        good = [metric.verdict(p).metric_ok for p in late]
        found[name] = sum(good) / len(good), sum(p.bytes for p in late) / len(late)
    assert found["tpe"][0] > found["random"][0]
    assert found["tpe"][1] < found["random"][1] * 1.1


# -- the spec ---------------------------------------------------------------------------------------


def test_the_strategy_of_a_spec_and_the_share_by_the_size_of_the_data():
    assert isinstance(machine_of(spec(), SearchSpace.of(spec(), hierarchy())), Walk)
    knapsack = spec(strategy="knapsack")
    assert [Strategy.of(knapsack, n).every for n in (100, 16_384, 10**6)] == [2, 4, 8]
    assert Strategy.of(spec(strategy="knapsack", every=5), 10**6).every == 5
    assert "gate" not in knapsack.tiers
    assert "gate" in spec(strategy="knapsack", gate=True).tiers


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"strategy": "knapsak"}, "'knapsak' is unknown.*Did you mean 'knapsack'"),
        ({"gate": True}, "does nothing with strategy 'tiered'"),
        ({"strategy": "tpe", "gate": True}, "does nothing with strategy 'tpe'"),
        ({"beam_width": 0}, "beam_width 0"),
        ({"evaluations": 0}, "evaluations 0"),
        ({"every": 1}, "every 1 is out of range"),
    ],
)
def test_a_strategy_that_cannot_be_is_refused(changes, words):
    with pytest.raises(SpecError, match=words):
        spec(**changes)


def test_keys_of_the_strategy_change_the_hash_only_where_they_are_given():
    assert spec().hash() == spec(strategy="tiered", beam_width=4, gate=False).hash()
    assert spec().hash() == spec(seed=7).hash()
    different = {spec(strategy=name).hash() for name in ("tiered", "beam", "knapsack", "tpe")}
    assert len(different) == 4
    assert spec(strategy="tpe").hash() != spec(strategy="tpe", seed=7).hash()
