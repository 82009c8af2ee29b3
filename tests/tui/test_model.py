from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from qslm_opt import rank
from tests.tui.fakes import START, Study
from tui.model import StudyView, sensitivity
from tui.times import moment


def view_of(study: Study) -> StudyView:
    return StudyView(study.row(), tuple(study.trials), START + timedelta(hours=1))


def test_the_ranking_is_that_of_the_rank_module_at_every_lambda() -> None:
    study = Study().fill()
    view = view_of(study)
    for lam in (0.0, 0.2, 20.0, 500.0):
        assert view.ranked(lam) == rank.rank(study.trials, "perplexity", lam)
        best = view.best(lam)
        assert best is not None
        assert next(t for low, high, t in view.winners if low <= lam < high) == best
    assert view.winners == rank.envelope(study.trials, "perplexity")


def test_places_won_are_counted_against_the_studys_own_lambda() -> None:
    view = view_of(Study().fill(running=False))
    assert {view.places_won(row) for row in view.ranked(20.0)} == {0}
    own = [row.record.number for row in view.ranked(20.0)]
    for row in view.ranked(1000.0):
        assert view.places_won(row) == own.index(row.record.number) + 1 - row.rank
    assert sum(view.places_won(row, False) for row in view.ranked(0.0, False)) == 0


def test_sensitivity_trials_are_no_candidates_unless_feasible() -> None:
    view = view_of(Study().fill())
    assert {t.tier for t in view.candidates} == {"global", "block", "module"}
    assert len(view.ended) == len(view.trials) - 1 == len(view.candidates) + 42
    loose = view_of(Study(budget_share=1.0).fill("sensitivity", running=False))
    assert all(t.feasible for t in loose.candidates) and loose.candidates


def test_lanes_say_what_is_done_and_which_is_active() -> None:
    view = view_of(Study().fill())
    assert [lane.state for lane in view.lanes] == ["done", "done", "done", "active"]
    assert [(lane.done, lane.total) for lane in view.lanes[:2]] == [(42, 42), (8, 9)]
    best = view.lanes[1].best
    assert best is not None and best.tier == "global" and best.feasible


def test_a_tier_that_ended_early_is_done_and_none_is_to_come_when_the_study_ended() -> None:
    study = Study().fill("block", running=False)
    assert [lane.state for lane in view_of(study).lanes] == ["done", "done", "active", "waiting"]
    study.state = "finished"
    assert {lane.state for lane in view_of(study).lanes} == {"done"}
    assert view_of(study).eta_seconds is None


def test_lanes_without_progress_count_trials() -> None:
    study = Study().fill("global", running=False)
    study.progress = []
    view = view_of(study)
    assert [(lane.tier, lane.done, lane.total) for lane in view.lanes][:2] == [
        ("sensitivity", 42, None), ("global", 8, None),
    ]  # fmt: skip
    assert view.remaining is None and view.eta_seconds is None


def test_the_eta_is_what_is_left_at_the_rate_of_the_last_trials() -> None:
    view = view_of(Study().fill())
    assert view.trials_per_second is not None and abs(view.trials_per_second - 1 / 20) < 1e-9
    assert view.remaining == 84 - 3
    assert view.eta_seconds is not None and abs(view.eta_seconds - 81 * 20) < 1e-6


def test_elapsed_leaves_pauses_out_and_goes_on_while_a_trial_runs() -> None:
    study = Study().fill("global", running=True)
    last = study.trials[-1]
    began = moment(last.started)
    assert began is not None
    now = began + timedelta(seconds=7)
    assert view_of(study).elapsed_seconds(now) == 19 * (len(study.trials) - 1) + 7
    paused = began + timedelta(days=3)
    study.trials[-1] = replace(last, started=paused.isoformat())
    assert view_of(study).elapsed_seconds(paused + timedelta(seconds=7)) == 19 * (len(study.trials) - 1) + 7
    study.state = "dead"
    assert view_of(study).elapsed_seconds(paused + timedelta(days=1)) == 19 * (len(study.trials) - 1)
    assert view_of(Study()).elapsed_seconds(now) is None


def test_trials_that_were_the_best_so_far_are_marked() -> None:
    view = view_of(Study().fill())
    running_best, marked = float("inf"), set()
    for t in view.trials:
        if t.feasible and t.value is not None:
            score = rank.score("perplexity", t.value, t.bytes / t.fp32_bytes, 20.0)
            if score < running_best:
                running_best = score
                marked.add(t.number)
    assert view.improvements == marked and len(marked) > 2


def test_what_came_closest_is_a_candidate() -> None:
    view = view_of(Study(budget_share=0.05).fill("block"))
    assert not view.feasible and view.best(20.0) is None and view.winners == []
    assert view.closest is not None and view.closest.tier != "sensitivity"


def test_another_row_keeps_what_the_trials_gave() -> None:
    study = Study().fill()
    view = view_of(study)
    ranked, candidates = view.ranked(20.0), view.candidates
    study.state = "stopped"
    after = view.with_row(study.row(), START)
    assert after.row.state == "stopped" and after.read_at == START
    assert after.ranked(20.0) is ranked and after.candidates is candidates
    assert after.lanes != view.lanes or after.eta_seconds is None


def test_sensitivity_is_the_rise_against_the_baseline() -> None:
    study = Study().fill("sensitivity", running=False)
    found = sensitivity(view_of(study))
    assert len(found) == 42
    assert abs(found["attention.0", 2] - study.loss_increase({"attention.0": 2})) < 1e-9
    study.baseline = None
    assert sensitivity(view_of(study)) == {}


def test_unreadable_times_are_no_times() -> None:
    assert moment(None) is None and moment("yesterday") is None
    assert moment("2026-09-01T14:00:00") == START
