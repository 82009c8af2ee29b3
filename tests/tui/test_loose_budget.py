"""A budget so loose that one block quantized alone meets both limits: a candidate, and called so by all."""

from __future__ import annotations

from qslm_opt.cli.facts import StudyFacts
from qslm_opt.cli.progress import trial_line
from qslm_opt.cli.report.plane import plane
from qslm_opt.results import TrialRecord
from qslm_opt.search.driver import create_study, run_study
from qslm_opt.store import Repository
from tests.search.toy import Recorder, spec, toy
from tests.tui.fakes import START, Study
from tui.events import why_text
from tui.model import StudyView
from tui.notices import pruned_why
from tui.screens.cells import room_cell
from tui.text import state_word


def test_ranking_report_and_dashboard_have_the_same_candidates() -> None:
    study = Study(budget_share=1.0).fill("global", running=False)
    alone = [t.number for t in study.trials if t.tier == "sensitivity" and t.feasible]
    facts = StudyFacts(study.row(), study.trials, study.spec.lam)
    view = StudyView(study.row(), tuple(study.trials), START)
    found = plane(facts)
    assert alone and found is not None
    ranked = {entry.record.number for entry in facts.ranked}
    assert set(alone) & ranked
    assert ranked == {entry.record.number for entry in view.ranked(study.spec.lam)}
    assert ranked <= {point.trial for point in found.of("candidate")}
    assert {t.number for t in view.feasible} == {point.trial for point in found.of("candidate")}
    assert set(alone) <= {t.number for t in view.candidates}


def _alone(budget_share: float) -> TrialRecord:
    study = Study(budget_share=budget_share)
    return study.add("sensitivity", study.blocks[0], 8, {study.blocks[0]: 8})


def test_its_words_are_those_of_a_candidate_and_without_room_those_of_a_measurement() -> None:
    loose, tight = _alone(1.0), _alone(0.2)
    assert loose.feasible and not tight.feasible
    assert [state_word(t) for t in (loose, tight)] == ["feasible", "measured"]
    assert [pruned_why(t, "perplexity") for t in (loose, tight)] == ["", "sensitivity"]
    assert [why_text("perplexity", t) for t in (loose, tight)] == ["", "sensitivity"]
    assert room_cell(loose, "memory")[0].strip("–-") and not room_cell(tight, "memory")[0].strip("–-")
    assert ", candidate" in trial_line(loose, "perplexity", 34.2)
    assert trial_line(tight, "perplexity", 34.2).count("budget") == 0


def test_the_search_counts_them_as_the_ranking_does(tmp_path) -> None:
    study, url = spec(memory_budget="100%", max_increase="40%"), f"sqlite:///{tmp_path}/toy.db"
    create_study(study, url, toy(study))
    summary = run_study("toy", url, toy(study), listener=Recorder())
    with Repository(url) as repository:
        trials = repository.trials("toy")
        row = repository.study("toy")
    ranked = StudyFacts(row, trials, study.lam).ranked
    assert summary.candidates == len(ranked)
    assert any(entry.record.tier == "sensitivity" for entry in ranked)
