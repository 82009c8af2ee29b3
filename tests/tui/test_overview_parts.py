"""What the overview says beside the tiers: events, where time goes, why, what a larger λ takes; exports."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from qslm_opt.results import Comparison, TrialRecord
from qslm_opt.stats import share_interval
from tests.tui.driving import shown, until
from tests.tui.fakes import START, Study
from tui.events import failed_text, gain_text, why_text
from tui.export import COLUMNS, to_csv, to_json
from tui.model import StudyView
from tui.ranking import chosen_lines
from tui.shares import shares_of
from tui.why import next_choice, why_line
from tui.widgets.best import best_lines


def view_of(study: Study) -> StudyView:
    return StudyView(study.row(), tuple(study.trials), START)


def timed(record: TrialRecord, began: float, ended: float, seconds: float | None) -> TrialRecord:
    times = [(START + timedelta(seconds=s)).isoformat() for s in (began, ended)]
    return replace(record, started=times[0], finished=times[1], seconds=seconds, energy_j=100.0)


def test_events_are_the_ended_trials_with_the_begin_of_each_tier() -> None:
    view = view_of(Study().fill())
    begins = [event.begins for event in view.events if event.begins]
    assert begins == ["sensitivity", "global", "block", "module"]
    assert [e.trial.number for e in view.events if not e.begins] == [t.number for t in view.ended]
    bests = [e for e in view.events if not e.begins and e.trial.number in view.improvements]
    assert bests[0].before is None and [e.before for e in bests[1:]] == [e.trial for e in bests[:-1]]


def test_a_new_best_says_how_much_better_and_smaller_it_is() -> None:
    study = Study(metric="accuracy").fill()
    first, second = [t for t in study.trials if t.feasible][:2]
    assert gain_text("accuracy", first, None) == "first feasible"
    better = replace(second, value=(first.value or 0) + 0.0018, bytes=round(first.bytes * 0.97))
    assert gain_text("accuracy", better, first) == "new best +0.18 pp, mem −3.0 %"


def test_why_a_trial_is_not_a_candidate() -> None:
    study = Study().fill()
    pruned = next(t for t in study.trials if t.state == "pruned")
    assert why_text("perplexity", pruned) == "pruned, memory 98 % past"
    failed = replace(pruned, state="failed", reason="stale: its process is gone (bench-1:7)")
    assert failed_text(failed) == why_text("perplexity", failed) == "stale: its process is gone"
    assert failed_text(replace(failed, reason="")) == "failed"
    assert why_text("perplexity", next(t for t in study.trials if t.feasible)) == ""


def test_shares_add_up_and_long_pauses_are_idle() -> None:
    one, two, three = Study().fill().trials[:3]
    trials = [timed(one, 0, 10, 8.0), timed(two, 12, 22, 8.0), timed(three, 60, 70, 8.0)]
    found = shares_of(trials)
    assert found is not None and found.seconds == 70 and found.joules == 100.0
    assert found.evaluation == pytest.approx(24 / 70) and found.storage == pytest.approx(6 / 70)
    assert found.sampler == pytest.approx(2 / 70) and found.idle == pytest.approx(38 / 70)
    assert shares_of(trials[:1]) is None


def test_two_workers_at_once_do_not_make_more_than_the_whole() -> None:
    one, two = Study().fill().trials[:2]
    found = shares_of([timed(one, 0, 10, 9.0), timed(two, 0, 10, 9.0)])
    assert (
        found is not None and found.evaluation == pytest.approx(0.9) and found.storage == pytest.approx(0.1)
    )
    assert found.per_minute == 12


def test_a_model_run_longer_than_its_trial_is_cut() -> None:
    one, two = Study().fill().trials[:2]
    found = shares_of([timed(one, 0, 1, 5.0), timed(two, 1, 2, None)])
    assert found is not None and found.evaluation == pytest.approx(0.5)


def test_tuning_is_no_time_of_the_storage() -> None:
    one, two = (replace(t, tier="tuned") for t in Study().fill().trials[:2])
    found = shares_of([timed(one, 0, 10, 0.5), timed(two, 10, 20, 0.5)])
    assert found is not None and found.evaluation == 1 and found.storage == 0


def test_the_widest_block_has_its_reason_and_a_larger_lambda_its_choice() -> None:
    view = view_of(Study().fill())
    best = view.best(20.0)
    assert best is not None
    assert why_line(view, best, 20.0) == "attention.0 keeps 4 bits. 3 bits: fits, ranks lower (#50)"
    assert next_choice(view, 20.0).startswith("λ from 71.5: #50 35.15")
    assert next_choice(view, 1e9) == "a larger λ chooses no other"
    words = ["".join(part for part, _ in line) for line in best_lines(view, 20.0, True, 60)]
    assert words[0].startswith("◆ #48 34.88") and words[3].split()[1:] == ["1", *"4444444"]


def test_nothing_feasible_names_the_closest_in_place_of_the_best() -> None:
    view = view_of(Study(budget_share=0.05).fill("block"))
    (line,) = best_lines(view, 20.0, True, 80)
    assert "Closest: #49" in line[0][0]


def test_exports_hold_what_is_shown_in_its_order() -> None:
    view = view_of(Study().fill())
    trials = [row.record for row in view.ranked(20.0)]
    rows = list(csv.DictReader(io.StringIO(to_csv(trials))))
    assert list(rows[0]) == list(COLUMNS)
    assert [int(row["number"]) for row in rows] == [t.number for t in trials]
    assert rows[0]["power_w"] == "" and float(rows[0]["slack_memory"]) < 0
    value = json.loads(to_json(view, "rank", 20.0, 48, trials))
    assert value["schema"] == 1 and value["chosen"] == 48 and value["lambda"] == 20.0
    assert [t["number"] for t in value["trials"]] == [t.number for t in trials]
    assert value["trials"][0]["setting"]["units"]


async def test_e_writes_the_filtered_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    async with shown(Study().fill(), pane="trials") as pilot:
        await pilot.press("/", *"tier:module", "enter", "e")
        await pilot.pause()
        await pilot.press("down", "enter")
        await until(pilot, lambda: list(tmp_path.glob("*.csv")))
        (file,) = tmp_path.glob("opt-14m-trials-*.csv")
        rows = list(csv.DictReader(io.StringIO(file.read_text("utf-8"))))
        assert {row["tier"] for row in rows} == {"module"} and len(rows) == 4
        await pilot.press("e", "enter")
        await until(pilot, lambda: list(tmp_path.glob("*.json")))
        await pilot.press("e", "down", "down", "enter")
        await until(pilot, lambda: list(tmp_path.glob("*.svg")))
        assert "Export" not in next(iter(tmp_path.glob("*.svg"))).read_text("utf-8"), "not of the question"


def test_a_moment_in_a_recording_is_local_time() -> None:
    from tui.times import seconds_of

    assert seconds_of(START.isoformat()) == START.timestamp()
    assert seconds_of("nonsense") is None and datetime.fromtimestamp(START.timestamp()) == START


def test_the_best_says_how_sure_it_is_and_what_it_is_on_held_back_data() -> None:
    study = Study(metric="accuracy").fill()
    view = view_of(study)
    best = view.best(0.2)
    assert best is not None and best.value is not None
    low, high = share_interval(best.value, 872)
    assert f"[{100 * low:.1f}–{100 * high:.1f}]" in words_of(best_lines(view, 0.2, True, 100))
    assert "held" not in words_of(best_lines(view, 0.2, True, 100))
    found = Comparison("accuracy", 0.81, 400, low=0.769, high=0.845, change=-0.0125, p=0.31, slack=-0.01)
    held = replace(study.row(), held_back={best.digest: found})
    view = replace(view, row=held)
    wanted = "held  81.00 % [76.9–84.5]  -1.25 pp  p 0.31  in bound"
    assert wanted in words_of(best_lines(view, 0.2, True, 100))
    text = "".join(words for words, _ in chosen_lines(view, best, view.ranked(0.2), None, 100))
    assert "held back: 81.00 % [76.9–84.5]  -1.25 pp  p 0.31  in bound" in text
    worse = replace(study.row(), held_back={best.digest: replace(found, slack=0.02)})
    assert "past bound" in words_of(best_lines(replace(view, row=worse), 0.2, True, 100))
    failed = replace(study.row(), held_back={best.digest: Comparison("accuracy", None, 400, reason="NaN")})
    assert "held  NaN" in words_of(best_lines(replace(view, row=failed), 0.2, True, 100))


def words_of(lines: list[list[tuple[str, str]]]) -> str:
    return "\n".join("".join(words for words, _ in runs) for runs in lines)
