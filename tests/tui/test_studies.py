"""The studies of a storage: what the list shows, and new, resume, stop and delete by the command line."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qslm_opt.cli import running
from qslm_opt.errors import StorageError
from qslm_opt.store import Repository
from qslm_opt.store.rows import own_host
from tests.cli.test_hostile import NAMES
from tests.store.fake_study import FakeStudy
from tests.tui.driving import app_on, run, screen_of, shown, until
from tests.tui.fakes import FakeRepository, Study
from tui import runs
from tui.app import QslmApp
from tui.reader import is_new
from tui.runs import Answer


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[list[str]]:
    """Note the commands that would be run, and run none of them."""
    called: list[list[str]] = []
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    sleeper = [sys.executable, "-c", "pass"]

    def noted(words: Any) -> list[str]:
        called.append(list(words))
        return sleeper

    monkeypatch.setattr(runs.background, "command_line", noted)
    return called


def three() -> tuple[Study, Study, Study]:
    older = Study("older", blocks=2, metric="accuracy").fill("global", running=False)
    older.state = "finished"
    halted = Study("halted").fill("global", running=False)
    halted.state = "stopped"
    return Study().fill(), older, halted


async def test_the_list_says_how_far_each_is_and_its_best() -> None:
    async with shown(*three(), Study("empty"), name=None, size=(80, 24)) as pilot:
        text = screen_of(pilot.app)
        for mark in ("4 studies", "● running", "█░░░ 63/~149", "◆ 34.88 −88.7 %", "sst2", "✔ finished",
                     "◆ 85.18 % −90.0", "■ stopped", "0 trials", "none yet"):  # fmt: skip
            assert mark in text, text
        await pilot.resize_terminal(160, 50)
        await pilot.pause()
        assert "21m" in screen_of(pilot.app) and "✂ 3" in screen_of(pilot.app), "age and pruned have room"


async def test_a_stopped_study_is_resumed_in_a_process_of_its_own(commands: list[list[str]]) -> None:
    async with shown(*three(), name=None) as pilot:
        await pilot.press("down", "down", "r")
        await until(pilot, lambda: commands)
        assert commands == [["study", "resume", "--progress", "plain", "--", "halted"]]
        await pilot.press("up", "r")
        await pilot.pause()
        notes = [note.message for note in pilot.app._notifications]
        assert "older has ended; nothing is left to run." in notes and len(commands) == 1


async def test_a_run_that_fails_at_its_start_is_told_with_its_last_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    words = [sys.executable, "-c", "import sys; sys.exit('qslm-opt: there is no such model.')"]
    monkeypatch.setattr(runs.background, "command_line", lambda _: words)
    async with shown(*three(), name=None) as pilot:
        app = pilot.app
        assert isinstance(app, QslmApp)
        await pilot.press("down", "down", "r")
        await until(pilot, lambda: app.runs)
        app.runs[0].process.wait(60)
        await until(pilot, lambda: any("no such model" in note.message for note in app._notifications))
        assert not app.runs


async def test_a_study_that_is_refused_with_exit_code_4_is_told_and_one_that_found_nothing_is_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    say = "import sys; print('error: memory budget 12 bytes cannot be reached.'); sys.exit(4)"
    monkeypatch.setattr(runs.background, "command_line", lambda _: [sys.executable, "-c", say])
    made = FakeStudy(tmp_path / "q.db")
    made.close()
    refused = runs.start([], "b1", made.url)
    assert refused.process.wait(60) == 4
    assert refused.failure(made.url) == Answer(
        4, "error: memory budget 12 bytes cannot be reached.", "b1 was not run"
    )
    assert replace(refused, name="s").failure(made.url) is None
    async with shown(*three(), name=None) as pilot:
        app = pilot.app
        assert isinstance(app, QslmApp)
        app.runs.append(refused)  # its storage, of the app, is not there at all
        await until(pilot, lambda: any("12 bytes" in note.message for note in app._notifications))


async def test_the_first_study_of_a_storage_appears_in_the_list_that_was_empty(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/q.db"
    assert is_new(url) and not is_new(f"sqlite:///{tmp_path}/nowhere/q.db") and not is_new("grpc://a:1")
    app = QslmApp(url, None, interval=0.02)
    async with run(app) as pilot:
        await until(pilot, lambda: "No study yet. Press n" in screen_of(app), "the empty list")
        FakeStudy(tmp_path / "q.db").close()
        await until(pilot, lambda: "1 study" in screen_of(app), "the first study")
    assert not is_new(url)


def test_watch_opens_before_there_is_a_storage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from qslm_opt.cli import watch

    opened: list[Any] = []
    monkeypatch.setattr("tui.app.main", lambda *given: opened.append(given))
    url = f"sqlite:///{tmp_path}/q.db"
    watch.watch(storage=url)
    assert opened == [(url, None, "overview")] and list(tmp_path.iterdir()) == []
    with pytest.raises(StorageError, match="does not exist"):
        watch.watch("a", storage=url)
    with pytest.raises(StorageError, match="nowhere"):
        watch.watch(storage=f"sqlite:///{tmp_path}/nowhere/q.db")


async def test_deleting_asks_first_and_a_running_study_is_not_deleted(commands: list[list[str]]) -> None:
    async with shown(*three(), name=None) as pilot:
        await pilot.press("D")
        await pilot.pause()
        assert any("is running; stop it first" in note.message for note in pilot.app._notifications)
        await pilot.press("down", "D")
        await pilot.pause()
        assert "Delete study older with its 26 trials?" in screen_of(pilot.app)
        await pilot.press("enter")
        await pilot.pause()
        assert commands == [], "the first answer keeps it"
        await pilot.press("D", "down", "enter")
        await until(pilot, lambda: commands)
        assert commands == [["study", "delete", "--yes", "--", "older"]]


async def test_stopping_asks_and_leaves_it_running_unless_told(commands: list[list[str]]) -> None:
    async with shown(*three()) as pilot:
        await pilot.press("X")
        await pilot.pause()
        text = screen_of(pilot.app)
        assert "Leave it running" in text and "After this trial" in text
        assert "the running trial is lost" not in text, "its process is on another host"
        await pilot.press("enter")
        assert commands == []
        await pilot.press("ctrl+c", "ctrl+c")
        await pilot.pause()
        assert "After this trial" in screen_of(pilot.app)
        await pilot.press("down", "enter")
        await until(pilot, lambda: commands)
        assert commands == [["study", "stop", "--", "opt-14m"]]


@pytest.mark.parametrize("name", [None, "opt-14m"])
async def test_the_question_closes_when_the_study_has_ended_behind_it(
    name: str | None, commands: list[list[str]]
) -> None:
    study = Study().fill()
    repository = FakeRepository(study)
    async with run(app_on(repository, name)) as pilot:
        await until(pilot, lambda: "● running" in screen_of(pilot.app))
        await pilot.press("x" if name is None else "X")
        await until(pilot, lambda: "When shall it stop?" in screen_of(pilot.app))
        repository.calls.clear()
        repository.end_running(study)
        await until(pilot, lambda: {"trials", "best"} & {call[0] for call in repository.calls})
        assert "When shall it stop?" in screen_of(pilot.app), "it runs on"
        study.state = "finished"
        repository.version += 1
        await until(pilot, lambda: "When shall it stop?" not in screen_of(pilot.app))
        notes = [note.message for note in pilot.app._notifications]
        assert "opt-14m is finished; there is nothing left to stop." in notes and commands == []


async def test_a_study_whose_process_was_started_from_here_is_starting_until_it_runs(
    commands: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = Study().fill("global", running=False)
    study.state = "stopped"
    repository = FakeRepository(study)
    sleeper = [sys.executable, "-c", "import time; time.sleep(600)"]
    monkeypatch.setattr(runs.background, "command_line", lambda words: sleeper)
    async with run(app_on(repository)) as pilot:
        app = pilot.app
        assert isinstance(app, QslmApp)
        await until(pilot, lambda: "Resume with" in screen_of(app))
        assert "R resume" in screen_of(app).splitlines()[-1]
        await pilot.press("R")
        try:
            pid = app.runs[0].process.pid
            await until(pilot, lambda: f"Starting (process {pid})" in screen_of(app))
            assert "R resume" not in screen_of(app)
            await pilot.press("R", "ctrl+c", "X")
            await pilot.pause()
            notes = [note.message for note in app._notifications]
            assert len(app.runs) == 1 and sum("it can be stopped once it runs" in n for n in notes) == 2
            for state, says in (("running", "● running"), ("stopped", "Resume with")):
                study.state = state  # type: ignore[assignment]
                repository.version += 1
                await until(pilot, lambda says=says: says in screen_of(app), says)  # type: ignore[misc]
                assert ("X stop" in screen_of(app)) is (state == "running")
                assert "Starting" not in screen_of(app).splitlines()[2]
        finally:
            app.runs[0].process.kill()
            app.runs[0].process.wait(60)


async def test_a_study_that_the_command_line_started_is_starting_too(monkeypatch: pytest.MonkeyPatch) -> None:
    study = Study()
    study.state = "created"
    async with shown(study) as pilot:
        app = pilot.app
        assert isinstance(app, QslmApp) and "Created, not started" in screen_of(app)
        app.begun = study.name
        app.refresh_shown()
        await until(pilot, lambda: "Starting: its process loads the model" in screen_of(app))
        monkeypatch.setattr("tui.running._START_SECONDS", -1.0)
        app.refresh_shown()
        await until(pilot, lambda: "Created, not started" in screen_of(app), "it is not believed for ever")


async def test_one_ctrl_c_only_says_what_to_do(commands: list[list[str]]) -> None:
    async with shown(*three()) as pilot:
        await pilot.press("ctrl+c")
        await pilot.pause()
        assert any("ctrl+c again" in note.message for note in pilot.app._notifications)
        assert "After this trial" not in screen_of(pilot.app) and commands == []


def test_now_can_be_asked_for_where_the_process_is_on_this_host() -> None:
    away = Study().row()
    assert not runs.can_stop_now(away)
    assert runs.can_stop_now(replace(away, pid=os.getpid(), host=own_host()))
    assert not runs.can_stop_now(replace(away, pid=os.getpid(), host=own_host(), state="dead"))


def test_now_sends_a_signal_to_every_process_on_this_host_only() -> None:
    row = Study().row()
    answer = runs.stop_now(row, [("bench-1", 4242)])
    assert answer.code == 1 and "is on this host" in answer.text
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "kill", lambda pid, sign: pytest.fail(f"{pid} got signal {sign}"))
        assert runs.stop_now(row, [(own_host(), 0), (own_host(), -1)]).code == 1
    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    sleepers = [subprocess.Popen(sleep) for _ in range(2)]
    working = [("bench-1", 4242), *((own_host(), process.pid) for process in sleepers)]
    try:
        answer = runs.stop_now(row, working)
        assert [process.wait(60) for process in sleepers] == [-signal.SIGTERM] * 2
    finally:
        for process in sleepers:
            process.kill()
    assert answer.code == 0 and "2 processes were told to stop 'opt-14m' now" in answer.text
    assert answer.text.endswith("Those on bench-1 go on; stop them after their trials.")
    gone = runs.stop_now(row, working[1:])
    assert gone.code == 1 and gone.text.count("cannot be stopped: No such process.") == 2


def test_the_processes_are_those_of_the_storage_that_still_beat(tmp_path: Path) -> None:
    study = FakeStudy(tmp_path / "q.db")
    study.close()
    with Repository(study.url) as repository:
        row = repository.study("s")
        assert runs.processes(row, study.url) == []
        repository.beat(row.uuid, 2**22 + 5, "old", "block")
        with sqlite3.connect(tmp_path / "q.db") as connection:
            connection.execute("UPDATE qslm_run SET heartbeat = heartbeat - 3600")
        for pid, host in ((os.getpid(), own_host()), (2**22 + 5, own_host()), (7, "away")):
            repository.beat(row.uuid, pid, host, "block")
    found = runs.processes(row, study.url)
    assert set(found) == {(own_host(), os.getpid()), ("away", 7)}, "neither the one gone nor the one silent"


async def test_now_asks_the_storage_which_processes_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []

    def stop(row: Any, working: Any) -> Answer:
        told.append(working)
        return Answer(0, "they were told")

    working = [(own_host(), 4242), (own_host(), 4243)]
    monkeypatch.setattr(runs, "can_stop_now", lambda row: True)
    monkeypatch.setattr(runs, "processes", lambda row, url: working)
    monkeypatch.setattr(runs, "stop_now", stop)
    async with shown(*three()) as pilot:
        await pilot.press("X")
        await until(pilot, lambda: "the running trial is lost" in screen_of(pilot.app))
        await pilot.press("down", "down", "enter")
        await until(pilot, lambda: any(n.message == "they were told" for n in pilot.app._notifications))
        assert told == [working]


async def test_a_study_that_is_called_like_an_option_is_named_after_the_options(
    commands: list[list[str]],
) -> None:
    study = Study().fill("global", running=False)
    study.name, study.state = "--help-me", "stopped"
    async with shown(study, name="--help-me", size=(160, 50)) as pilot:
        app = pilot.app
        assert isinstance(app, QslmApp)
        app.action_resume()
        assert commands == [["study", "resume", "--progress", "plain", "--", "--help-me"]]
        assert app.command() == "qslm-opt study show --storage sqlite:///other.db -- --help-me"
        assert "study resume --storage sqlite:///other.db -- --help-me" in screen_of(app)


@pytest.mark.parametrize("name", [name for name in NAMES if name], ids=lambda name: ascii(name)[:20])
def test_a_log_is_where_the_command_line_has_it_whatever_the_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert runs.log_file(name) == running.log_file(name)
    assert runs.log_file(name).resolve().parent == (tmp_path / "qslm-opt").resolve()


def test_a_run_outlives_whoever_started_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    say = (
        "import os; print(os.environ['QSLM_OPT_LOG']); "
        "print(os.environ['QSLM_OPT_STORAGE'], os.getsid(0) == os.getpid())"
    )
    monkeypatch.setattr(runs.background, "command_line", lambda words: [sys.executable, "-c", say])
    started = runs.start(["study", "resume", "a"], "a", "sqlite:///x.db")
    assert started.process.wait(60) == 0 and started.failure("sqlite:///x.db") is None
    assert runs.last_line(started.log) == "sqlite:///x.db True", "a session of its own, the URL out of sight"
    assert started.log == tmp_path / "qslm-opt" / "a.log"
    first = started.log.read_text("utf-8").splitlines()[0]
    assert Path(first) == started.log, "the command bounds this file"
    assert os.getsid(0) != started.process.pid


def test_the_answer_of_a_command_is_its_last_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    answer = runs.ask(["study", "stop", "none"], f"sqlite:///{tmp_path}/none.db")
    assert answer.code == 3 and "does not exist" in answer.text
    monkeypatch.setattr(runs, "_PATIENCE_SECONDS", 0.01)
    assert runs.ask(["--version"], "sqlite:///x.db") == Answer(
        1, "'qslm-opt --version' gave no answer in 0 s."
    )


async def test_the_form_shows_the_equal_command_and_creates_when_it_can(commands: list[list[str]]) -> None:
    async with shown(*three(), name=None) as pilot:
        await pilot.press("n")
        await until(pilot, lambda: "the study has no name" in screen_of(pilot.app))
        await pilot.press("enter", *"older")
        await until(pilot, lambda: "study 'older' exists already" in screen_of(pilot.app))
        await pilot.press("2")
        await until(pilot, lambda: "qslm-opt study create older2 --model demo" in screen_of(pilot.app))
        await pilot.press("enter")
        await until(pilot, lambda: commands)
        repository = pilot.app._open_source()  # type: ignore[attr-defined]
        repository.made.insert(1, Study("older2"))
        repository.version += 1
        await until(pilot, lambda: pilot.app.selected().name == "older2", "it is selected")  # type: ignore[attr-defined]
        assert commands[0][:3] == ["study", "create", "older2"] and commands[0][-2:] == [
            "--progress",
            "plain",
        ]


async def test_a_study_that_is_killed_while_it_is_shown_says_so_and_how_to_go_on() -> None:
    study = Study().fill()
    repository = FakeRepository(study)
    async with run(app_on(repository)) as pilot:
        await until(pilot, lambda: "● running" in screen_of(pilot.app))
        study.state = "dead"
        repository.version += 1
        await until(pilot, lambda: "† dead" in screen_of(pilot.app))
        assert "qslm-opt study resume opt-14m" in screen_of(pilot.app)
        study.state = "running"
        repository.end_running(study)
        await until(pilot, lambda: "● running" in screen_of(pilot.app))
        repository.made.clear()
        repository.version += 1
        await until(pilot, lambda: "is gone from the storage" in screen_of(pilot.app))


async def test_every_dialog_is_ascii_where_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QSLM_OPT_ASCII", "1")
    async with shown(*three(), name=None, size=(80, 24)) as pilot:
        for keys, mark in (
            (["n"], "New study"), (["escape", "x"], "Stop?"), (["escape", "down", "D"], "Delete?"),
            (["escape", "?"], "Help: studies"), (["escape", "up", "enter"], "Tiers"), (["e"], "Export"),
        ):  # fmt: skip
            await pilot.press(*keys)
            await until(pilot, lambda mark=mark: mark in screen_of(pilot.app), mark)  # type: ignore[misc]
            assert screen_of(pilot.app).isascii(), {c for c in screen_of(pilot.app) if not c.isascii()}
