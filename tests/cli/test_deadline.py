"""``--deadline``: what is said, the exit code, and that the search goes on afterwards."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qslm_opt.cli import running, study_create, worker
from qslm_opt.cli.launchers import worker_words
from qslm_opt.cli.main import run
from qslm_opt.cli.progress import make_listener
from qslm_opt.search.deadline import Deadline, DeadlineReached
from qslm_opt.search.driver import create_study
from qslm_opt.spec import StudySpec
from qslm_opt.store import Repository
from tests.cli.fake_session import FakeSession
from tests.store.fake_study import spec_of

FLAGS = ("--model", "demo", "--task", "demo-classify", "--memory-budget", "9500B", "--precisions", "8,4,3",
         "--max-drop", "0.1")  # fmt: skip


class Ringing(FakeSession):
    """Its evaluation number ``rings`` is still running when the deadline comes."""

    rings: int | None = None

    def run(self, *args: Any, **more: Any) -> Any:
        if self.runs == self.rings:
            raise DeadlineReached
        return super().run(*args, **more)


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("QSLM_OPT_STORAGE", f"sqlite:///{tmp_path}/q.db")
    return f"sqlite:///{tmp_path}/q.db"


@pytest.fixture
def rings(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], None]:
    for module in (study_create, worker):
        monkeypatch.setattr(module, "open_session", Ringing)
    return lambda number: monkeypatch.setattr(Ringing, "rings", number)


def test_with_a_candidate_it_ends_with_0_and_says_what_is_proven_and_how_to_go_on(
    url: str, rings: Callable[[int | None], None], capsys: pytest.CaptureFixture[str]
) -> None:
    rings(7)  # six of the sensitivity tier and one uniform setting come before
    assert run(["study", "create", "x", *FLAGS, "--deadline", "1h30m", "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert (found["state"], found["reason"]) == ("stopped", "deadline reached")
    assert found["counts"]["failed"] == 1
    best = found["candidates"][0]["trial"]
    assert "the search ends at its deadline at the latest, in 1:" in err
    assert "left] #" in err
    assert err.splitlines()[-1].startswith(
        f"the deadline came and the search is unfinished, in the global tier at 2 of at most 3; proven is "
        f"that trial {best} meets both constraints (accuracy "
    )
    assert err.endswith("not that nothing better does; go on with: qslm-opt study resume x\n")
    assert run(["study", "show", "x"]) == 0
    assert "stopped (deadline reached)" in capsys.readouterr().out
    rings(None)
    assert run(["study", "resume", "x", "--deadline", "1h", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "finished"


def test_without_one_it_ends_with_4(
    url: str, rings: Callable[[int | None], None], capsys: pytest.CaptureFixture[str]
) -> None:
    rings(2)
    assert run(["study", "create", "x", *FLAGS, "--deadline", "1h", "--progress", "none"]) == 4
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1] == (
        "error: the deadline came and the search is unfinished, in the sensitivity tier at 2 of at most 6; "
        "nothing that was tried meets both constraints yet; go on with: qslm-opt study resume x."
    )
    assert Repository(url).study("x").state == "stopped"


def test_a_worker_has_one_too(
    url: str, rings: Callable[[int | None], None], capsys: pytest.CaptureFixture[str]
) -> None:
    study = spec_of("s")
    create_study(study, url, FakeSession(study))
    rings(0)
    assert run(["worker", "--study", "s", "--deadline", "2h"]) == 4
    assert "go on with: qslm-opt study resume s" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["study", "create", "x", *FLAGS, "--deadline", "soon"], "--deadline 'soon' is no time"),
        (["study", "resume", "x", "--deadline", "0s"], "--deadline '0s' is out of range"),
        (["worker", "--study", "x", "--deadline", "5"], "--deadline '5' is no time"),
        (["demo", "--deadline", "1y"], "--deadline '1y' is no time"),
        (["study", "create", "x", *FLAGS, "--no-run", "--deadline", "1h"], "--no-run runs nothing"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_else(
    words: list[str], said: str, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(words) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_other_processes_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QSLM_OPT_BEGAN", raising=False)
    running.begin()
    until = running.deadline_of("1h30m")
    assert running._until(until) == ["--deadline", "1h30m"]
    assert running._until(None) == []
    study = StudySpec.from_mapping(
        {"name": "s", "model": "demo", "task": "demo", "max_increase": "5%", "memory_budget": "10kB"}
    )
    *_, flag, seconds = worker_words(study, until)
    assert flag == "--deadline"
    assert 0 < Deadline.of(seconds, running._began["at"]).left() <= 5401  # type: ignore[union-attr]


def test_a_bar_shows_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)

    class Fixed(Deadline):
        def left(self) -> float:
            return 754.0

    listener = make_listener("auto", "accuracy", lambda: 0.9, Fixed("20m", 0.0))
    (column,) = listener._columns()  # type: ignore[attr-defined]
    tasks = listener._bar.tasks  # type: ignore[attr-defined]
    assert [column.render(task).plain for task in tasks] == ["deadline: 12:34 left", ""]


def test_a_process_that_still_loads_then_is_ended(
    url: str, rings: Callable[[int | None], None], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    rings(7)
    words = [sys.executable, "-c", "import time; time.sleep(600)"]
    monkeypatch.setattr(running, "_resume", lambda name: words)
    monkeypatch.setattr(running, "_LATE_SECONDS", 0.0)

    class Over(Deadline):
        def left(self) -> float:
            return 0.0 if started else 3600.0

    started: list[int] = []
    popen = subprocess.Popen

    def start(*args: Any, **more: Any) -> Any:
        started.append(1)
        return popen(*args, **more)

    monkeypatch.setattr(running.subprocess, "Popen", start)
    monkeypatch.setattr(study_create, "deadline_of", lambda text: Over("1h", 0.0))
    assert run(["study", "create", "x", *FLAGS, "--workers", "2", "--deadline", "1h"]) in (0, 4)
    assert started == [1]
    assert "ended with exit code" not in capsys.readouterr().err
