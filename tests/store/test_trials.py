from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path

import optuna
import pytest

from qslm_opt.setting import QuantSetting
from qslm_opt.store import Repository
from tests.store.fake_study import BUDGET, EVALUATION, FP32_BYTES, FakeStudy, fill


@pytest.fixture
def study(tmp_path: Path) -> FakeStudy:
    return FakeStudy(tmp_path / "q.db")


def test_a_complete_trial_is_read_as_it_was_written(study: FakeStudy) -> None:
    number = study.trial(
        0.88, 5000, tier="block", unit="attention.0", bits=3, power_w=310.5, energy_j=500.0, firing_rate=0.21
    )
    (record,) = Repository(study.url, read_only=True).trials("s")
    assert (record.number, record.state, record.tier, record.unit, record.bits) == (
        number, "complete", "block", "attention.0", 3,
    )  # fmt: skip
    assert (record.value, record.bytes, record.fp32_bytes, record.used) == (0.88, 5000, FP32_BYTES, 100)
    assert record.slack == {"metric": -0.1, "memory": 5000 / BUDGET - 1}
    assert (record.loss, record.seconds, record.power_w) == (0.5, 1.5, 310.5)
    assert (record.energy_j, record.firing_rate) == (500.0, 0.21)
    setting = QuantSetting.from_json(record.setting)
    assert str(setting.format_of("attention.0/att.key")) == "int3/channel/affine"
    assert record.feasible
    assert len(record.uuid) == 36


def test_times_are_those_that_optuna_shows(study: FakeStudy) -> None:
    study.trial(0.88)
    (record,) = Repository(study.url, read_only=True).trials("s")
    (theirs,) = study.study.trials
    assert theirs.datetime_start is not None
    assert record.started == theirs.datetime_start.isoformat()
    assert record.finished is not None
    assert datetime.fromisoformat(record.finished) == theirs.datetime_complete


def test_states_constraints_and_missing_values_come_through(study: FakeStudy) -> None:
    study.trial(0.88)
    study.trial(None, BUDGET * 2, state="pruned", metric_slack=0.0)
    study.trial(None, state="pruned", metric_slack=0.03, used=12)
    study.trial(None, state="failed")
    study.trial(None, state="running")
    study.study.enqueue_trial({"tier": "block"})
    rows = Repository(study.url, read_only=True).trials("s")
    assert [r.state for r in rows] == ["complete", "pruned", "pruned", "failed", "running", "waiting"]
    assert rows[1].slack == {"metric": 0.0, "memory": 1.0}
    assert (rows[2].value, rows[2].used, rows[2].feasible) == (None, 12, False)
    assert rows[4].slack == {}
    assert rows[4].finished is None
    waiting = rows[5]
    assert (waiting.uuid, waiting.setting, waiting.tier, waiting.bits) == ("", "", "", 0)
    assert waiting.started is None


def test_a_violated_constraint_is_no_candidate(study: FakeStudy) -> None:
    study.trial(0.5, metric_slack=0.2)
    study.trial(0.9, BUDGET + 1)
    assert [r.feasible for r in Repository(study.url, read_only=True).trials("s")] == [False, False]


def test_after_and_states_read_only_what_is_asked_for(study: FakeStudy) -> None:
    for bits in (8, 6, 4):
        study.trial(0.9, bits=bits)
    study.trial(None, state="running", bits=3)
    repository = Repository(study.url, read_only=True)
    assert [r.number for r in repository.trials("s", after=1)] == [2, 3]
    assert [r.bits for r in repository.trials("s", states=("running",))] == [3]
    assert [r.number for r in repository.trials("s", after=0, states=["complete", "failed"])] == [1, 2]
    assert repository.trials("s", after=3) == []


def test_text_with_escapes_survives(study: FakeStudy) -> None:
    odd = '{"version":1,"units":{"network":"fp16"},"quantizer":"é\\\\\\"x"}'
    study.trial(0.9, setting=odd)
    assert Repository(study.url, read_only=True).trials("s")[0].setting == odd


def test_an_infinite_perplexity_is_read(tmp_path: Path) -> None:
    study = FakeStudy(tmp_path / "q.db", metric="perplexity")
    study.trial(float("inf"), metric_slack=float("inf"))
    (record,) = Repository(study.url, read_only=True).trials("s")
    assert record.value == float("inf")
    assert record.slack["metric"] == float("inf")


def test_trials_of_other_studies_in_the_file_are_left_alone(study: FakeStudy, tmp_path: Path) -> None:
    other = FakeStudy(tmp_path / "q.db", name="other")
    study.trial(0.9)
    other.trial(0.8)
    repository = Repository(study.url, read_only=True)
    assert [r.value for r in repository.trials("s")] == [0.9]
    assert [r.value for r in repository.trials("other")] == [0.8]


def test_a_renamed_study_is_found_under_its_new_name(study: FakeStudy) -> None:
    study.trial(0.9)
    optuna.copy_study(
        from_study_name="s", from_storage=study.url, to_storage=study.url, to_study_name="renamed"
    )
    optuna.delete_study(study_name="s", storage=study.url)
    repository = Repository(study.url, read_only=True)
    assert repository.names() == ["renamed"]
    assert repository.study("renamed").uuid == study.uuid
    assert [r.value for r in repository.trials("renamed")] == [0.9]


def test_the_whole_evaluation_of_one_trial_can_be_read(study: FakeStudy) -> None:
    number = study.trial(0.9)
    repository = Repository(study.url, read_only=True)
    assert repository.evaluation("s", number) == EVALUATION
    assert repository.evaluation("s", number + 1) is None


def test_ten_thousand_trials_are_read_in_under_a_second(study: FakeStudy, tmp_path: Path) -> None:
    fill(tmp_path / "q.db", study, 10_000)
    repository = Repository(study.url, read_only=True)
    seconds = []
    for _ in range(3):
        start = time.process_time()
        rows = repository.trials("s")
        seconds.append(time.process_time() - start)
    assert len(rows) == 10_000
    assert len({r.digest for r in rows}) == 10_000
    assert rows[-1].unit == "attention.2/att.key"
    start = time.process_time()
    assert len(repository.trials("s", after=9_949)) == 50
    last = time.process_time() - start
    print(f"10,000 trials: {min(seconds):.3f} s, the last 50: {last * 1e3:.1f} ms")
    assert min(seconds) < 1.0
    assert last < 0.1
