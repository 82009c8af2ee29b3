from __future__ import annotations

from datetime import timedelta

import pytest

from tests.tui.fakes import START, Study
from tui.model import StudyView
from tui.notices import Notice, notice_of, pruned_why, state_parts, trouble_page
from tui.reader import Trouble

URL = "sqlite:///other.db"


def notice(study: Study, trouble: Trouble | None = None, lam: float = 20.0) -> Notice | None:
    return notice_of(
        StudyView(study.row(), tuple(study.trials), START + timedelta(hours=1)), lam, URL, trouble
    )


def words(study: Study, trouble: Trouble | None = None) -> str:
    found = notice(study, trouble)
    assert found is not None
    return f"{found.text} {found.command}".strip()


def test_a_study_that_goes_well_needs_no_words() -> None:
    assert notice(Study().fill()) is None


def test_a_dead_process_is_named_with_the_way_on() -> None:
    study = Study().fill()
    study.state, study.heartbeat = "dead", "2026-09-01T14:20:00"
    assert words(study) == (
        "The process is gone (pid 4242 on bench-1, last sign at 14:20:00). Resume with "
        "qslm-opt study resume opt-14m --storage sqlite:///other.db"
    )


def test_a_finished_study_says_what_it_found_and_how_to_take_it() -> None:
    study = Study().fill(running=False)
    study.state = "finished"
    assert words(study).startswith("Finished: #48 has perplexity 34.88 in 12.9 MB, 88.7 % saved.")
    packing = "--study opt-14m --output opt-14m-packed --storage"
    assert "qslm-opt model pack" in words(study) and packing in words(study)
    turned = notice(study, lam=0.5)
    assert turned is not None and turned.text.startswith("Finished (λ 0.5): #45 has")
    assert "--study opt-14m --lambda 0.5 --output opt-14m-packed" in turned.command


def test_nothing_feasible_names_the_closest_and_by_how_much() -> None:
    study = Study(budget_share=0.05).fill("block")
    assert words(study) == "Nothing feasible yet. Closest: #49, memory 72 % past its limit."
    study.state = "infeasible"
    assert "Closest: #49" in words(study) and "--memory-budget 9.84MB" in words(study)
    closest = study.trials[49]
    assert 0 <= 9.84e6 - closest.bytes < 1e4, "rounded up: less would not be enough"


def test_a_study_whose_baseline_already_violates_gives_the_reason() -> None:
    study = Study()
    study.state, study.reason = "infeasible", "the unquantized model already violates the bound"
    assert words(study) == "Ended, and nothing is feasible: the unquantized model already violates the bound."


def test_stopped_and_stopping() -> None:
    study = Study().fill()
    study.stop_requested = True
    assert words(study) == "Asked to stop: it ends after the running trial."
    study.state, study.reason = "stopped", "interrupted"
    assert words(study).startswith("Stopped: interrupted. Resume with qslm-opt study resume opt-14m")


def test_an_empty_study_says_what_it_waits_for() -> None:
    study = Study()
    assert words(study) == "No trial yet. Trials follow."
    study.baseline, study.bound = None, None
    assert "baseline is being measured" in words(study)
    study.state = "created"
    assert words(study).startswith("Created, not started. Start with qslm-opt study resume")


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("storage", "The storage does not answer (attempt 3): locked Shown is what was read at 15:00:00."),
        ("missing", "The study is gone from the storage. Shown is what was read at 15:00:00."),
        ("newer", "locked Shown is what was read at 15:00:00."),
    ],
)
def test_trouble_goes_before_everything_else(kind: str, says: str) -> None:
    assert words(Study().fill(), Trouble(kind, "locked", 3, 1.0)) == says  # type: ignore[arg-type]


def test_trouble_before_the_first_read_has_a_page() -> None:
    title, text, then = trouble_page(Trouble("missing", "no study 'x'.", 1, 1.0), URL, "x")
    assert (title, text) == ("No study 'x'", "no study 'x'.") and "Press o" in then
    assert trouble_page(Trouble("newer", "t", 1, 1.0), URL, "x")[0].startswith("The storage is newer")
    assert trouble_page(Trouble("storage", "t", 1, 1.0), URL, "x")[0] == "sqlite:///other.db cannot be read"


def test_why_a_trial_is_no_candidate() -> None:
    study = Study().fill()
    found = {t.number: pruned_why(t, "perplexity") for t in study.trials}
    assert found[0] == "sensitivity" and found[42].startswith("memory !") and found[48] == ""
    assert found[49] == "ppl !3.7 %" and found[study.trials[-1].number] == ""


def test_a_state_is_a_sign_and_a_word() -> None:
    states = ("created", "running", "stopped", "finished", "infeasible", "dead")
    shown = [state_parts(state)[0] for state in states]
    assert [text.split()[1] for text in shown] == list(states) and len({text[0] for text in shown}) == 6
