from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import threading
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import optuna
import pytest

from qslm_opt.errors import SchemaError, StorageError, StudyNotFoundError
from qslm_opt.evaluate.bounds import MetricBound
from qslm_opt.store import Repository, StudyState, prepare
from qslm_opt.store.rows import own_host
from tests.store.fake_study import FakeStudy, baseline_of, row_of, spec_of, url_of

HERE = own_host()


@pytest.fixture
def study(tmp_path: Path) -> FakeStudy:
    return FakeStudy(tmp_path / "q.db")


@pytest.fixture
def writer(study: FakeStudy) -> Repository:
    return Repository(study.url)


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_study_comes_back_as_it_was_stored(tmp_path: Path) -> None:
    url = url_of(tmp_path / "q.db")
    prepare(url)
    spec = spec_of("x", pins={"input": "int8/tensor/affine"}, precisions=(8, 4))
    row = row_of(
        spec, "u-1", baseline=baseline_of(), order=["input", "attention.0"], created="2026-01-02T03:04:05",
        progress=[{"tier": "sensitivity", "done": 3, "total": 10}], reason="because",
    )  # fmt: skip
    repository = Repository(url)
    repository.add_study(row)
    bound = MetricBound.of(spec, baseline_of()).value
    assert repository.study("x") == replace(row, bound=bound)
    assert repository.studies() == [repository.study("x")]


def test_baseline_order_progress_and_state_can_be_set_later(writer: Repository, study: FakeStudy) -> None:
    before = writer.study("s")
    assert (before.state, before.order, before.progress) == ("created", [], [])
    writer.set_baseline(study.uuid, replace(baseline_of(), value=0.95, correct=95))
    writer.set_order(study.uuid, ("attention.0", "input"))
    writer.set_progress(study.uuid, [{"tier": "global", "done": 2, "total": None}])
    writer.set_state(study.uuid, "finished", "exhausted")
    after = writer.study("s")
    assert after.baseline is not None
    assert after.baseline.value == 0.95
    assert after.bound == pytest.approx(0.90)
    assert after.order == ["attention.0", "input"]
    assert after.progress == [{"tier": "global", "done": 2, "total": None}]
    assert (after.state, after.reason) == ("finished", "exhausted")


def test_counts_are_by_trial_state(study: FakeStudy, writer: Repository) -> None:
    study.trial(0.9)
    study.trial(0.8, bits=3)
    study.trial(state="pruned")
    study.trial(state="failed")
    study.trial(state="running")
    study.study.enqueue_trial({"tier": "block"})
    assert writer.study("s").counts == {"complete": 2, "pruned": 1, "failed": 1, "running": 1}


def test_studies_are_listed_in_order_of_creation(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        FakeStudy(tmp_path / "q.db", name=name)
    repository = Repository(url_of(tmp_path / "q.db"), read_only=True)
    assert repository.names() == ["b", "a", "c"]
    assert [row.name for row in repository.studies()] == ["b", "a", "c"]


def test_an_unknown_study_names_the_nearest(writer: Repository) -> None:
    writer.add_study(row_of(spec_of("wikitext"), "u-2"))
    with pytest.raises(StudyNotFoundError, match=r"no study 'wikitxt' .*Did you mean 'wikitext'\?"):
        writer.study("wikitxt")
    with pytest.raises(StudyNotFoundError, match="study list"):
        writer.trials("zzz")


def test_a_running_study_is_dead_when_its_process_is_gone(writer: Repository, study: FakeStudy) -> None:
    writer.set_state(study.uuid, "running")
    assert writer.study("s").state == "running"
    writer.beat(study.uuid, os.getpid(), HERE, "baseline")
    alive = writer.study("s")
    assert (alive.state, alive.pid, alive.host, alive.phase) == ("running", os.getpid(), HERE, "baseline")
    assert alive.heartbeat is not None
    writer.end_run(study.uuid)
    assert writer.study("s").pid is None
    writer.beat(study.uuid, dead_pid(), HERE, "block")
    assert writer.study("s").state == "dead"


def test_a_running_study_is_dead_when_no_beat_came_for_half_a_minute(
    writer: Repository, study: FakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer.set_state(study.uuid, "running")
    writer.beat(study.uuid, 1234, "another-host", "block")
    assert writer.study("s").state == "running"
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 31)
    assert writer.study("s").state == "dead"
    writer.beat(study.uuid, 1234, "another-host", "module")
    assert (writer.study("s").state, writer.study("s").phase) == ("running", "module")


def test_one_living_worker_keeps_a_study_running(writer: Repository, study: FakeStudy) -> None:
    writer.set_state(study.uuid, "running")
    writer.beat(study.uuid, os.getpid(), HERE, "block")
    writer.beat(study.uuid, dead_pid(), HERE, "block")
    assert writer.study("s").state == "running"


def test_a_stop_can_be_asked_for_and_the_next_run_takes_it_back(writer: Repository, study: FakeStudy) -> None:
    assert not writer.stop_requested(study.uuid)
    Repository(study.url).request_stop(study.uuid)
    assert writer.stop_requested(study.uuid)
    assert writer.study("s").stop_requested
    writer.set_state(study.uuid, "stopped", "stop requested")
    assert writer.stop_requested(study.uuid)
    writer.set_state(study.uuid, "running")
    assert not writer.stop_requested(study.uuid)


def test_a_stop_is_kept_that_others_are_still_to_obey_or_that_came_later(
    writer: Repository, study: FakeStudy
) -> None:
    before = time.time()
    writer.request_stop(study.uuid)
    writer.set_state(study.uuid, "running", since=before)
    assert writer.stop_requested(study.uuid)
    writer.beat(study.uuid, os.getppid(), HERE, "block")
    writer.set_state(study.uuid, "running")
    assert writer.stop_requested(study.uuid)
    writer.end_run(study.uuid, os.getppid(), HERE)
    writer.beat(study.uuid, dead_pid(), HERE, "block")
    writer.beat(study.uuid, os.getpid(), HERE, "block")
    writer.set_state(study.uuid, "running")
    assert not writer.stop_requested(study.uuid)


@pytest.mark.parametrize("stored", ["created", "stopped", "finished"])
def test_a_study_runs_while_a_process_of_it_lives_whatever_is_stored(
    writer: Repository, study: FakeStudy, stored: StudyState
) -> None:
    writer.set_state(study.uuid, stored, "because")
    writer.beat(study.uuid, os.getpid(), HERE, "block")
    writer.beat(study.uuid, dead_pid(), HERE, "module")
    row = writer.study("s")
    assert (row.state, row.pid, row.phase, row.reason) == ("running", os.getpid(), "block", "")
    writer.end_run(study.uuid)
    assert (writer.study("s").state, writer.study("s").reason) == (stored, "because")


def test_a_worker_that_is_stopped_does_not_undo_the_end_that_another_found(
    writer: Repository, study: FakeStudy
) -> None:
    writer.set_state(study.uuid, "finished")
    writer.set_state(study.uuid, "stopped", "interrupted")
    assert (writer.study("s").state, writer.study("s").reason) == ("finished", "")
    writer.set_state(study.uuid, "running")
    writer.set_state(study.uuid, "stopped", "interrupted")
    assert writer.study("s").state == "stopped"


def test_trials_that_the_search_did_not_need_are_marked(writer: Repository, study: FakeStudy) -> None:
    study.trial(0.9, bits=8)
    study.trial(0.9, bits=4)
    assert [(t.extra, t.feasible) for t in writer.trials("s")] == [(False, True)] * 2
    digest = writer.trials("s")[1].digest
    writer.set_extra(study.uuid, [digest])
    assert [(t.extra, t.feasible) for t in writer.trials("s")] == [(False, True), (True, False)]
    assert writer.study("s").extra == [digest]
    writer.set_extra(study.uuid, ())
    assert [t.extra for t in writer.trials("s")] == [False, False]
    assert writer.study("s").extra == []


def test_a_deleted_study_is_gone_with_its_runs(writer: Repository, study: FakeStudy) -> None:
    writer.beat(study.uuid, 1, HERE, "block")
    writer.delete(study.uuid)
    assert writer.names() == []
    with sqlite3.connect(study.url.removeprefix("sqlite:///")) as connection:
        assert connection.execute("SELECT count(*) FROM qslm_run").fetchone() == (0,)


def test_changed_moves_when_another_connection_writes_and_only_then(study: FakeStudy) -> None:
    reader = Repository(study.url, read_only=True)
    first = reader.changed()
    assert reader.changed() == first
    reader.studies(), reader.trials("s")
    assert reader.changed() == first
    study.trial(state="running")
    second = reader.changed()
    assert second != first
    Repository(study.url).set_progress(study.uuid, [])
    assert reader.changed() != second


def test_changed_sees_the_writes_of_its_own_repository(writer: Repository, study: FakeStudy) -> None:
    first = writer.changed()
    writer.set_progress(study.uuid, [])
    assert writer.changed() != first


def test_the_mark_of_other_databases_moves_with_every_kind_of_write(
    study: FakeStudy, writer: Repository
) -> None:
    from qslm_opt.store.studies import write_mark

    marks = []

    def mark() -> None:
        with writer._read() as connection:
            marks.append(write_mark(connection))

    mark()
    trial = study.study.ask()
    mark()
    trial.set_user_attr("x", 1)
    mark()
    study.study.tell(trial, state=optuna.trial.TrialState.FAIL)
    mark()
    writer.set_progress(study.uuid, [])
    mark()
    writer.beat(study.uuid, 1, HERE, "block")
    mark()
    writer.end_run(study.uuid, 1, HERE)
    mark()
    assert all(before != after for before, after in pairwise(marks))
    mark()
    assert marks[-1] == marks[-2]


def test_a_reader_works_while_a_writer_is_in_the_middle_of_a_transaction(study: FakeStudy) -> None:
    study.trial(0.9)
    reader = Repository(study.url, read_only=True)
    connection = sqlite3.connect(study.url.removeprefix("sqlite:///"), isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("UPDATE qslm_study SET reason = 'half done'")
    start = time.monotonic()
    assert reader.study("s").reason == ""
    assert len(reader.trials("s")) == 1
    assert time.monotonic() - start < 5
    connection.execute("COMMIT")
    connection.close()
    assert reader.study("s").reason == "half done"


def test_a_read_only_repository_cannot_write(study: FakeStudy) -> None:
    reader = Repository(study.url, read_only=True)
    with pytest.raises(StorageError, match="read-only"):
        reader.request_stop(study.uuid)


def test_readers_and_writers_in_many_threads_do_not_get_into_each_others_way(study: FakeStudy) -> None:
    writer, reader, errors = Repository(study.url), Repository(study.url, read_only=True), []

    def work(number: int) -> None:
        try:
            for _ in range(20):
                writer.beat(study.uuid, number, HERE, "block")
                reader.changed(), reader.study("s"), reader.trials("s")
        except Exception as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_a_missing_storage_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="does not exist; create a study"):
        Repository(url_of(tmp_path / "none.db"), read_only=True)
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_optuna_alone_has_no_studies_of_ours(tmp_path: Path) -> None:
    url = url_of(tmp_path / "q.db")
    optuna.create_study(storage=url, study_name="theirs")
    reader = Repository(url, read_only=True)
    assert reader.studies() == []
    with pytest.raises(StudyNotFoundError):
        reader.trials("theirs")
    with pytest.raises(SchemaError, match="has schema 0"):
        Repository(url)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "q.db").write_text("hello " * 1000)
    with pytest.raises(StorageError, match="is not an SQLite database"):
        Repository(url_of(tmp_path / "q.db"), read_only=True)


def test_a_locked_database_says_so(study: FakeStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qslm_opt.store.engine.BUSY_SECONDS", 0.05)
    writer = Repository(study.url)
    connection = sqlite3.connect(study.url.removeprefix("sqlite:///"), isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    with pytest.raises(StorageError, match="is locked by another process"):
        writer.request_stop(study.uuid)
    connection.execute("ROLLBACK")
    connection.close()


def test_a_disk_that_fills_up_says_so(study: FakeStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    from qslm_opt.store import engine

    class Small(engine.QuickConnection):
        def __init__(self, *args: object, **kwargs: object) -> None:
            super().__init__(*args, **kwargs)
            self.execute("PRAGMA max_page_count=1")

    monkeypatch.setattr(engine, "QuickConnection", Small)
    writer = Repository(study.url)
    with pytest.raises(StorageError, match="is on a full disk; free some space"):
        writer.set_state(study.uuid, "running", "x" * 100_000)


def test_the_hierarchy_and_spec_are_json_in_the_file(study: FakeStudy) -> None:
    with sqlite3.connect(study.url.removeprefix("sqlite:///")) as connection:
        spec, tree = connection.execute("SELECT spec, hierarchy FROM qslm_study").fetchone()
    assert json.loads(spec)["task"] == "demo-classify"
    assert json.loads(tree)["family"] == "spikegpt"
