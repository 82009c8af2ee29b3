"""The report on held-back data: what is measured, once, and whatever comes in between."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace
from math import exp
from pathlib import Path
from typing import Any

import pytest

from qslm_opt.errors import InfeasibleError, SpecError, UsageError
from qslm_opt.rank import CONFIRMED, pareto, rank, to_confirm
from qslm_opt.results import TrialRecord
from qslm_opt.search.answer import answer
from qslm_opt.search.driver import create_study, run_study
from qslm_opt.search.interrupts import Interrupts
from qslm_opt.search.reporting import Reporting, due
from qslm_opt.search.reuse import reuse
from qslm_opt.search.stopping import Stops
from qslm_opt.search.targets import require_same_evaluations
from qslm_opt.setting import UNQUANTIZED
from qslm_opt.store import Repository
from qslm_opt.store.held_back import delete_comparisons
from tests.search.held_toy import HeldToy, held_spec, held_toy
from tests.search.toy import Recorder, spec, toy

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/q.db"


def created(url: str, study: Any, **more: Any) -> HeldToy:
    session = held_toy(study, **more)
    create_study(study, url, session)
    return session


def run(url: str, session: HeldToy, listener: Recorder | None = None) -> Any:
    return run_study("toy", url, session, listener=listener or Recorder())


def chosen(url: str) -> tuple[Any, list[TrialRecord]]:
    with Repository(url) as repository:
        row, trials = repository.study("toy"), repository.trials("toy")
    return row, to_confirm(trials, "perplexity", row.spec.lam)


def test_the_front_and_the_winner_are_measured_and_count_as_no_evaluation(url: str) -> None:
    session, listener = created(url, held_spec()), Recorder()
    summary = run(url, session, listener)
    row, records = chosen(url)
    assert summary.state == row.state == "finished"
    assert len(records) > 1
    assert set(row.held_back) == {"baseline", *(record.digest for record in records)}
    assert len(session.held) == len(records) + 1
    assert sum(summary.evaluations.values()) == len(session.ran)
    assert sum(row.counts.values()) == len(listener.ended)
    base = row.held_back["baseline"]
    assert (base.baseline, base.change, base.windows, base.data_hash) == (None, None, 20, "held")
    for record in records:
        found = row.held_back[record.digest]
        assert found.value is not None
        assert found.baseline == base.value
        assert found.change == pytest.approx(found.value / base.value - 1)
        assert found.low < found.value < found.high
        assert found.within == (found.change <= 0.1 + 1e-12)
    assert sum("held-back data: trial" in line for line in listener.lines) == len(records)
    assert due(row, records) == []


def test_a_study_without_held_back_data_measures_and_stores_nothing_more(url: str) -> None:
    study = spec(memory_budget="24%", precisions=(8, 6, 4, 3))
    create_study(study, url, toy(study))
    assert run_study("toy", url, toy(study), listener=Recorder()).state == "finished"
    with Repository(url) as repository:
        row = repository.study("toy")
        assert row.held_back == repository.comparisons(row.uuid, "searched") == {}


def test_candidates_are_compared_on_the_searched_data_too(url: str) -> None:
    summary = run(url, created(url, held_spec()))
    with Repository(url) as repository:
        row = repository.study("toy")
        searched = repository.comparisons(row.uuid, "searched")
        feasible = {t.digest: t.value for t in repository.trials("toy") if t.feasible}
        assert repository.items(row.uuid, "searched", summary.best.digest) is not None
    assert set(searched) == {"baseline", *feasible}
    assert {digest: searched[digest].value for digest in feasible} == feasible


def test_ctrl_c_in_the_report_loses_nothing_and_a_resume_ends_it(url: str) -> None:
    def interrupt(count: int) -> None:
        if count == 3:
            raise KeyboardInterrupt

    session = created(url, held_spec(), on_held=interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(url, session)
    row, records = chosen(url)
    assert (row.state, row.reason) == ("stopped", "interrupted")
    assert len(row.held_back) == 2  # the unquantized model and one candidate
    again = held_toy(row.spec)
    assert run(url, again).state == "finished"
    assert again.ran == []
    assert len(again.held) == len(records) - 1
    assert set(chosen(url)[0].held_back) == {"baseline", *(r.digest for r in records)}


@pytest.mark.parametrize("last", [1, 3])
def test_a_process_killed_between_search_and_report_loses_nothing(url: str, last: int) -> None:
    study = held_spec()
    created(url, study)
    words = [sys.executable, "-m", "tests.search.held_toy", url, str(last)]
    ended = subprocess.run(words, cwd=ROOT, timeout=300, check=False, capture_output=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    row, records = chosen(url)
    assert row.state == "dead"
    assert len(row.held_back) == last - 1
    session = held_toy(study)
    assert run(url, session).state == "finished"
    assert session.ran == []
    assert len(session.held) == 1 + len(records) - max(0, last - 1)
    found, other = chosen(url)[0], f"{url}2"
    run(other, created(other, study))
    undisturbed = chosen(other)[0].held_back
    assert {d: c.value for d, c in found.held_back.items()} == {d: c.value for d, c in undisturbed.items()}
    assert {d: c.p for d, c in found.held_back.items()} == {d: c.p for d, c in undisturbed.items()}


def test_a_stop_that_is_asked_for_in_the_report_is_obeyed(url: str) -> None:
    def ask(count: int) -> None:
        if count == 2:
            with Repository(url) as repository:
                repository.request_stop(repository.study("toy").uuid)

    assert run(url, created(url, held_spec(), on_held=ask)).state == "stopped"
    row, records = chosen(url)
    assert len(row.held_back) == 2
    assert len(due(row, records)) == len(records) - 1
    assert run(url, held_toy(row.spec)).state == "finished"


def test_a_finished_study_whose_report_lacks_something_is_completed(url: str) -> None:
    session = created(url, held_spec())
    run(url, session)
    row, records = chosen(url)
    with Repository(url) as repository, repository._write() as connection:
        delete_comparisons(connection, [row.uuid])
    session = held_toy(row.spec)
    with Repository(url) as repository:
        assert due(repository.study("toy"), repository.trials("toy")) == records
    assert run(url, session).state == "finished"
    assert len(session.held) == len(records) + 1
    assert session.ran == []


def test_what_is_not_finite_on_held_back_data_is_stored_as_such(url: str) -> None:
    session = created(url, held_spec(), broken=lambda setting: setting != UNQUANTIZED)
    assert run(url, session).state == "finished"
    row, records = chosen(url)
    for record in records:
        assert row.held_back[record.digest].value is None
        assert "nan at token 3" in row.held_back[record.digest].reason
    assert due(row, records) == []


def test_an_infeasible_study_reports_nothing(url: str) -> None:
    session = created(url, held_spec(max_increase="0.01%", memory_budget="16%"))
    assert run(url, session).state == "infeasible"
    assert session.held == []


# ------------------------------------------------------------------------------------------ confidence


def test_with_a_confidence_fewer_bits_must_be_surer(url: str) -> None:
    """The verdicts follow the highest credible ratio; values and bytes are as without."""
    plain, sure = held_spec(hold_back=0.0), held_spec(hold_back=0.0, confidence=0.99)
    run(url, created(url, plain))
    other = f"{url}2"
    run(other, created(other, sure))
    with Repository(url) as one, Repository(other) as two:
        before = {t.digest: t for t in one.trials("toy")}
        after = {t.digest: t for t in two.trials("toy")}
        row = two.study("toy")
        assert one.study("toy").bound == row.bound
        searched = two.comparisons(row.uuid, "searched")
    shared = [d for d in before if d in after and before[d].value and after[d].value]
    assert shared
    assert all(before[d].value == after[d].value for d in shared)
    judged = [(before[d].slack["metric"], after[d].slack["metric"]) for d in shared]
    assert all(loose <= strict for loose, strict in judged)
    assert any(loose < strict for loose, strict in judged)
    assert set(searched) == {"baseline", *(t.digest for t in after.values() if t.feasible)}


def test_another_process_takes_the_baselines_items_from_the_storage(url: str) -> None:
    study = held_spec(hold_back=0.0, confidence=0.9)
    session = created(url, study)

    def stop(record: TrialRecord) -> None:
        if record.number == 2:
            with Repository(url) as repository:
                repository.request_stop(repository.study("toy").uuid)

    run(url, session, Recorder(on_end=stop))
    again = held_toy(study)
    assert run(url, again).state == "finished"
    assert again.baselines == 0
    other = f"{url}2"
    run(other, created(other, study))
    with Repository(url) as one, Repository(other) as two:
        assert [(t.digest, t.value, t.slack) for t in one.trials("toy")] == [
            (t.digest, t.value, t.slack) for t in two.trials("toy")
        ]


def test_what_a_confidence_refused_stays_refused_in_a_study_from_another(url: str) -> None:
    """Its metric alone may well meet the bound: the stored verdict holds, not the value."""
    study = held_spec(hold_back=0.0, confidence=0.99)
    run(url, created(url, study))
    again = replace(study, name="again", lam=1.0)
    session = created(url, again)
    reuse("toy", again, url)
    assert run_study("again", url, session, listener=Recorder()).state == "finished"
    with Repository(url) as repository:
        row, trials = repository.study("toy"), repository.trials("toy")
        before = {t.digest: t.slack["metric"] for t in trials}
        copied = {t.digest: t for t in repository.trials("again") if t.digest in before}
    assert all(copied[digest].slack["metric"] == before[digest] for digest in copied)
    refused = [t for t in copied.values() if t.value is not None and not t.feasible]
    assert any(t.value <= row.bound for t in refused)
    found = answer(again, row.spec, row.hierarchy, row.baseline, trials)
    assert {r.record.digest for r in found.ranked} == {
        t.digest for t in trials if t.value and before[t.digest] <= 0 and t.bytes <= found.budget
    }


def test_another_bound_with_a_confidence_cannot_be_answered_from_what_is_stored(url: str) -> None:
    study = held_spec(hold_back=0.0, confidence=0.9)
    run(url, created(url, study))
    other = replace(study, max_increase="7%")
    with Repository(url) as repository:
        row, trials = repository.study("toy"), repository.trials("toy")
    with pytest.raises(UsageError, match="another bound needs the outcome of every sentence or window"):
        answer(other, row.spec, row.hierarchy, row.baseline, trials)
    with pytest.raises(SpecError, match=r"says nothing about another one \(--max-increase 7%\)"):
        require_same_evaluations(study, other)
    require_same_evaluations(study, replace(study, memory_budget="20%", lam=1.0))


def test_a_bound_that_the_data_cannot_show_ends_the_study_at_once(url: str) -> None:
    study = held_spec(hold_back=0.0, confidence=0.95, max_increase=None, max_perplexity=2.75)
    session = created(url, study)
    with pytest.raises(InfeasibleError, match="not even a setting that changes nothing"):
        run(url, session)
    assert session.ran == []


# ------------------------------------------------------------------------------------------ the choice


def record(number: int, value: float, size: int) -> TrialRecord:
    return TrialRecord(
        number, f"u{number}", "complete", "global", "network", 4, "", f"d{number}", value, size, 1000,
        {"metric": -0.1, "memory": -0.1},
    )  # fmt: skip


def test_of_a_long_front_the_winner_the_ends_and_what_lies_between_are_measured() -> None:
    trials = [record(i, 50.0 - i, 100 + i) for i in range(40)] + [record(99, 60.0, 500)]
    for lam in (0.0, 0.2, 1000.0):
        found = to_confirm(trials, "perplexity", lam)
        assert len(found) == CONFIRMED == len({r.digest for r in found})
        assert found[0] == rank(trials, "perplexity", lam)[0].record
        front = pareto(trials, "perplexity")
        assert {front[0].number, front[-1].number} <= {r.number for r in found}
        assert 99 not in {r.number for r in found}
    assert to_confirm(trials, "perplexity", 0.2) == to_confirm(trials[::-1], "perplexity", 0.2)
    assert to_confirm([], "perplexity", 0.2) == []


def test_workers_share_the_report_and_what_was_stored_first_holds(url: str) -> None:
    """While one worker computes its first candidate, another does the whole report."""
    study, others = held_spec(), []

    def meanwhile(count: int) -> None:
        if count == 2:
            with Repository(url) as repository:
                row, trials = repository.study("toy"), repository.trials("toy")
                others.append(held_toy(study))
                others[0].loss_of = lambda setting: 3.0  # so that it can be told who stored what
                reporting = Reporting(
                    row, repository, others[0], Stops(lambda: False, Interrupts()), str
                )
                assert reporting.complete(trials)

    session = created(url, study, on_held=meanwhile)
    assert run(url, session).state == "finished"
    row, records = chosen(url)
    assert len(session.held) == 2  # the unquantized model and the one that both computed
    assert len(others[0].held) == len(records)  # the unquantized model's items came from the storage
    values = {round(row.held_back[record.digest].value, 6) for record in records}
    assert values == {round(exp(3.1), 6)}


def test_items_of_the_baseline_that_are_lost_are_measured_anew(url: str) -> None:
    study = held_spec(hold_back=0.0, confidence=0.9)
    run(url, created(url, study))
    with Repository(url) as repository:
        uuid, before = repository.study("toy").uuid, repository.trials("toy")
        with repository._write() as connection:
            delete_comparisons(connection, [uuid])
    again = held_toy(study)
    assert run(url, again).state == "finished"
    assert (again.baselines, again.ran) == (1, [])
    with Repository(url) as repository:
        assert repository.items(uuid, "searched", "baseline") is not None
        assert repository.trials("toy") == before
