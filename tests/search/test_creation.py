"""Several processes that create one storage at the same moment all succeed, and nobody sees half of it."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import optuna
import pytest
from sqlalchemy.exc import IntegrityError, OperationalError

from qslm_opt.search.creation import open_database
from qslm_opt.store import open_repository, prepare, was_created_meanwhile

CREATE = """
import sys
from pathlib import Path
from qslm_opt.search.creation import open_database
from qslm_opt.store import open_repository, prepare
url = sys.argv[1]
print("ready", flush=True)
sys.stdin.readline()
prepare(url)
with open_repository(url) as repository:
    assert repository.names() == []
open_database(url).engine.dispose()
"""


def _url(path: Path) -> str:
    return f"sqlite:///{path}"


def test_threads_that_create_a_storage_at_once_all_succeed(tmp_path: Path) -> None:
    count = 6
    for turn in range(4):
        url, gate = _url(tmp_path / f"{turn}.db"), threading.Barrier(count)

        def create(_: int, url: str = url, gate: threading.Barrier = gate) -> str:
            gate.wait(60)
            prepare(url)
            with open_repository(url) as repository:
                assert repository.names() == []
            storage = open_database(url)
            try:
                return storage.get_current_version()
            finally:
                storage.engine.dispose()

        with ThreadPoolExecutor(count) as pool:
            assert len(set(pool.map(create, range(count)))) == 1


def test_processes_that_create_a_storage_at_once_all_succeed(tmp_path: Path) -> None:
    url = _url(tmp_path / "a.db")
    command = [sys.executable, "-c", CREATE, url]
    pipe = subprocess.PIPE
    workers = [subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) for _ in range(2)]
    for worker in workers:
        assert worker.stdout is not None and worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("\n")
        worker.stdin.flush()
    for worker in workers:
        _, said = worker.communicate(timeout=120)
        assert worker.returncode == 0, said


def test_optunas_tables_come_all_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.db"
    url = _url(path)
    prepare(url)

    def broken(*_: object, **__: object) -> None:
        with closing(sqlite3.connect(path)) as other:
            names = {row[0] for row in other.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        assert {"studies", "study_user_attributes", "trials", "trial_values", "version_info"} <= names
        raise KeyboardInterrupt

    monkeypatch.setattr("qslm_opt.search.creation.RDBStorage", broken)
    with pytest.raises(KeyboardInterrupt):
        open_database(url)
    monkeypatch.undo()
    storage = open_database(url)  # and what a killed process left is completed
    assert optuna.get_all_study_names(storage) == []
    storage.engine.dispose()


def test_a_row_that_another_process_wrote_first_is_no_failure(tmp_path: Path) -> None:
    url = _url(tmp_path / "a.db")
    prepare(url)
    left = [IntegrityError("INSERT", {}, sqlite3.IntegrityError("UNIQUE constraint failed: version_num"))]
    real = open_database.__globals__["RDBStorage"]

    def slower(*words: object, **keys: object) -> object:
        if left:
            raise left.pop()
        return real(*words, **keys)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("qslm_opt.search.creation.RDBStorage", slower)
        open_database(url).engine.dispose()
    assert not left


def test_only_what_another_was_quicker_with_is_tried_again() -> None:
    def failed(text: str) -> OperationalError:
        return OperationalError("CREATE", {}, sqlite3.OperationalError(text))

    assert was_created_meanwhile(failed("table studies already exists"))
    assert not was_created_meanwhile(failed("disk I/O error"))
    assert not was_created_meanwhile(failed("no such table: studies"))
