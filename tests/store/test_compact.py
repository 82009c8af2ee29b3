from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import optuna
import pytest

from qslm_opt.cli.main import run
from qslm_opt.errors import StudyNotFoundError, UsageError
from qslm_opt.store import Repository, compact, optuna_storage_kwargs
from qslm_opt.store.rows import own_host
from tests.store.fake_study import FakeStudy


@pytest.fixture
def study(tmp_path: Path) -> FakeStudy:
    """A study of 40 trials with 50 reports each, of which one is running, and a hole in its file."""
    study = FakeStudy(tmp_path / "q.db")
    for _ in range(39):
        number = study.trial(0.9)
        report(study, number)
    running = study.study.ask()
    for step in range(50):
        running.report(0.5, step)
    study.study.set_user_attr("hole", "x" * 2_000)
    return study


def report(study: FakeStudy, number: int) -> None:
    """Add reports to a finished trial, as a run leaves them."""
    with sqlite3.connect(study.url.removeprefix("sqlite:///")) as connection:
        rows = [(number + 1, step, 0.5, "FINITE") for step in range(50)]
        connection.executemany(
            "INSERT INTO trial_intermediate_values (trial_id, step, intermediate_value, "
            "intermediate_value_type) VALUES (?, ?, ?, ?)",
            rows,
        )
    connection.close()


def trials_of(study: FakeStudy) -> list[object]:
    with Repository(study.url, read_only=True) as repository:
        return list(repository.trials("s"))


def test_reports_of_finished_trials_go_and_every_record_stays(study: FakeStudy) -> None:
    before = trials_of(study)
    done = compact(study.url)
    assert done.reports == 39 * 50
    assert done.before_bytes is not None and done.after_bytes is not None
    assert done.after_bytes < done.before_bytes
    path = Path(study.url.removeprefix("sqlite:///"))
    assert done.after_bytes == path.stat().st_size
    log = Path(f"{path}-wal")
    assert not log.exists() or log.stat().st_size == 0
    assert trials_of(study) == before
    storage = optuna.storages.RDBStorage(study.url, engine_kwargs=optuna_storage_kwargs(study.url))
    kept = optuna.load_study(study_name="s", storage=storage).trials
    assert [len(t.intermediate_values) for t in kept] == [0] * 39 + [50]
    with storage.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
    assert compact(study.url).reports == 0


def test_one_study_can_be_named(study: FakeStudy) -> None:
    with pytest.raises(StudyNotFoundError):
        compact(study.url, "other")
    assert compact(study.url, "s").reports == 39 * 50


def test_it_is_refused_while_a_study_runs(study: FakeStudy) -> None:
    with Repository(study.url) as repository:
        repository.beat(repository.study("s").uuid, os.getpid(), own_host(), "block")
    with pytest.raises(UsageError, match=r"study 's' .* is being run by process \d+ on .*; compact when"):
        compact(study.url)


def test_the_command_says_what_it_came_to(study: FakeStudy, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["study", "compact", "--storage", study.url]) == 0
    assert "before," in (said := capsys.readouterr().err)
    assert "1,950 intermediate reports deleted" in said
    assert run(["study", "compact", "s", "--storage", study.url, "--json"]) == 0
    assert '"reports": 0' in capsys.readouterr().out
