"""The numbers of a report, from records alone."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from qslm_opt import rank
from qslm_opt.cli.report import machine, story, sweeps
from qslm_opt.cli.report.bits import bit_map
from qslm_opt.cli.report.chance import HeldBack, Interval, held_back, interval
from qslm_opt.cli.report.data import Report
from qslm_opt.cli.report.source import _commands
from qslm_opt.evaluate.memory import live_bytes
from qslm_opt.formats import FP32, SIGN
from qslm_opt.hierarchy.tree import NETWORK, Block, Hierarchy, Module, TensorInfo
from qslm_opt.results import Metric
from qslm_opt.setting import QuantSetting
from tests.cli.report.material import BLIND, METER, powered, report_of, window
from tests.tui.fakes import CHANNEL, LEVELS, Study


def ended(metric: Metric = "perplexity") -> Study:
    study = Study("s", metric).fill(running=False)
    study.state = "finished"
    return study


@pytest.mark.parametrize("metric", ["perplexity", "accuracy"])
def test_sensitivity_is_the_loss_of_each_block_alone(metric: Metric) -> None:
    study = ended(metric)
    heat = report_of(study).heat
    assert heat is not None
    assert heat.levels == LEVELS[3:]
    assert heat.blocks == tuple(study.blocks)
    trial = next(t for t in study.trials if t.unit == "attention.2" and t.bits == 3)
    assert trial.value is not None and study.baseline is not None
    change = trial.value - study.baseline.value
    wanted = 100 * (change / study.baseline.value if metric == "perplexity" else -change)
    assert heat.loss[heat.blocks.index("attention.2")][heat.levels.index(3)] == pytest.approx(wanted)
    worst = heat.cells()[0]
    assert worst[2] == max(loss for row in heat.loss for loss in row if loss is not None)


def test_a_cell_that_was_not_measured_stays_empty() -> None:
    study = ended()
    study.trials = [t for t in study.trials if (t.tier, t.unit, t.bits) != ("sensitivity", "attention.1", 4)]
    heat = report_of(study).heat
    assert heat is not None
    assert [heat.blocks[y] for y, row in enumerate(heat.loss) if None in row] == ["attention.1"]


def test_without_a_baseline_or_a_measurement_there_is_no_heat_map() -> None:
    study = ended()
    study.baseline = None
    assert report_of(study).heat is None
    assert report_of(Study("empty")).heat is None


def test_uniform_precisions_fall_and_say_which_limit_they_violate() -> None:
    study = ended()
    points = report_of(study).uniform
    assert [p.bits for p in points] == list(LEVELS[:-1])
    said = {p.bits: p.verdict for p in points}
    assert said[16] == "violates memory, model not run"
    assert said[4] == "meets both limits"
    assert [p.value is None for p in points] == [p.bytes > study.budget for p in points]


def test_an_infinite_perplexity_is_no_point() -> None:
    study = ended()
    for number in (0, 40):
        study.trials[number] = replace(study.trials[number], value=float("inf"), state="complete")
    found = report_of(study)
    assert found.heat is not None and found.heat.loss[0][0] is None
    assert found.plane is not None and not {0, 40} & {p.trial for p in found.plane.points}
    assert all(p.value is None for p in found.uniform if p.trial == 40)
    assert json.dumps(found.to_json()["plane"], allow_nan=False)


def test_a_stopped_run_is_told_from_one_that_never_began() -> None:
    study = ended()
    trial = study.trials[-1]
    past = replace(trial, value=None, state="pruned", slack={"metric": 0.1, "memory": -0.1})
    assert sweeps.verdict(replace(past, used=7), "perplexity") == "violates perplexity, stopped when certain"
    assert sweeps.verdict(replace(past, used=0), "perplexity") == "violates perplexity, model not run"


@pytest.mark.parametrize("metric", ["perplexity", "accuracy"])
def test_the_plane_has_every_measurement_the_front_and_the_envelope(metric: Metric) -> None:
    study = ended(metric)
    plane = report_of(study).plane
    assert plane is not None
    measured = [t for t in study.trials if t.value is not None]
    wanted = [(t.number, t.bytes, t.value) for t in measured]
    assert [(p.trial, p.bytes, p.value) for p in plane.points] == wanted
    assert [p.trial for p in plane.front] == [t.number for t in rank.pareto(study.trials, metric)]
    envelope = rank.envelope(study.trials, metric)
    assert [(w.low, w.point.trial) for w in plane.winners] == [(low, t.number) for low, _, t in envelope]
    assert plane.winners[-1].high is None
    assert {p.kind for p in plane.points} == {"candidate", "violates", "block alone"}
    assert plane.unmeasured == sum(t.state == "pruned" for t in study.trials)


def test_the_choice_follows_lambda() -> None:
    study = ended()
    low, high = report_of(study, 0.0), report_of(study, 1e6)
    assert low.choice is not None and high.choice is not None
    assert low.choice.bytes > high.choice.bytes
    for found in (low, high):
        assert found.plane is not None and found.plane.chosen is not None and found.choice is not None
        assert found.plane.chosen.trial == found.choice.number
        assert found.limits[1].chosen == found.choice.bytes


def test_what_was_measured_ahead_and_not_needed_is_no_candidate() -> None:
    study = ended()
    spare = next(t for t in study.trials if t.feasible)
    study.trials[spare.number] = replace(spare, extra=True)
    plane = report_of(study).plane
    assert plane is not None
    assert [p.trial for p in plane.of("not needed")] == [spare.number]
    assert spare.number not in {p.trial for p in plane.front}


def test_power_goes_by_the_ranking_with_the_baseline_first() -> None:
    study = ended()
    found = report_of(study, **powered(study)).power
    ranked = [r.record.number for r in rank.rank(study.trials, "perplexity", study.spec.lam)]
    assert [row.trial for row in found.rows] == [None, *ranked]
    assert found.baseline is not None and found.baseline.mean_w == 431.0
    assert found.rows[1].item_j == pytest.approx(2 * (400.0 + ranked[0]) / 1_000_000)
    assert found.sources == ("NVIDIA H200 by nvml",)
    assert found.why_not == ""


def test_only_the_mean_of_an_older_study_has_no_spread() -> None:
    study = ended()
    best = report_of(study).choice
    assert best is not None
    study.trials[best.number] = replace(best, power_w=300.0, energy_j=8000.0)
    (row,) = report_of(study).power.rows
    assert (row.mean_w, row.std_w, row.item_j) == (300.0, None, 8000.0 / best.used)


@pytest.mark.parametrize(
    ("devices", "said"), [([BLIND], "no energy counter"), ([METER], "no candidate was measured"),
                          ([], "looked for a meter")],
)  # fmt: skip
def test_without_a_measurement_it_says_why(devices: list[Any], said: str) -> None:
    power = report_of(ended(), devices=devices).power
    assert power.rows == ()
    assert said in power.why_not


def test_more_candidates_than_fit_are_counted() -> None:
    study = ended()
    one = next(t for t in study.trials if t.feasible)
    for number in range(len(study.trials), len(study.trials) + 40):
        study.trials.append(replace(one, number=number, uuid=f"t-{number}", digest=f"d{number}"))
    found = report_of(study, windows={t.uuid: window(400.0) for t in study.trials}).power
    assert len(found.rows) == 20
    assert found.measured > 40


def tree() -> Hierarchy:
    def module(unit: str, role: str, **more: Any) -> Module:
        return Module(unit, (TensorInfo(unit, (8, 8), role, **more),))  # type: ignore[arg-type]

    return Hierarchy("spikegpt", (
        Block("input", "input", (module("input/emb", "embedding", sign_only=True),)),
        Block("attention.0", "attention", (module("attention.0/att.key", "matrix"),
                                           module("attention.0/ln1", "norm"),
                                           module("attention.0/ffn.key", "matrix"))),
        Block("output", "output", (module("output/head", "head", live=False),
                                   module("output/tied", "head", tied_to="input/emb"))),
    ))  # fmt: skip


def test_the_bit_map_marks_what_was_not_free_to_move() -> None:
    int4, int3 = CHANNEL.with_bits(4), CHANNEL.with_bits(3)
    setting = QuantSetting({NETWORK: int4, "input/emb": SIGN, "attention.0/ffn.key": int3})
    found = bit_map(tree(), setting, {"attention.0/ffn.key": str(int3)})
    cells = {c.unit: (c.bits, c.mark) for _, row in found.rows for c in row if c is not None}
    assert cells == {
        "input/emb": (1, "sign"), "attention.0/att.key": (4, ""), "attention.0/ffn.key": (3, "pinned"),
        "output/head": (None, "dead"), "output/tied": (None, "tied"),
    }  # fmt: skip
    assert found.columns == ("emb", "att.key", "ffn.key", "head", "tied")
    assert found.mean_bits == pytest.approx((1 + 4 + 3) / 3)
    assert sum(b.after for b in found.blocks) == live_bytes(tree(), setting)
    assert sum(b.before for b in found.blocks) == tree().fp32_bytes()
    assert [b.mean_bits for b in found.blocks] == [1, 3.5, None]


def test_a_damaged_setting_is_no_map() -> None:
    study = ended()
    best = report_of(study).choice
    assert best is not None
    study.trials[best.number] = replace(best, setting="{")
    assert report_of(study).bit_map is None


def test_tiers_add_up() -> None:
    study = Study("s").fill()
    rows = report_of(study).tiers
    assert [row.tier for row in rows] == ["sensitivity", "global", "block", "module"]
    whole = story.total(rows)
    assert whole.trials == len(study.trials)
    assert whole.open == 1
    ends = whole.complete, whole.unrun, whole.stopped, whole.cheap, whole.failed, whole.open
    assert sum(ends) == whole.trials
    assert whole.evaluations == sum(t.used > 0 for t in study.trials)
    assert whole.shares == pytest.approx(whole.evaluations)
    assert whole.seconds == pytest.approx(18.4 * whole.evaluations)


def test_a_cheap_trial_was_not_stopped_for_a_certain_violation() -> None:
    study = ended()
    before = report_of(study)
    was, plane = story.total(before.tiers), before.plane
    last = study.trials[-1]
    cheap = replace(
        last, number=last.number + 1, tier="steps", state="pruned", value=None, used=100, share=0.25,
        slack={"metric": 0.0, "memory": -0.5},
    )  # fmt: skip
    study.trials.append(cheap)
    after = report_of(study)
    now = story.total(after.tiers)
    assert (now.cheap, now.stopped) == (was.cheap + 1, was.stopped)
    assert plane is not None and after.plane is not None
    assert after.plane.unmeasured == plane.unmeasured


def test_a_tuned_choice_says_by_how_many_steps() -> None:
    study = ended()
    best = report_of(study).choice
    assert best is not None
    setting = json.dumps({**json.loads(best.setting), "tune": 300})
    study.trials[best.number] = replace(best, tier="tuned", setting=setting)
    assert report_of(study).lineage[1].what.endswith("tuned by 300 steps")


def test_no_command_says_that_it_measures_the_searched_part_of_a_split_again() -> None:
    study = ended()
    assert "measure it again" in _commands(report_of(study), "sqlite:///q.db", None)
    study.spec = replace(study.spec, hold_back=0.5)
    found = _commands(report_of(study), "sqlite:///q.db", None)
    assert "measure it again" not in found and "get the model, packed" in found


def test_the_bound_of_a_study_with_confidence_says_so() -> None:
    study = ended()
    study.spec = replace(study.spec, confidence=0.9)
    assert report_of(study).facts.bound_text().endswith(", with 90 % confidence")


def test_a_tier_that_this_release_does_not_know_is_shown_too() -> None:
    study = ended()
    study.trials[-1] = replace(study.trials[-1], tier="knapsack")
    assert [row.tier for row in report_of(study).tiers][-1] == "knapsack"
    assert report_of(study, 1e6).lineage


def test_the_lineage_goes_from_the_baseline_to_the_choice_by_falling_bytes() -> None:
    found = report_of(ended(), 1e6)
    steps = found.lineage
    assert found.choice is not None
    assert (steps[0].trial, steps[-1].trial) == (None, found.choice.number)
    assert [s.bytes for s in steps] == sorted((s.bytes for s in steps), reverse=True)
    assert steps[1].tier == "global"
    assert len(steps) > 4
    assert "→" in steps[-1].what


def test_a_study_without_a_candidate_says_so_everywhere() -> None:
    study = Study("s", budget_share=0.06).fill(running=False)
    study.state = "infeasible"
    found = report_of(study)
    assert (found.choice, found.bit_map, found.lineage) == (None, None, [])
    assert found.plane is not None and found.plane.winners == ()
    assert found.limits[0].slack is None


def test_warnings_fit_the_study() -> None:
    said = " ".join(report_of(ended()).warnings)
    assert "simulated" in said and "not what packed weights save" not in said and "not ended" not in said
    study = Study("s").fill()
    said = " ".join(report_of(study, **powered(study)).warnings)
    assert "not what packed weights save" in said and "has not ended" in said
    study.spec = replace(study.spec, limit=3)
    study.trials[0] = replace(study.trials[0], state="failed")
    run = {"dtype": "tf32", "silent": ["attention.1"]}
    study.baseline = replace(study.baseline, evaluation={"dtype": "fp32"})  # type: ignore[type-var]
    said = " ".join(report_of(study, chosen_run=run).warnings)
    assert "first 3 windows" in said and "1 trials failed" in said and "attention.1" in said
    assert "arithmetic: fp32 and tf32" in said


def test_what_is_known_of_chance_is_read_and_what_is_not_is_left_out() -> None:
    assert interval({"value": 0.8}) is None and held_back({"value": 0.8}) is None and interval(None) is None
    row = {"ci_low": 0.78, "ci_high": 0.82, "confidence_level": 0.9, "held_back": {
        "value": 0.79, "ci_low": 0.7, "ci_high": 0.85, "change": -0.01, "p_value": 0.4, "within_bound": True,
        "n": 400, "reason": "",
    }}  # fmt: skip
    assert interval(row) == Interval(0.78, 0.82, 0.9)
    wide = HeldBack(0.79, None, None, None, within=False, n=400, reason="")
    found = report_of(ended("accuracy"))
    said = " ".join(machine.warnings(found.facts, found.power, None, wide))
    assert "On held-back data the choice is beyond the bound: accuracy 79.00 %" in said
    assert "that it was measured on" not in said and "that it was measured on" in " ".join(found.warnings)
    assert held_back(row) == HeldBack(0.79, Interval(0.7, 0.85, 0.95), -0.01, 0.4, True, 400, "")


def test_the_numbers_are_json_and_hold_every_point() -> None:
    study = ended("accuracy")
    study.trials[3] = replace(study.trials[3], setting=QuantSetting({NETWORK: FP32}).to_json())
    found: Report = report_of(study, **powered(study))
    value = json.loads(json.dumps(found.to_json()))
    assert value["schema"] == 1
    assert len(value["plane"]["points"]) == sum(t.value is not None for t in study.trials)
    assert value["plane"]["columns"][:3] == ["trial", "bytes", "value"]
    assert value["choice"]["trial"] == found.choice.number if found.choice else False
    assert len(value["power"]["rows"]) == len(found.power.rows)
