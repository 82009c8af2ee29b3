"""A stop in the middle of a tuning: its trial ends as interrupted, runs again, and changes no result."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from qslm_opt.cli.progress import verdict
from qslm_opt.errors import StoppedError, StorageError
from qslm_opt.search import stopping
from qslm_opt.search.deadline import Deadline, DeadlineReached
from qslm_opt.search.driver import create_study, run_study
from qslm_opt.search.interrupts import Interrupts
from qslm_opt.search.stopping import Stops
from qslm_opt.search.summary import RunSummary
from qslm_opt.store import Repository
from qslm_opt.store.held_back import delete_comparisons
from tests.search.held_toy import HeldToy, held_spec, held_toy
from tests.search.toy import Recorder, Toy, spec, toy

MANY = 1000
"""Steps of a tuning that nobody stops."""
STUDY = spec(max_increase="30%", memory_budget="30%", lam=1000, tune=50)


@pytest.fixture(autouse=True)
def _look_at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "STOP_SECONDS", 0.0)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/toy.db"


def ask(url: str) -> None:
    with Repository(url) as repository:
        repository.request_stop(repository.study("toy").uuid)


class Steps:
    """Steps of a tuning, before the third of which ``event`` happens, once."""

    def __init__(self, event: Callable[[], object]) -> None:
        self.event, self.done = event, 0
        self.came = False

    def __call__(self, stop: Callable[[], bool]) -> None:
        for step in range(1, MANY + 1):
            if step == 3 and not self.came:
                self.came = True
                self.event()
            self.done = step
            if stop():
                raise StoppedError(f"the tuning was stopped after step {step} of {MANY}")


def run(url: str, session: Toy) -> RunSummary:
    return run_study("toy", url, session, listener=Recorder())


def undisturbed(tmp_path: Path, session: Toy) -> RunSummary:
    url = f"sqlite:///{tmp_path}/plain.db"
    create_study(session.spec, url, session)
    return run(url, session)


def test_a_request_to_stop_ends_a_tuning_and_its_trial_runs_again(url: str, tmp_path: Path) -> None:
    session = toy(STUDY)
    create_study(STUDY, url, session)
    session.tuning = steps = Steps(lambda: ask(url))
    listener = Recorder()
    summary = run_study("toy", url, session, listener=listener)
    assert verdict(listener.ended[-1]) == "interrupted, runs again"
    assert (summary.state, summary.reason) == ("stopped", "stop requested")
    assert steps.done == 3
    with Repository(url) as repository:
        cut = repository.trials("toy")[-1]
    assert (cut.tier, cut.state, cut.value) == ("tuned", "failed", None)
    assert cut.reason.startswith("interrupted: the tuning was stopped after step 3")
    again = run(url, session)
    whole = undisturbed(tmp_path, toy(STUDY))
    assert again.state == "finished" and again.best is not None and whole.best is not None
    assert again.visited == whole.visited and again.best.digest == whole.best.digest


def test_a_deadline_ends_a_tuning_also_where_no_alarm_rings(url: str) -> None:
    over = threading.Event()

    class Soon(Deadline):
        def left(self) -> float:
            return 0.0 if over.is_set() else 3600.0

    session, found = toy(STUDY), []
    create_study(STUDY, url, session)
    session.tuning = steps = Steps(over.set)
    until = Soon("1h", time.monotonic() + 3600)

    def work() -> None:
        found.append(run_study("toy", url, session, listener=Recorder(), deadline=until))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found[0].deadline and steps.done == 3
    with Repository(url) as repository:
        assert repository.trials("toy")[-1].reason == "interrupted: deadline reached"


def held(tune: int = 50) -> HeldToy:
    return held_toy(held_spec(max_increase="30%", memory_budget="30%", lam=1000, tune=tune))


def test_a_stop_ends_a_tuning_for_the_held_back_report_too(url: str) -> None:
    session = held()
    create_study(session.spec, url, session)
    run(url, session)
    with Repository(url) as repository:
        row = repository.study("toy")
        chosen = [t for t in repository.trials("toy") if t.digest in row.held_back and t.tier == "tuned"]
        assert chosen
        with repository._write() as connection:
            delete_comparisons(connection, [row.uuid])
    resumed = held()  # another process: nothing that was tuned is kept
    resumed.tuning = steps = Steps(lambda: ask(url))
    assert run(url, resumed).state == "stopped"
    assert steps.done == 3
    with Repository(url) as repository:
        assert chosen[0].digest not in repository.study("toy").held_back
    assert run(url, resumed).state == "finished"


def test_a_storage_that_does_not_answer_stops_no_tuning_and_a_signal_waits_for_no_look() -> None:
    def broken() -> bool:
        raise StorageError("locked")

    assert not Stops(broken, Interrupts()).watch()()
    over = Interrupts(Deadline("1s", time.monotonic() - 1))
    stop = Stops(broken, over).watch()
    with over._set(True), pytest.raises(DeadlineReached):
        stop()


def test_the_storage_is_asked_now_and_then_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "STOP_SECONDS", 3600.0)
    asked: list[int] = []
    stop = Stops(lambda: bool(asked.append(1)), Interrupts()).watch()
    assert not any(stop() for _ in range(100)) and asked == []
