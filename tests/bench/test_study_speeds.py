"""A study with savings on and off: verdicts are compared digest by digest."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

from qslm_opt.bench import study
from qslm_opt.bench.study import EVERYTHING, Switches, measure_studies, variants
from qslm_opt.evaluate.bounds import MetricBound
from qslm_opt.setting import UNQUANTIZED
from qslm_opt.spec import StudySpec

SPEC = StudySpec.from_mapping(
    {
        "name": "bench", "model": "demo", "task": "demo", "max_increase": "0.01%", "memory_budget": "12%",
        "precisions": [3], "limit": 4, "window": 16, "window_batch": 1, "device": "cpu",
    }
)  # fmt: skip


def test_variants_switch_one_saving_off_each() -> None:
    off = [(v.prefix, v.stopping, v.order, v.workers) for v in variants(3)]
    assert off == [
        (True, True, True, 1), (False, True, True, 1), (True, False, True, 1), (True, True, False, 1),
        (False, False, False, 1), (True, True, True, 3),
    ]  # fmt: skip
    assert [v.workers for v in variants(1)] == [1] * 5


def test_a_study_finds_the_same_with_everything_on_and_nothing_on() -> None:
    told: list[str] = []
    found = measure_studies(
        SPEC, variants(1)[::4], rounds=2, start_workers=lambda *a: nullcontext(), tell=told.append
    )
    assert [row.switches.name for row in found.rows] == ["everything on", "nothing on"]
    assert found.same_verdicts and found.n == 64 and found.batches == 4
    for row in found.rows:
        assert row.evaluations >= 5 and row.ahead == 0 and row.timing.repeats == 2
        assert row.evaluations_per_s == row.evaluations / row.timing.median_s
        assert row.ratio_to_everything == found.rows[0].timing.median_s / row.timing.median_s
    assert sum("round 2 of 2" in text for text in told) == 2
    assert found.to_json()["rows"][1]["prefix"] is False


def test_without_early_stopping_violations_are_measured_to_the_end() -> None:
    session = study.Session.open(SPEC)
    bound = MetricBound("perplexity", session.data.n, 1.0)
    used: list[int] = []
    thorough = study._ToTheEnd(session.spec, session.model, session.hierarchy, session.data)
    for one in (session, thorough):
        run, _ = one.run(
            UNQUANTIZED, bound=bound, report=lambda progress: bound.certain(progress.best_case or 0.0)
        )
        used.append(run.used)
    assert used[0] < used[1] == session.data.n


def test_what_differs_is_said_by_digest() -> None:
    ok = study._Verdict(memory_ok=True, metric_ok=True)
    run = study._Run(1.0, {"aa": ok, "bb": replace(ok, metric_ok=False)}, "aa", 2)
    assert study._differences(run, run) == []
    other = study._Run(1.0, {"aa": ok, "bb": ok, "cc": ok}, "bb", 3)
    assert study._differences(run, other) == [
        "bb: pruned, violates the metric ≠ complete", "cc: not visited ≠ complete", "best: aa ≠ bb"
    ]  # fmt: skip


def test_a_worker_may_run_what_the_budget_rules_out() -> None:
    over = study._Verdict(memory_ok=False, metric_ok=None)
    assert over.agrees(replace(over, metric_ok=False)) and replace(over, metric_ok=True).agrees(over)
    assert not over.agrees(study._Verdict(memory_ok=True, metric_ok=None))


def test_everything_is_on_by_default() -> None:
    assert Switches("x") == replace(EVERYTHING, name="x")
