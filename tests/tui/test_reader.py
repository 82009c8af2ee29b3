from __future__ import annotations

import threading
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from qslm_opt.errors import SchemaError, StorageError, StudyNotFoundError
from tests.tui.fakes import START, FakeRepository, Study
from tui.poller import Poller, trouble_of
from tui.reader import StudiesReader, StudyReader, Trouble


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now


def reading(study: Study) -> tuple[FakeRepository, StudyReader, Clock]:
    repository, clock = FakeRepository(study), Clock()
    return repository, StudyReader(repository, study.spec.name, clock), clock


def trial_calls(repository: FakeRepository) -> list[tuple[Any, ...]]:
    found = [call for call in repository.calls if call[0] == "trials"]
    repository.calls.clear()
    return found


def test_nothing_but_the_counter_is_read_while_nothing_changes() -> None:
    repository, reader, _ = reading(Study().fill())
    assert reader.read() is not None
    repository.calls.clear()
    assert reader.read() is None
    assert repository.calls == [("changed",)]


def test_only_new_trials_are_read() -> None:
    study = Study().fill(running=False)
    repository, reader, _ = reading(study)
    reader.read()
    trial_calls(repository)
    last = study.trials[-1].number
    study.add("module", "attention.0/ffn.value", 2, {"attention.0": 4})
    repository.version += 1
    view = reader.read()
    assert view is not None and view.trials == tuple(study.trials)
    assert trial_calls(repository) == [("trials", last, None)]


def test_a_running_trial_is_read_again_when_it_ends_and_not_before() -> None:
    study = Study().fill()
    repository, reader, _ = reading(study)
    reader.read()
    trial_calls(repository)
    running = study.trials[-1].number
    repository.version += 1
    reader.read()
    assert trial_calls(repository) == [("trials", -1, ("running", "waiting")), ("trials", running, None)]
    repository.end_running(study)
    view = reader.read()
    assert view is not None and view.by_number[running].state == "complete"
    assert trial_calls(repository)[-1] == ("trials", running - 1, None)


def test_all_trials_are_read_again_when_the_end_marks_some_as_not_needed() -> None:
    study = Study().fill(running=False)
    repository, reader, _ = reading(study)
    before = reader.read()
    assert before is not None
    unneeded = next(t for t in study.trials if t.feasible)
    study.trials = [replace(t, extra=t is unneeded) for t in study.trials]
    study.extra = [unneeded.digest]
    repository.version += 1
    view = reader.read()
    assert view is not None and view.by_number[unneeded.number].extra
    assert len(view.feasible) == len(before.feasible) - 1


def test_a_forgotten_running_trial_costs_no_second_reading_of_all() -> None:
    study = Study()
    study.add("sensitivity", "attention.0", 8, {"attention.0": 8}, state="running")
    study.fill(running=False)
    repository, reader, _ = reading(study)
    reader.read()
    trial_calls(repository)
    study.add("module", "attention.0/ffn.value", 2, {"attention.0": 4})
    repository.version += 1
    reader.read()
    assert ("trials", study.trials[-2].number, None) in trial_calls(repository)


def test_what_a_running_trial_tells_later_is_seen() -> None:
    study = Study().fill()
    repository, reader, _ = reading(study)
    reader.read()
    study.trials[-1] = replace(study.trials[-1], unit="attention.2/att.key")
    repository.version += 1
    view = reader.read()
    assert view is not None and view.running[0].unit == "attention.2/att.key"


def test_a_death_that_writes_nothing_is_noticed() -> None:
    study = Study().fill()
    _, reader, clock = reading(study)
    reader.read()
    study.state = "dead"
    assert reader.read() is None
    clock.now += timedelta(seconds=5)
    view = reader.read()
    assert view is not None and view.row.state == "dead"


def test_a_study_made_anew_under_the_name_starts_anew() -> None:
    study = Study().fill()
    repository, reader, _ = reading(study)
    reader.read()
    again = Study()
    again.uuid = "another"
    again.add("global", "network", 4, {"attention.0": 4})
    repository.made[0] = again
    repository.version += 1
    view = reader.read()
    assert view is not None and len(view.trials) == 1


def test_the_list_of_studies_is_read_when_it_may_have_changed() -> None:
    repository, clock = FakeRepository(Study(), Study("other")), Clock()
    reader = StudiesReader(repository, clock)
    assert [line.row.name for line in reader.read() or []] == ["opt-14m", "other"]
    repository.calls.clear()
    assert reader.read() is None and repository.calls == [("changed",)]
    repository.version += 1
    assert reader.read() is None, "something else changed"
    assert ("best", "opt-14m") not in repository.calls, "no trial ended, so its best is known"
    repository.made[0].state = "dead"
    clock.now += timedelta(seconds=5)
    assert [line.row.state for line in reader.read() or []] == ["dead", "running"]


def test_every_failure_has_words() -> None:
    kinds = [
        trouble_of(error, 2, 1.0).kind
        for error in (StudyNotFoundError("no"), SchemaError("new"), StorageError("locked"), KeyError("x"))
    ]
    assert kinds == ["missing", "newer", "storage", "unexpected"]
    assert trouble_of(ValueError("a\n b"), 1, 1.0).text == "ValueError: a b"


def test_the_poller_reports_trouble_tries_again_and_recovers() -> None:
    study = Study().fill()
    repository = FakeRepository(study)
    repository.error = StorageError("database is locked")
    views: list[Any] = []
    troubles: list[Trouble] = []
    failed, seen = threading.Event(), threading.Event()
    poller = Poller(
        lambda: repository, study.spec.name, interval=0.005,
        on_view=lambda v: (views.append(v), seen.set()),
        on_studies=lambda _: None,
        on_trouble=lambda t: (troubles.append(t), len(troubles) == 3 and failed.set()),
    )  # fmt: skip
    poller.start()
    assert failed.wait(5)
    repository.error = None
    assert seen.wait(5)
    poller.stop()
    poller.join(5)
    assert not poller.is_alive() and poller.daemon
    assert [t.attempt for t in troubles[:3]] == [1, 2, 3]
    assert troubles[0].wait_seconds < troubles[1].wait_seconds < troubles[2].wait_seconds
    assert views[0].trials == tuple(study.trials)
    assert repository.closed >= 4, "after every failure and at the end"


def test_an_app_that_has_gone_ends_the_poller() -> None:
    def gone(_: object) -> None:
        raise RuntimeError("Event loop is closed")

    poller = Poller(
        lambda: FakeRepository(Study()),
        "opt-14m",
        on_view=gone,
        on_studies=gone,
        on_trouble=gone,
        interval=0.005,
    )
    poller.start()
    poller.join(5)
    assert not poller.is_alive()
