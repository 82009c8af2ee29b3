"""The GPU, the memory and the storage fail: named, no setting blamed, resumable."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from qslm_opt.errors import DeviceError, NumericsError, OutOfMemoryError, StorageError, UsageError
from qslm_opt.search.driver import create_study, run_study
from qslm_opt.search.failures import blame_of, device_failure, named_failures
from qslm_opt.search.verdicts import MAX_FAILURES, read
from qslm_opt.store import Repository
from tests.search.toy import Recorder, spec, toy

URL = "sqlite:///x.db"


class TorchError(RuntimeError):
    """As torch's."""


TorchError.__name__ = "OutOfMemoryError"
FULL = OperationalError("INSERT", {}, sqlite3.OperationalError("database or disk is full"))


@pytest.mark.parametrize(
    ("raised", "named", "words", "blame"),
    [
        (RuntimeError("CUDA error: device lost\nmore"), DeviceError, "the GPU failed", "device: "),
        (RuntimeError("CUBLAS_STATUS_EXECUTION_FAILED when calling"), DeviceError, "nvidia-smi", "device: "),
        (MemoryError(), OutOfMemoryError, "not enough memory for one batch; end", "device: "),
        (TorchError("CUDA out of memory. Tried 2 GiB"), OutOfMemoryError, "Tried 2 GiB", "device: "),
        (FULL, StorageError, "is on a full disk", "storage: "),
        (sqlite3.OperationalError("readonly database"), StorageError, "is read-only", "storage: "),
    ],
)  # fmt: skip
def test_what_fails_is_named_and_no_setting_is_blamed(raised, named, words, blame):
    with pytest.raises(named, match=words), named_failures(URL):
        raise raised
    assert blame_of(raised) == blame
    attributes = {"digest": "d", "reason": f"{blame_of(raised)}{raised}"}
    assert read(attributes, {}, "failed").blame is False


@pytest.mark.parametrize("raised", [RuntimeError("shape mismatch"), ValueError("CUDA error"), KeyError("x")])
def test_a_bug_stays_a_bug(raised):
    assert device_failure(raised) is None
    assert blame_of(raised) == ""
    with pytest.raises(type(raised)), named_failures(URL):
        raise raised


def test_errors_that_have_a_name_keep_it():
    for error in (UsageError("a"), NumericsError("b")):
        with pytest.raises(type(error)) as found, named_failures(URL):
            raise error
        assert found.value is error


def test_a_gpu_that_fails_again_and_again_changes_no_verdict(tmp_path):
    study = spec(max_increase="100%", memory_budget="17%", precisions=(8, 4, 3), sensitivity_precisions=(4,))
    plain, broken = (f"sqlite:///{tmp_path}/{name}.db" for name in ("plain", "broken"))
    for url in (plain, broken):
        create_study(study, url, toy(study))
    expected = run_study("toy", plain, toy(study), listener=Recorder())
    session = toy(study)
    whole = session.loss_of
    for _ in range(MAX_FAILURES + 1):
        session.loss_of = lambda setting: (_ for _ in ()).throw(RuntimeError("CUDA error: gone"))
        session.baseline = toy(study).baseline
        with pytest.raises(DeviceError, match="the GPU failed"):
            run_study("toy", broken, session, listener=Recorder())
        with Repository(broken) as repository:
            row = repository.study("toy")
        assert row.state == "stopped"
        assert "CUDA error" in row.reason
    session.loss_of = whole
    found = run_study("toy", broken, session, listener=Recorder())
    assert (found.best.digest, found.candidates, found.visited) == (
        expected.best.digest, expected.candidates, expected.visited
    )  # fmt: skip
    assert found.counts["failed"] == MAX_FAILURES + 1


def test_a_worker_whose_trial_was_closed_meanwhile_stops_it_and_goes_on(tmp_path):
    """As after a stop signal: the lease expired, another worker told FAIL, this one wakes up."""
    from optuna.trial import TrialState

    from qslm_opt.search.ledger import close_trial, open_storage

    study = spec(max_increase="60%", memory_budget="17%", precisions=(8, 4, 3), sensitivity_precisions=(4,))
    url = f"sqlite:///{tmp_path}/toy.db"
    create_study(study, url, toy(study))
    storage = open_storage(url)

    def steal(record):
        if record.number in (3, 5):
            trial_id = storage.get_trial_id_from_study_id_trial_number(1, record.number)
            reason = {"reason": "stale: no sign of life"}
            assert close_trial(storage, trial_id, TrialState.FAIL, None, reason)

    listener = Recorder(on_start=steal)
    summary = run_study("toy", url, toy(study), listener=listener)
    storage.engine.dispose()
    assert summary.state == "finished"
    assert sum("closed by another worker meanwhile" in line for line in listener.lines) == 2
    with Repository(url) as repository:
        trials = repository.trials("toy")
    assert [t.number for t in trials if t.state == "failed"] == [3, 5]
    measured = {t.digest for t in trials if t.state != "failed"}
    assert {trials[3].digest, trials[5].digest} <= measured


def test_memory_that_ends_while_a_session_opens_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    from qslm_opt.cli.main import run
    from qslm_opt.pipeline import Session

    def full(*_: object, **__: object) -> None:
        raise TorchError("CUDA out of memory. Tried 2 GiB")

    monkeypatch.setattr(Session, "open", full)
    study = ["study", "create", "s", "--model", "demo", "--task", "demo", "--max-increase", "10%"]
    study += ["--memory-budget", "12%", "--storage", f"sqlite:///{tmp_path}/q.db"]
    for words in (study, ["model", "evaluate", "demo", "--task", "demo"]):
        assert run(words) == OutOfMemoryError.exit_code
        assert "Tried 2 GiB" in capsys.readouterr().err
