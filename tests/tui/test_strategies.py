"""The dashboard on studies of other strategies: their tiers, cheap trials, mixed settings."""

from __future__ import annotations

from dataclasses import replace

from qslm_opt.hierarchy.tree import NETWORK
from tests.tui.fakes import START, Study
from tui.events import why_text
from tui.filterwords import word_test
from tui.lanes import lanes_of
from tui.model import StudyView
from tui.notices import pruned_why
from tui.report import reason_text
from tui.screens.cells import room_cell
from tui.text import state_word


def knapsack() -> Study:
    study = Study()
    study.spec = replace(study.spec, strategy="knapsack")
    levels = dict.fromkeys(study.blocks, 4)
    study.add("global", NETWORK, 4, levels)
    cheap = study.add("steps", "attention.1/att.key", 3, levels)
    study.trials[-1] = replace(
        cheap, state="pruned", value=None, share=0.125, used=500, slack={"metric": 0.0, "memory": 0.1}
    )
    study.add("allocation", NETWORK, 3, {**levels, "attention.0": 3})
    study.add("refinement", NETWORK, 3, {**levels, "attention.0": 3, "attention.2": 3})
    study.add("refinement", "attention.3", 3, {**levels, "attention.0": 3, "attention.3": 3})
    return study


def view(study: Study) -> StudyView:
    return StudyView(study.row(), tuple(study.trials), START)


def test_the_lanes_are_the_tiers_of_the_strategy() -> None:
    lanes = lanes_of(view(knapsack()))
    assert [lane.tier for lane in lanes] == ["global", "steps", "allocation", "refinement"]
    assert [lane.done for lane in lanes] == [1, 1, 1, 2]
    gated = knapsack()
    gated.spec = replace(gated.spec, gate=True)
    assert {"gate", "postponed"} <= {lane.tier for lane in lanes_of(view(gated))}


def test_a_cheap_trial_is_shown_as_what_it_is_and_is_no_candidate() -> None:
    shown = view(knapsack())
    cheap = shown.trials[1]
    assert state_word(cheap) == "measured"
    assert why_text("perplexity", cheap) == pruned_why(cheap, "perplexity") == "1/8 of the data"
    assert "1/8 of the data" in reason_text(shown, cheap)
    assert room_cell(cheap, "memory")[1] == "dim"  # nothing is amiss though it is over the budget
    assert cheap not in shown.candidates
    assert cheap.number not in {row.record.number for row in shown.ranked(0.2, feasible_only=False)}


def test_settings_that_change_many_units_say_nothing_of_one() -> None:
    found = view(knapsack()).by_unit
    assert [t.tier for t in found[NETWORK]] == ["global"]
    assert [t.tier for t in found["attention.3"]] == ["refinement"]
    assert "attention.1/att.key" not in found


def test_trials_are_filtered_by_tiers_of_every_strategy() -> None:
    trials = knapsack().trials
    for tier, count in {"steps": 1, "refinement": 2, "sampled": 0, "module": 0, "postponed": 0}.items():
        assert sum(map(word_test(f"tier:{tier}", 0), trials)) == count
