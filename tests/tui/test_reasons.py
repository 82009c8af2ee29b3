"""Why a unit has its bits: what the screen says without help."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.tui.fakes import Study
from tests.tui.test_model import view_of
from tui.reasons import Why, block_notes, lower_trial, why
from tui.unitfacts import cell_lines


def reason(study: Study, unit: str, number: int = 48, lam: float = 20.0) -> Why:
    view = view_of(study)
    record = view.by_number[number]
    return why(view, record, view.setting(record), unit, lam)


def test_the_trial_one_level_lower_that_failed_is_named_with_by_how_much() -> None:
    found = reason(Study().fill(), "attention.3")
    assert found.bits == "4 bits"
    assert found.reason == "3 bits gave 36.02, 0.90 % past the perplexity limit (#55)."
    assert found.short == "3 bits: ppl 0.90 % past (#55)"


def test_where_the_bits_come_from_and_how_sensitive_the_block_is() -> None:
    found = reason(Study().fill(), "attention.3")
    assert found.origin == "#48 set it: the whole network at 4 bits, global tier."
    assert "Alone at 3 bits: loss +" in found.alone and "most sensitive of 7" in found.alone


def test_a_lower_level_that_fits_is_told_with_its_score() -> None:
    found = reason(Study().fill(), "attention.0")
    assert "3 bits fits too: 35.15 (#50), but ranks lower at λ 20" in found.reason
    assert "ranks higher" in reason(Study().fill(), "attention.0", lam=5000.0).reason


def test_a_run_that_was_stopped_early_is_past_its_limit_by_at_least() -> None:
    study = Study().fill()
    tried = study.trials[55]
    study.trials[55] = replace(tried, state="pruned", value=None, used=100)
    assert reason(study, "attention.3").reason == (
        "3 bits was stopped, ≥0.90 % past the perplexity limit (#55)."
    )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"state": "failed", "value": None, "slack": {}}, "3 bits could not be measured: #55 failed."),
        (
            {"state": "pruned", "value": None, "slack": {"metric": 0.0, "memory": 0.12}},
            "3 bits was not run: memory 12 % over (#55).",
        ),
    ],
)
def test_other_outcomes_have_their_own_words(change: dict[str, object], says: str) -> None:
    study = Study().fill()
    study.trials[55] = replace(study.trials[55], **change)  # type: ignore[arg-type]
    assert reason(study, "attention.3").reason == says


def test_what_was_never_searched_says_so() -> None:
    assert reason(Study().fill(), "input").reason == "Only its sign is read: 1 bit keeps it exactly."
    study = Study().fill()
    study.spec = replace(study.spec, pins={"attention.3": "int8/channel/affine"})
    assert reason(study, "attention.3").reason == "Pinned by the study."


def test_an_excluded_unit_says_so() -> None:
    study = Study()
    study.spec = replace(study.spec, exclude=("attention.3",))
    searched = [block for block in study.blocks if block != "attention.3"]
    kept = study.add("global", "network", 4, dict.fromkeys(searched, 4))
    found = reason(study, "attention.3", kept.number)
    assert (found.bits, found.reason) == ("32 bits", "Excluded by the study: float32.")


def test_a_tied_module_is_judged_by_the_trial_of_its_tie() -> None:
    study = Study().fill()
    view = view_of(study)
    moved = next(t for t in study.trials if t.tier == "module")
    block, _, name = moved.unit.partition("/")
    other = next(b for b in study.blocks if b.startswith("attention") and b != block)
    before = lower_trial(view, f"{other}/{name}", moved.bits + 0.5)
    study.spec = replace(study.spec, ties=(f"{block}/{name},{other}/{name}",))
    tied = lower_trial(view_of(study), f"{other}/{name}", moved.bits + 0.5)
    assert tied is not None
    assert tied.unit in (moved.unit, f"{other}/{name}")
    assert tied != before


def test_without_a_lower_trial_the_lowest_precision_or_the_search_is_the_reason() -> None:
    study = Study().fill("global", running=False)
    study.trials = [t for t in study.trials if t.tier != "global" or t.bits >= 4]
    study.trials.append(study.add("global", "network", 2, dict.fromkeys(study.blocks, 2)))
    lowest = study.trials[-1].number
    assert reason(study, "attention.3", lowest).reason == "2 bits is the lowest precision of this study."
    study = Study()
    made = study.add("global", "network", 4, dict.fromkeys(study.blocks, 4))
    assert "not tried fewer bits" in reason(study, "attention.3", made.number).reason
    study.state = "finished"
    assert "ended before" in reason(study, "attention.3", made.number).reason


def test_a_block_is_judged_by_the_network_before_the_block_tier_reached_it() -> None:
    study = Study().fill("global", running=False)
    value = study.trials[49].value
    assert value is not None and value > 35.7
    found = reason(study, "attention.3", 48)
    past = f"{100 * (value / 35.7 - 1):.1f}"
    assert found.reason == f"3 bits everywhere gave {value:.2f}, {past} % past the perplexity limit (#49)."


def test_a_module_is_judged_by_the_nearest_of_its_own_trials_and_those_of_its_block() -> None:
    view = view_of(Study().fill())
    own = lower_trial(view, "attention.0/att.key", 4)
    assert own is not None and own.unit == "attention.0", "3 bits by the block are nearer than 2 by itself"
    below = lower_trial(view, "attention.0/att.key", 3)
    assert below is not None and below.unit == "attention.0/att.key" and below.bits == 2


def test_the_nearest_lower_level_is_the_reason_also_when_all_blocks_took_it_together() -> None:
    found = reason(Study().fill(), "attention.3", 46)
    assert found.bits == "6 bits"
    assert found.reason == "5 bits everywhere fits too and ranks higher at λ 20: #47, 34.37."


def test_every_searched_block_has_a_note() -> None:
    view = view_of(Study().fill())
    record = view.by_number[48]
    notes = block_notes(view, record, view.setting(record), 20.0)
    assert list(notes) == ["input", *view.row.order] or len(notes) == 8
    assert all(notes.values())


def test_the_cell_tells_what_its_neighbours_did() -> None:
    view = view_of(Study().fill())
    title, lines = cell_lines(view, view.by_number[48], "attention.1", 20.0)
    said = ["".join(part for part, _ in line) for line in lines]
    assert title == "Why attention.1 has 4 bits"
    assert "+0.488 perplexity, −426 kB against #50" in said[-1] and "(#52, block)" in said[-1]
    title, lines = cell_lines(view, None, "attention.1", 20.0)
    assert title == "attention.1" and "in fp32" in lines[0][0][0]
