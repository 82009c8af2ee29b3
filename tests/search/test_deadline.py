"""A deadline ends a run like Ctrl-C, keeps what is proven, and changes no result."""

from __future__ import annotations

import dataclasses
import threading
import time

import pytest

from qslm_opt.errors import UsageError
from qslm_opt.search.deadline import Deadline, DeadlineReached, clock, parse_duration
from qslm_opt.search.driver import create_study, run_study
from qslm_opt.search.interrupts import Interrupts
from qslm_opt.store import Repository
from tests.search.toy import Recorder, spec, toy

STUDY = spec(max_increase="100%", memory_budget="17%", precisions=(8, 4, 3, 2), sensitivity_precisions=(4,))


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/toy.db"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("30m", 1800), ("30min", 1800), ("1h30m", 5400), ("1.5h", 5400), ("1d", 86400)],
)
def test_times_are_read(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "90", "h", "1x", "-5m", "30 minutes", "1e3s", "1:30"])
def test_what_is_no_time_is_refused_with_an_example(text):
    with pytest.raises(UsageError, match="is no time; write for instance 90s, 30m, 2h or 1h30m"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["0s", "0h0m", "367d"])
def test_times_out_of_range_are_refused(text):
    with pytest.raises(UsageError, match="more than 0s and at most 366d"):
        parse_duration(text)


def test_the_time_counts_from_when_the_run_was_asked_for():
    found = Deadline.of("30m", time.time() - 1200)
    assert 0 < found.left() <= 600
    assert Deadline.of("1s", time.time() - 5).left() == 0
    assert Deadline.of(None, 0.0) is None


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (0.2, "0:01"), (59.5, "1:00"), (754, "12:34"), (3723, "1:02:03")]
)
def test_what_is_left_is_written_as_a_clock(seconds, text):
    assert clock(seconds) == text


def later() -> Deadline:
    return Deadline("1h", time.monotonic() + 3600)


def over() -> Deadline:
    return Deadline("1s", time.monotonic() - 1)


def test_an_alarm_rings_in_the_middle_of_what_runs():
    soon = Deadline("1s", time.monotonic() + 0.05)
    with Interrupts(soon) as interrupts, pytest.raises(DeadlineReached), interrupts.exposed():
        time.sleep(60)


def test_what_is_stored_is_stored_to_its_end():
    done, soon = [], Deadline("1s", time.monotonic() + 0.05)

    def work(interrupts: Interrupts) -> None:
        with interrupts.exposed():
            with interrupts.shielded():
                while soon.left():
                    time.sleep(0.01)
                time.sleep(0.05)
                done.append("stored")
            done.append("after")

    with Interrupts(soon) as interrupts, pytest.raises(DeadlineReached):
        work(interrupts)
    assert done == ["stored"]


def test_a_thread_sees_it_where_it_looks():
    seen = []

    def work():
        with Interrupts(over()) as interrupts:
            interrupts.check()  # nothing may be raised here
            try:
                with interrupts.exposed():
                    seen.append("exposed")
            except DeadlineReached:
                seen.append("reached")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == ["reached"]


def test_a_trial_that_runs_then_is_not_lost_and_the_search_ends_as_without_a_deadline(url, tmp_path):
    plain = f"sqlite:///{tmp_path}/plain.db"
    create_study(STUDY, plain, toy(STUDY))
    whole = run_study("toy", plain, toy(STUDY), listener=Recorder())
    session, calls = toy(STUDY), []
    inner = session.loss_of
    session.loss_of = lambda setting: calls.append(setting) or inner(setting)

    class Calls(Deadline):
        """It comes while the sixth evaluation runs."""

        def left(self) -> float:
            return float(max(0, 6 - len(calls)))

    create_study(STUDY, url, session)
    first = run_study("toy", url, session, listener=Recorder(), deadline=Calls("6s", 0.0))
    with Repository(url) as repository:
        row, trials = repository.study("toy"), repository.trials("toy")
    assert (first.state, first.deadline, first.reason) == ("stopped", True, "deadline reached")
    assert (row.state, row.reason, row.pid) == ("stopped", "deadline reached", None)
    assert len(calls) == 6
    assert [t.used > 0 for t in trials if t.state != "failed"].count(True) == 4  # and the baseline
    assert [t.number for t in trials if t.state == "failed"] == [trials[-1].number]
    assert trials[-1].reason == "interrupted: deadline reached"
    second = run_study("toy", url, session, listener=Recorder(), deadline=later())
    assert (second.state, second.deadline) == ("finished", False)
    assert second.visited == whole.visited
    assert (second.best.digest, second.score, second.candidates) == (
        whole.best.digest, whole.score, whole.candidates
    )  # fmt: skip


def test_a_deadline_that_has_come_before_the_baseline_leaves_a_study_that_can_go_on(url):
    session = toy(STUDY)
    create_study(STUDY, url, session)
    summary = run_study("toy", url, session, listener=Recorder(), deadline=over())
    assert (summary.state, summary.candidates, session.baselines) == ("stopped", 0, 0)
    assert run_study("toy", url, session, listener=Recorder()).state == "finished"


def test_a_search_that_ends_before_its_deadline_has_ended(url):
    create_study(STUDY, url, toy(STUDY))
    summary = run_study("toy", url, toy(STUDY), listener=Recorder(), deadline=later())
    assert (summary.state, summary.deadline) == ("finished", False)


def test_it_is_no_part_of_a_spec():
    assert "deadline" not in {field.name for field in dataclasses.fields(STUDY)}
