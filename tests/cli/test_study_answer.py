"""``study answer`` and ``study create --from``: other targets from what is stored."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from qslm_opt.cli import study_create
from qslm_opt.cli.main import run
from qslm_opt.store import Repository
from tests.cli.fake_session import FakeSession

FLAGS = ("--model", "demo", "--task", "demo-classify", "--memory-budget", "9500B", "--precisions", "8,6,4,3",
         "--max-drop", "0.03", "--progress", "none")  # fmt: skip


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[FakeSession]:
    monkeypatch.setenv("QSLM_OPT_STORAGE", f"sqlite:///{tmp_path}/q.db")
    made: list[FakeSession] = []

    def open_session(spec: Any) -> FakeSession:
        made.append(FakeSession(spec))
        return made[-1]

    monkeypatch.setattr(study_create, "open_session", open_session)
    return made


@pytest.fixture
def study(opened: list[FakeSession], capsys: pytest.CaptureFixture[str]) -> Repository:
    """A finished study ``x`` in the default storage."""
    assert run(["study", "create", "x", *FLAGS]) in (0, 4)
    capsys.readouterr()
    return Repository(os.environ["QSLM_OPT_STORAGE"], read_only=True)


Captured = pytest.CaptureFixture[str]


def answered(capsys: Captured, *words: str, code: int = 0) -> dict[str, Any]:
    assert run(["study", "answer", "x", *words, "--json"]) == code
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_its_own_targets_are_proven(study: Repository, capsys: Captured) -> None:
    found = answered(capsys)
    best = study.best("x")
    assert best is not None
    assert found["best"]["trial"] == best.number
    assert (found["proven"], found["standing"], found["search"]["next"]) == (True, "proven", None)
    assert found["targets"]["lambda"] == 0.2
    assert run(["study", "answer", "x"]) == 0
    captured = capsys.readouterr()
    assert f"best      trial {best.number}, accuracy" in captured.out
    assert "uniform   8 bits: " in captured.out
    assert captured.err == "proven: the same answer that a search for these targets gives\n"


def test_what_would_need_a_run_is_named_with_the_command_that_runs_it(
    study: Repository, opened: list[FakeSession], capsys: Captured
) -> None:
    found = answered(capsys, "--max-drop", "0.1", "--memory-budget", "25%")
    assert (found["proven"], found["standing"]) == (False, "open")
    step, words = found["search"]["next"], found["search"]["command"]
    assert step["bytes"] > 0
    assert words == "qslm-opt study create x-2 --from x --max-drop 0.1 --memory-budget 25%"
    assert found["why"].startswith(f"not proven: a search for these targets would need {step['unit']} at ")
    assert found["why"].endswith(words)
    assert run([*words.split()[1:], "--progress", "none", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert 0 < opened[-1].runs <= found["search"]["at_most_evaluations"]
    assert made["spec"]["max_drop"] == 0.1
    assert run(["study", "create", "y", *FLAGS, "--max-drop", "0.1", "--memory-budget", "25%", "--json"]) == 0
    alone = json.loads(capsys.readouterr().out)
    assert made["best"]["setting"] == alone["best"]["setting"]
    assert {row["digest"] for row in made["candidates"]} == {row["digest"] for row in alone["candidates"]}
    assert opened[-1].runs > opened[-2].runs


def test_nothing_that_meets_them_exits_with_4_and_names_the_closest(
    study: Repository, capsys: Captured
) -> None:
    found = answered(capsys, "--min-accuracy", "0.9", "--memory-budget", "5kB", code=4)
    assert (found["best"], found["candidates"]) == (None, [])
    assert found["closest"]["slack"]["memory"] > 0 or found["closest"]["slack"]["metric"] > 0
    assert run(["study", "answer", "x", "--min-accuracy", "0.9", "--memory-budget", "5kB"]) == 4
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: no stored setting of study 'x' meets these targets; the closest, trial ")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--memory-budget", "1kB"], 4, "raise the budget to at least"),
        (["--max-increase", "1.0"], 2, "give exactly one of --max-drop or --min-accuracy"),
        (["--max-drop", "0.1", "--min-accuracy", "0.5"], 2, "give exactly one of"),
        (["--memory-budget", "much"], 2, "is not a size"),
    ],
)
def test_targets_that_cannot_be_are_refused(
    words: list[str], code: int, said: str, study: Repository, capsys: Captured
) -> None:
    assert run(["study", "answer", "x", *words]) == code
    assert said in capsys.readouterr().err


def test_a_bound_that_the_unquantized_model_misses_says_that_no_search_is_made(
    study: Repository, capsys: Captured
) -> None:
    assert run(["study", "answer", "x", "--min-accuracy", "0.95"]) == 4
    assert "--min-accuracy 0.9 or less" in capsys.readouterr().err


def test_a_study_without_a_baseline_says_how_to_run_it(opened: list[FakeSession], capsys: Captured) -> None:
    assert run(["study", "create", "x", *FLAGS, "--no-run"]) == 0
    assert run(["study", "answer", "x"]) == 1
    assert "run it: qslm-opt study resume x." in capsys.readouterr().err
    assert run(["study", "create", "z", "--from", "x"]) == 2
    assert "has measured nothing yet; leave --from out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["z", "--from", "none"], 6, "no study 'none'"),
        (["--from", "x"], 2, "give NAME, and no --spec"),
        (["z", "--from", "x", "--spec", "f.toml"], 2, "give NAME, and no --spec"),
        (["z", "--from", "x", "--limit", "3"], 2, "limit 3 is not that of study 'x'"),
        (["x", "--from", "x"], 3, "'x' is already in storage"),
    ],
)
def test_a_study_from_another_that_cannot_be_is_refused(
    words: list[str], code: int, said: str, study: Repository, capsys: Captured
) -> None:
    assert run(["study", "create", *words]) == code
    assert said in capsys.readouterr().err
    assert study.names() == ["x"]


def test_another_model_is_refused_and_nothing_is_left(
    study: Repository, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setattr(FakeSession, "fingerprint", lambda self: {"weights": "other"})
    assert run(["study", "create", "z", "--from", "x", "--max-drop", "0.1"]) == 3
    said = "was measured with another code 1 → none, data d → none, weights w → other; leave --from out"
    assert said in capsys.readouterr().err
    assert study.names() == ["x"]


def test_when_the_copy_fails_nothing_is_left(
    study: Repository, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    def broken(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("qslm_opt.search.reuse._copy", broken)
    assert run(["study", "create", "z", "--from", "x", "--max-drop", "0.1"]) == 130
    assert study.names() == ["x"]


def test_an_answer_imports_neither_torch_nor_optuna(study: Repository) -> None:
    code = (
        "import sys\n"
        "from qslm_opt.cli.main import run\n"
        "assert run(['study', 'answer', 'x', '--lambda', '1']) == 0\n"
        "print('LOADED', sorted(set(sys.modules) & {'torch', 'optuna', 'numpy'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "LOADED []", done.stderr
