"""The power of trials: whose is measured longer, what is stored, and that no verdict depends on it."""

from __future__ import annotations

import json
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from qslm_opt.errors import StorageError
from qslm_opt.measure.meter import NullMeter
from qslm_opt.results import PowerWindow, TrialRecord
from qslm_opt.search.driver import create_study, run_study
from qslm_opt.search.ledger import open_storage, write_attributes
from qslm_opt.search.outcome import Outcome
from qslm_opt.search.power import PowerOf
from qslm_opt.setting import UNQUANTIZED
from qslm_opt.spec import StudySpec
from qslm_opt.store import Repository
from tests.search.toy import Recorder, Toy, ToyMeter, spec, toy

STUDY = spec(max_increase="100%", memory_budget="17%", precisions=(8, 4, 3), sensitivity_precisions=(4,))
SHORT = PowerWindow("replay", 3, 20.0, 60.0, 1.0, 12.5, seconds=0.2, items=100, ended=1.0)
LONG = replace(
    SHORT, samples=40, mean_w=61.0, energy_j=144.0, seconds=2.0, repeats=10, items=960, run_items=100,
    ended=2.0,
)  # fmt: skip


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/toy.db"


def session(study: StudySpec = STUDY, first: PowerWindow | None = SHORT, longer: Any = LONG) -> Toy:
    """A session whose runs give ``first``, and whose longer measurements ``longer`` or what it raises."""
    made = toy(study)
    run = made.run

    def measure(setting: Any, meter: Any, seconds: float, stop: Any) -> PowerWindow | None:
        made.measured.append((setting, seconds))
        if isinstance(longer, BaseException):
            raise longer
        return longer  # type: ignore[no-any-return]

    made.run = lambda *args, **more: (run(*args, **more)[0], first)  # type: ignore[method-assign, assignment]
    made.measure = measure  # type: ignore[method-assign]
    return made


def search(url: str, made: Toy, listener: Recorder | None = None) -> Recorder:
    listener = listener or Recorder()
    create_study(made.spec, url, made)
    run_study("toy", url, made, listener=listener, meter=ToyMeter())
    return listener


def read(url: str) -> tuple[list[TrialRecord], dict[str, PowerWindow]]:
    with Repository(url) as repository:
        return repository.trials("toy"), repository.power_windows(repository.study("toy").uuid)


def test_candidates_are_measured_for_the_window_and_others_keep_what_was_sampled(url: str) -> None:
    made = session()
    search(url, made)
    trials, windows = read(url)
    ran = [t for t in trials if t.used]
    candidates = [t for t in ran if t.feasible]
    assert 0 < len(candidates) < len(ran)
    assert [seconds for _, seconds in made.measured] == [2.0] * (len(candidates) + 1)
    asked = [setting.to_json() for setting, _ in made.measured]
    assert asked == [*(t.setting for t in candidates), UNQUANTIZED.to_json()]
    with Repository(url) as repository:
        baseline = repository.study("toy").uuid
    assert {baseline: LONG, **{t.uuid: LONG if t.feasible else SHORT for t in ran}} == windows
    assert {(t.power_w, t.energy_j) for t in candidates} == {(61.0, 15.0)}  # of a whole run
    assert {(t.power_w, t.energy_j) for t in ran if not t.feasible} == {(60.0, 12.5)}
    with Repository(url) as repository:
        stored = repository.evaluation("toy", candidates[0].number)
    assert stored is not None
    assert stored["power"]["repeats"] == 10


CANDIDATE = Outcome(TrialState.COMPLETE, {}, {"metric": -0.1, "memory": 0.0}, 1.0)


@pytest.mark.parametrize(
    ("seconds", "power", "outcome", "asked"),
    [
        (2.0, LONG, CANDIDATE, False),
        (2.0, SHORT, CANDIDATE, True),
        (2.0, replace(LONG, items=None), CANDIDATE, True),  # it began behind kept activations
        (2.0, None, CANDIDATE, True),
        (0.0, None, CANDIDATE, False),
        (0.1, SHORT, CANDIDATE, False),
        (5.0, LONG, CANDIDATE, True),
        (2.0, SHORT, replace(CANDIDATE, constraints={"metric": 0.1, "memory": 0.0}), False),
        (2.0, SHORT, replace(CANDIDATE, state=TrialState.PRUNED), False),
        (2.0, None, Outcome.failed("it"), False),
    ],
)
def test_a_candidate_is_measured_again_only_where_its_own_window_does_not_do(
    seconds: float, power: PowerWindow | None, outcome: Outcome, asked: bool
) -> None:
    made = toy(replace(STUDY, power_window=seconds))
    assert PowerOf(made, ToyMeter()).wants_more(outcome, power) is asked
    assert not PowerOf(made, ToyMeter(), stopping=lambda: True).wants_more(outcome, power)
    assert not PowerOf(made, NullMeter()).wants_more(outcome, power)
    assert not PowerOf(made, None).wants_more(outcome, power)


def test_a_longer_measurement_looks_for_a_request_to_stop_now_and_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, asked, answers = [0.0], [], []
    monkeypatch.setattr("qslm_opt.search.stopping.time.monotonic", lambda: now[0])
    made = toy(STUDY)

    def measure(setting: Any, meter: Any, seconds: float, stop: Any) -> None:
        for now[0] in (0.1, 0.4, 0.6, 0.7, 1.2):
            answers.append(stop())

    def stopping() -> bool:
        asked.append(now[0])
        return now[0] > 1

    made.measure = measure  # type: ignore[method-assign]
    PowerOf(made, ToyMeter(), stopping=stopping).measure(UNQUANTIZED)
    assert (asked, answers) == ([0.6, 1.2], [False, False, False, False, True])


def test_a_storage_that_does_not_say_whether_to_stop_ends_the_measurement_and_costs_no_trial() -> None:
    def stopping() -> bool:
        raise StorageError("storage q.db is locked by another process.")

    power = PowerOf(toy(STUDY), ToyMeter(), stopping=stopping)
    assert power.wants_more(CANDIDATE, SHORT) is False
    assert power.stopping() is True


def test_no_verdict_depends_on_the_power(url: str, tmp_path: Path) -> None:
    measured = session(longer=RuntimeError("the bus is gone"))
    listener = search(url, measured)
    other = f"sqlite:///{tmp_path}/other.db"
    plain = toy(STUDY)
    create_study(STUDY, other, plain)
    run_study("toy", other, plain, listener=Recorder())
    (with_meter, windows), (without, _) = read(url), read(other)

    def told(trials: list[TrialRecord]) -> list[Any]:
        return [(t.state, t.tier, t.unit, t.bits, t.digest, t.value, t.slack) for t in trials]

    assert told(with_meter) == told(without)
    assert set(windows.values()) == {SHORT}
    said = [line for line in listener.lines if "power of this candidate" in line]
    assert said[0] == "the power of this candidate was not measured: RuntimeError: the bus is gone"


def test_the_baseline_is_measured_once_and_only_when_nobody_else_works(url: str) -> None:
    made = session()
    create_study(STUDY, url, made)
    with Repository(url) as repository:
        uuid = repository.study("toy").uuid
        repository.beat(uuid, 1, "another host", "block")
        run_study("toy", url, made, listener=Recorder(), meter=ToyMeter())
        assert uuid not in repository.power_windows(uuid)
        repository.end_run(uuid, 1, "another host")
        count = len(made.measured)
        for _ in range(2):
            run_study("toy", url, made, listener=Recorder(), meter=ToyMeter())
        assert repository.power_windows(uuid)[uuid] == LONG
    assert len(made.measured) == count + 1


def test_ctrl_c_in_the_longer_measurement_keeps_the_trial_and_ends_the_run(url: str) -> None:
    made = session(longer=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        search(url, made)
    trials, windows = read(url)
    assert trials[-1].feasible
    assert windows[trials[-1].uuid] == SHORT
    assert not [t for t in trials if t.state in ("failed", "running")]
    with Repository(url) as repository:
        assert repository.study("toy").state == "stopped"
    again = session()
    run_study("toy", url, again, listener=Recorder(), meter=ToyMeter())
    assert len({t.digest for t in read(url)[0] if t.used}) == len([t for t in read(url)[0] if t.used])


def test_after_a_request_to_stop_nothing_is_measured_longer(url: str) -> None:
    made = session()

    def stop(record: TrialRecord) -> None:
        if record.tier == "sensitivity":
            return
        with Repository(url) as repository:
            repository.request_stop(repository.study("toy").uuid)

    stopping = Recorder(on_start=stop)
    create_study(STUDY, url, made)
    for _ in range(60):
        run_study("toy", url, made, listener=stopping, meter=ToyMeter())
        if any(t.feasible for t in read(url)[0]):
            break
    assert any(t.feasible for t in read(url)[0])
    assert made.measured == []


@pytest.mark.parametrize(("board", "alone"), [("another board", True), ("toy board", False)])
def test_a_trial_beside_another_on_its_own_board_has_no_power(url: str, board: str, alone: bool) -> None:
    made = session()
    create_study(STUDY, url, made)
    storage = open_storage(url)
    study_id = storage.get_study_id_from_name("toy")
    beside = storage.create_new_trial(study_id)
    owner = {"host": socket.gethostname(), "pid": 1, "born": "", "run": "x", "board": board}
    write_attributes(storage, beside, {"owner": json.dumps(owner), "digest": "another"})
    storage.engine.dispose()

    def end_after_three(record: TrialRecord) -> None:
        if record.number == 3:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("qslm_opt.search.owners.Owner.is_gone", lambda owner: False)
        with pytest.raises(KeyboardInterrupt):
            run_study("toy", url, made, listener=Recorder(on_end=end_after_three), meter=ToyMeter())
    ran = [t for t in read(url)[0] if t.used]
    assert {t.power_w for t in ran} == ({60.0} if alone else {None})
    assert bool(read(url)[1]) == alone


def test_a_study_without_a_meter_says_why_in_its_devices(url: str) -> None:
    made = toy(STUDY)
    create_study(STUDY, url, made)
    run_study("toy", url, made, listener=Recorder(), meter=NullMeter("no GPU here; use one", "cpu"))
    with Repository(url) as repository:
        (device,) = repository.power_devices(repository.study("toy").uuid)
    assert (device.source, device.device, device.reason) == ("null", "cpu", "no GPU here; use one")
    assert made.measured == []
