"""The walk against a straight-line reference, and against every disorder that workers can make."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qslm_opt.errors import InfeasibleError, SettingError
from qslm_opt.formats import FP32
from qslm_opt.search.space import SearchSpace
from qslm_opt.search.tables import Levels
from qslm_opt.search.tiers import Proposal, Verdict
from qslm_opt.search.walk import Walk
from tests.search.toy import Metric, chosen, hierarchy, spec

Say = Callable[[Proposal], Verdict]
TIES = st.sampled_from(
    [(), (), ("attention.*/att.key",), ("input/emb,output/head",), ("attention.0",),
     ("attention.*/ffn.key", "attention.0/att.key,output"), ("attention.*,output/head",)]
)  # fmt: skip
QUICK = settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def problems(draw: st.DrawFn) -> tuple[SearchSpace, Metric]:
    """A search space and a metric: budgets from hopeless to generous, metrics from smooth to wild."""
    tree = hierarchy(
        attention=draw(st.integers(1, 3)),
        modules=draw(
            st.sampled_from([("att.key",), ("att.key", "ffn.key"), ("att.key", "att.value", "ffn.key")])
        ),
        sign_only=draw(st.booleans()),
        dead_head=draw(st.booleans()),
    )
    levels = draw(st.lists(st.sampled_from([16, 8, 6, 4, 3, 2]), min_size=1, max_size=5, unique=True))
    levels = sorted(levels, reverse=True)
    pins = draw(
        st.dictionaries(
            st.sampled_from(["attention.0", "attention.0/att.key", "input"]),
            st.just("int8/channel/affine"),
            max_size=1,
        )
    )
    wide = spec(
        memory_budget="100%", precisions=levels, pins=pins, sign_embedding=True, ties=draw(TIES),
        exclude=draw(st.sampled_from([(), ("attention.1/att.key",), ("output",)])),
        sensitivity_precisions=draw(st.sampled_from([None, [4], [8, 3]])),
        fixed=draw(st.sampled_from(["fp16", "fp32"])),
    )  # fmt: skip
    try:
        free = SearchSpace.of(wide, tree)
    except SettingError:  # everything is pinned, or a tie or an exclusion that cannot be
        free = SearchSpace.of(spec(memory_budget="100%", precisions=levels), tree)
    low, high = free.smallest()[0], free.memory(free.uniform(32))
    budget = low + int((high - low) * draw(st.floats(0, 0.6)))
    space = SearchSpace(
        tree,
        free.precisions,
        free.sensitivity_precisions,
        free.layout,
        free.fixed,
        free.quantizer,
        free.pins,
        budget,
        free.ties,
    )
    noise = draw(st.sampled_from([0.0, 0.05, 0.5]))
    limit = draw(st.floats(0.9, 2.5))
    return space, Metric(space, draw(st.integers(0, 10**6)), noise, limit)


def sequential(space: SearchSpace, say: Say, make: Callable = Walk) -> tuple[Walk, list[Proposal]]:
    """One worker, one trial after the other; returns the walk and what was proposed."""
    walk, verdicts, told = make(space), {}, []
    while (proposal := next(walk.proposals(verdicts), None)) is not None:
        told.append(proposal)
        verdicts[proposal.digest] = say(proposal)
        assert len(told) < 5000
    assert walk.done
    return walk, told


def reference(space: SearchSpace, metric: Metric) -> tuple[list[str], Levels]:
    """The rules of the search as loops: digests in the order of their first visit, and the last incumbent."""
    visited: list[str] = []

    def ok(levels: Levels, fixed=None) -> bool:
        visited.append(space.digest(levels, fixed))
        return metric.loss(space.setting_of(levels, fixed)) <= metric.limit

    def fits(levels: Levels) -> bool:
        return space.memory(levels) <= space.budget

    def tie(unit: str) -> tuple[str, ...]:
        return next((group for group in space.ties if unit in group), (unit,))

    def spans(unit: str) -> bool:
        return len({member.split("/")[0] for member in tie(unit)}) > 1

    def moved(unit: str) -> list[str]:
        if "/" in unit:
            return list(tie(unit))
        return [m for m in space.modules if m.startswith(f"{unit}/") and not spans(m)]

    def lowered(levels: Levels, units: list[str], bits) -> Levels:
        return tuple(bits if m in units else b for m, b in zip(space.modules, levels, strict=True))

    fp32, sensitivity = space.uniform(32), {}
    for block in space.blocks:
        sums = []
        for bits in space.sensitivity_precisions:
            inside = [m for m in space.modules if m.startswith(f"{block}/")]
            levels = lowered(fp32, [other for m in inside for other in tie(m)], bits)
            ok(levels, FP32)
            sums.append(metric.loss(space.setting_of(levels, FP32)))
        sensitivity[block] = sum(sums) / len(sums)
    order = sorted(space.blocks, key=sensitivity.__getitem__)
    good = [n for n in space.precisions if ok(space.uniform(n)) and fits(space.uniform(n))]
    incumbent = space.uniform(good[-1]) if good else fp32
    if not good:
        above = [n for n in reversed(space.precisions) if not fits(space.uniform(n))]
        incumbent = next((space.uniform(n) for n in above if ok(space.uniform(n))), fp32)
    inside = [m for b in order for m in space.modules if m.startswith(f"{b}/")]
    one_by_one = [tie(m)[0] for m in inside if m.startswith("attention") or spans(m)]
    targets = [*(b for b in order if moved(b)), *dict.fromkeys(one_by_one)]
    for i, unit in enumerate(targets):
        while (lower := space.below(incumbent[space.modules.index(moved(unit)[0])])) is not None:
            levels = lowered(incumbent, moved(unit), lower)
            smallest = levels
            for other in targets[i:]:
                smallest = lowered(smallest, moved(other), space.lowest)
            if not fits(levels) and not fits(smallest):
                visited.append(space.digest(levels))
                return list(dict.fromkeys(visited)), incumbent
            if not ok(levels):
                break
            incumbent = levels
    return list(dict.fromkeys(visited)), incumbent


@QUICK
@given(problems())
def test_the_walk_is_the_straight_line_search(problem):
    space, metric = problem
    walk, _ = sequential(space, metric.verdict)
    visited, incumbent = reference(space, metric)
    assert list(walk.visited) == visited
    assert walk.incumbent == incumbent


@QUICK
@given(problems(), st.integers(1, 5), st.integers(0, 10**6))
def test_workers_disorder_and_kills_change_nothing(problem, workers, seed):
    space, metric = problem
    expected, _ = sequential(space, metric.verdict)
    walk = disorderly(space, metric.verdict, workers, random.Random(seed))
    assert walk.visited == expected.visited
    assert walk.incumbent == expected.incumbent
    assert walk.order == expected.order
    assert results(walk) == results(expected)


def disorderly(
    space: SearchSpace, say: Say, workers: int, rng: random.Random, make: Callable = Walk
) -> Walk:
    """Workers that start, end and die in any order; now and then the walk is rebuilt from its verdicts."""
    walk, verdicts, running = make(space), {}, {}
    for _ in range(20000):
        if walk.extend(verdicts).done:
            return walk
        action = rng.random()
        if action < 0.05:  # a worker is killed: its trial is lost
            if running:
                running.pop(rng.choice(sorted(running)))
        elif action < 0.1:  # everybody is killed; somebody resumes
            running, walk = {}, make(space)
        elif action < 0.55 and len(running) < workers:
            proposal = next(walk.proposals(verdicts, running), None)
            if proposal is not None:
                assert proposal.digest not in running
                running[proposal.digest] = proposal
        elif running:
            digest = rng.choice(sorted(running))
            proposal = running.pop(digest)
            known = verdicts.get(digest)
            if known is None or known.metric_ok is None:
                verdicts[digest] = say(proposal)
    raise AssertionError("the search did not come to its end")


def results(walk: Walk) -> tuple[list[str], str | None]:
    candidates = [(s.verdict.value, s.proposal.bytes) for s in walk.candidates]
    best = chosen(candidates, 0.2, walk.machine.space.fp32_bytes)
    digests = [s.proposal.digest for s in walk.candidates]
    return digests, None if best is None else digests[best]


@QUICK
@given(problems())
def test_no_candidate_violates_a_constraint_and_none_that_is_feasible_is_left_out(problem):
    space, metric = problem
    walk, told = sequential(space, metric.verdict)
    feasible = {
        p.digest
        for p in told
        if p.bytes <= space.budget and metric.loss(space.setting_of(p.levels, p.fixed)) <= metric.limit
    }
    assert {step.proposal.digest for step in walk.candidates} == feasible


@QUICK
@given(problems(), st.floats(0, 3))
def test_the_chosen_setting_is_never_worse_than_the_best_feasible_uniform_one(problem, lam):
    space, metric = problem
    walk, _ = sequential(space, metric.verdict)
    scores = [s.verdict.value + lam * s.proposal.bytes / space.fp32_bytes for s in walk.candidates]
    for n in space.precisions:
        loss = metric.loss(space.setting_of(space.uniform(n)))
        size = space.memory(space.uniform(n))
        if size <= space.budget and loss <= metric.limit:
            value = metric.verdict(
                Proposal("global", "network", n, space.uniform(n), (), "", size, True, True)
            ).value
            assert min(scores) <= value + lam * size / space.fp32_bytes


@QUICK
@given(problems())
def test_a_uniform_memory_violator_is_run_only_when_no_level_that_fits_is_good_enough(problem):
    space, metric = problem
    walk, told = sequential(space, metric.verdict)
    uniform = [p for p in told if p.tier == "global"]
    violators = [p for p in uniform if not p.memory_ok]
    fitting_ok = any(p.memory_ok and metric.verdict(p).metric_ok for p in uniform)
    assert all(not p.run for p in violators) or not fitting_ok
    assert {p.bits for p in violators if not p.run} == {p.bits for p in violators}
    assert {space.digest(space.uniform(n)) for n in space.precisions} <= set(walk.visited)


@QUICK
@given(problems())
def test_pins_hold_in_every_setting(problem):
    space, metric = problem
    _, told = sequential(space, metric.verdict)
    pinned = {u: f for u, f in space.pins.items() if "/" in u}
    for block in (b for b in space.hierarchy.blocks if b.unit in space.pins):
        searched = [m.unit for m in block.modules if m.searched and m.unit not in pinned]
        pinned.update(dict.fromkeys(searched, space.pins[block.unit]))
    for proposal in told:
        setting = space.setting_of(proposal.levels, proposal.fixed)
        assert {unit: setting.format_of(unit) for unit in pinned} == pinned


@QUICK
@given(problems())
def test_tied_modules_have_the_same_bits_in_every_setting(problem):
    space, metric = problem
    _, told = sequential(space, metric.verdict)
    for proposal in told:
        setting = space.setting_of(proposal.levels, proposal.fixed)
        for tie in space.ties:
            assert len({setting.format_of(unit) for unit in tie}) == 1


@QUICK
@given(problems(), st.integers(2, 8))
def test_speculation_starts_with_what_is_needed_and_never_repeats(problem, n):
    space, metric = problem
    walk, verdicts = Walk(space), {}
    while True:
        offered = [p for p, _ in zip(walk.proposals(verdicts), range(n), strict=False)]
        if not offered:
            break
        assert not offered[0].speculative
        assert offered[0] == walk.machine.pending(walk.state)
        flags = [p.speculative for p in offered]
        assert flags == sorted(flags)
        assert len({(p.digest, p.run) for p in offered}) == len(offered)
        verdicts[offered[0].digest] = metric.verdict(offered[0])
    assert walk.done


@QUICK
@given(problems())
def test_totals_are_bounds_and_end_exact(problem):
    space, metric = problem
    final, told = sequential(space, metric.verdict)
    totals = {p.tier: p.total for p in final.progress()}
    assert all(p.done == p.total for p in final.progress())
    walk, verdicts = Walk(space), {}
    for proposal in told:
        verdicts[proposal.digest] = metric.verdict(proposal)
        walk.extend(verdicts)
        reached = walk.tier
        for p in walk.progress():
            upward = p.tier == "global" and walk.machine.skipped
            if p.tier == reached and not upward:
                assert p.total >= totals[p.tier]


def space_and_metric(**changes) -> tuple[SearchSpace, Metric]:
    space = SearchSpace.of(spec(**changes), hierarchy())
    return space, Metric(space)


def test_every_level_that_fits_is_measured_after_a_bad_one_too():
    space, _ = space_and_metric(memory_budget="25%")
    fitting = [n for n in space.precisions if space.memory(space.uniform(n)) <= space.budget]
    assert fitting == [6, 4, 3, 2]

    def say(p: Proposal) -> Verdict:  # only 6 and 3 bits are good enough
        return Verdict(p.tier == "global" and p.bits in (6, 3), p.memory_ok, 1.0, 1.0)

    walk, told = sequential(space, say)
    assert [p.bits for p in told if p.tier == "global" and p.run] == fitting
    assert walk.incumbent == space.uniform(3)


def test_levels_skipped_for_memory_are_measured_upward_when_none_that_fits_is_good_enough():
    space, _ = space_and_metric(memory_budget="15%")

    def say(p: Proposal) -> Verdict:
        if not p.run:
            return Verdict(None, False)
        return Verdict(p.tier == "global" and p.bits >= 6, p.memory_ok, 1.0, 1.0)

    walk, told = sequential(space, say)
    told_bits = [(p.bits, p.run) for p in told if p.tier == "global"]
    assert told_bits == [(8, False), (6, False), (4, False), (3, True), (2, True), (4, True), (6, True)]
    assert walk.incumbent == space.uniform(6)
    assert walk.candidates == ()


def test_without_any_good_level_the_blocks_start_from_the_unquantized_model():
    space, _ = space_and_metric(memory_budget="100%")

    def say(p: Proposal) -> Verdict:
        return Verdict(None, False) if not p.run else Verdict(False, p.memory_ok, 1.0, 1.0)

    walk, told = sequential(space, say)
    assert walk.incumbent == space.uniform(32)
    assert [p.bits for p in told if p.tier == "block"] == [8, 8, 8, 8]


def test_a_block_step_above_the_budget_is_measured_while_the_rest_can_still_make_room():
    space, _ = space_and_metric(memory_budget="14%")

    def say(p: Proposal) -> Verdict:  # no uniform level below 8 is good, all mixed ones are
        if not p.run:
            return Verdict(None, False)
        return Verdict(p.tier in ("block", "module") or p.bits == 8, p.memory_ok, 1.0, 1.0)

    walk, told = sequential(space, say)
    blocks = [p for p in told if p.tier == "block"]
    assert not blocks[0].memory_ok and blocks[0].run
    assert walk.incumbent == space.with_level(space.uniform(2), walk.order[-1], 3)  # uniform 2 was refused
    assert walk.candidates


def test_the_walk_ends_where_even_its_smallest_continuation_is_above_the_budget():
    tight = SearchSpace.of(spec(memory_budget="100%"), hierarchy()).smallest()[0]
    space, _ = space_and_metric(memory_budget=str(tight + 10))

    def say(p: Proposal) -> Verdict:  # input must stay at 8 bits, so nothing fits
        if not p.run:
            return Verdict(None, False)
        inputs = p.levels[space.positions("input")[0]]
        return Verdict(inputs >= 8, p.memory_ok, 1.0, 0.0 if p.unit == "input" else 1.0)

    walk, told = sequential(space, say)
    assert walk.order[0] == "input"
    assert [(p.unit, p.bits, p.run) for p in told if p.tier == "block"] == [
        ("input", 6, True),
        (walk.order[1], 6, False),
    ]
    assert walk.done and walk.candidates == ()


def test_a_failed_or_endless_loss_makes_a_block_the_most_sensitive():
    space, metric = space_and_metric()
    bad = {"input": Verdict(False, True, failed=True), "attention.1": Verdict(True, True, 1.0, float("inf"))}

    def say(p: Proposal) -> Verdict:
        return bad.get(p.unit, metric.verdict(p)) if p.tier == "sensitivity" else metric.verdict(p)

    walk, _ = sequential(space, say)
    assert set(walk.order[:2]) == {"attention.0", "output"}
    assert walk.order[2:] == ("input", "attention.1")


def test_equal_losses_leave_the_blocks_in_hierarchy_order():
    space, _ = space_and_metric()
    walk, _ = sequential(space, lambda p: Verdict(p.run or None, p.memory_ok, 1.0, 1.0))
    assert walk.order == space.blocks


def test_the_budget_is_refused_one_byte_below_the_smallest_setting():
    smallest = SearchSpace.of(spec(memory_budget="100%"), hierarchy()).smallest()[0]
    SearchSpace.of(spec(memory_budget=str(smallest)), hierarchy())
    with pytest.raises(InfeasibleError, match=f"{smallest - 1:,} bytes.*at least {smallest:,} bytes"):
        SearchSpace.of(spec(memory_budget=str(smallest - 1)), hierarchy())
