from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from qslm_opt import __version__
from qslm_opt.cli import study
from qslm_opt.cli.main import run
from tests.store.fake_study import FakeStudy

ROOT = Path(__file__).resolve().parents[2]


def python(*words: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, **options)  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize("words", [["--help"], ["study", "create", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    code = (
        f"import json, sys; from qslm_opt.cli.main import run; code = run({words!r})\n"
        "print(json.dumps([code, sorted(sys.modules)]), file=sys.stderr)"
    )
    done = python("-c", code)
    exit_code, modules = json.loads(done.stderr)
    assert exit_code == 0
    heavy = {
        "torch", "optuna", "textual", "sqlalchemy", "numba", "numpy", "transformers", "datasets", "pandas",
        "tui", "rich.console",
    }  # fmt: skip
    assert not heavy & set(modules)


def test_reading_commands_do_not_import_torch_or_optuna(tmp_path: Path) -> None:
    filled = FakeStudy(tmp_path / "q.db")
    filled.trial(0.88)
    code = (
        "import json, sys; from qslm_opt.cli.main import run\n"
        "for words in (['list'], ['show', 's'], ['candidates', 's'], ['export', 's'], ['stop', 's']):\n"
        f"    assert run(['study', *words, '--storage', {filled.url!r}]) == 0, words\n"
        "print(json.dumps(sorted(sys.modules)), file=sys.stderr)"
    )
    done = python("-c", code)
    modules = json.loads(done.stderr.splitlines()[-1])
    assert not {"torch", "optuna", "textual", "numba", "transformers", "tui"} & set(modules)


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"qslm-opt {__version__}\n"


def test_every_group_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    out = capsys.readouterr().out
    for word in ("study", "model", "demo", "watch", "dashboard", "doctor"):
        assert f"\n  {word} " in out
    assert run(["study", "--help"]) == 0
    out = capsys.readouterr().out
    for word in ("create", "resume", "list", "show", "candidates", "stop", "export", "delete"):
        assert f"\n  {word} " in out


@pytest.mark.parametrize(
    "words",
    [
        ["nope"],
        ["study", "nope"],
        ["study", "show"],
        ["study", "list", "--nope"],
        ["study", "show", "a", "b"],
    ],
)
def test_wrong_words_exit_with_2_and_one_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert "--help'" in captured.err


def test_a_database_error_from_anywhere_exits_with_3(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from sqlalchemy.exc import OperationalError

    def fail(*arguments: object, **options: object) -> None:
        error = OperationalError("INSERT", {}, Exception("database or disk is full"))
        raise RuntimeError("wrapped by Optuna") from error

    monkeypatch.setattr(study, "reading", fail)
    assert run(["study", "list"]) == 3
    assert capsys.readouterr().err == (
        "error: the storage is on a full disk; free some space and run the command again, "
        "what was stored is safe.\n"
    )


def test_a_bug_is_not_dressed_up_as_an_error_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(study, "reading", fail)
    with pytest.raises(ZeroDivisionError):
        run(["study", "list"])


def test_ctrl_c_exits_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(study, "reading", fail)
    assert run(["study", "list"]) == 130


def test_a_reader_that_leaves_early_causes_no_traceback(tmp_path: Path) -> None:
    filled = FakeStudy(tmp_path / "q.db")
    filled.trial(0.88)
    words = [sys.executable, "-m", "qslm_opt", "study", "show", "s", "--json", "--storage", filled.url]
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(60) == 1
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()


def test_a_terminal_without_unicode_gets_replacements(tmp_path: Path) -> None:
    filled = FakeStudy(tmp_path / "q.db")
    filled.trial(0.88)
    done = python(
        "-m", "qslm_opt", "study", "candidates", "s", "--storage", filled.url,
        env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
    )  # fmt: skip
    assert done.returncode == 0
    assert "1 candidate at ? = 0.2" in done.stdout


def test_the_dashboard_needs_a_terminal_and_the_study(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filled = FakeStudy(tmp_path / "q.db")
    assert run(["watch", "nope", "--storage", filled.url]) == 6
    nothing = f"sqlite:///{tmp_path}/none.db"
    assert run(["watch", "nope", "--storage", nothing]) == 3
    assert run(["watch", "--storage", f"sqlite:///{tmp_path}/nowhere/none.db"]) == 3
    capsys.readouterr()
    assert run(["watch", "--storage", nothing]) == 2  # there the first study can be made, on a terminal
    assert "needs a terminal" in capsys.readouterr().err


def test_watch_opens_the_dashboard_on_the_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from qslm_opt.cli import watch

    filled, calls = FakeStudy(tmp_path / "q.db"), []
    app = SimpleNamespace(main=lambda url, name, screen: calls.append((url, name, screen)))
    real = watch.import_module
    monkeypatch.setattr(watch, "import_module", lambda name: app if name == "tui.app" else real(name))
    assert run(["watch", "s", "--storage", filled.url]) == 0
    assert run(["watch", "--screen", "rank", "--storage", filled.url]) == 0
    assert calls == [(filled.url, "s", "overview"), (filled.url, None, "rank")]


def test_watch_draws_a_picture_without_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("QSLM_OPT_ASCII", "")  # --ascii sets it; it is put back after the test
    filled, out = FakeStudy(tmp_path / "q.db"), tmp_path / "p.svg"
    filled.trial(0.9, 5000)
    flags = ("--snapshot", str(out), "--storage", filled.url)
    assert run(["watch", "s", *flags, "--size", "120x36", "--screen", "rank", "--ascii"]) == 0
    assert "1 feasible candidates".replace(" ", "&#160;") in out.read_text("utf-8")
    assert capsys.readouterr().err.endswith(f"wrote {out}\n")
    assert run(["watch", "s", *flags, "--size", "10x10"]) == 2
    assert run(["watch", "s", *flags, "--screen", "rnk"]) == 2
    err = capsys.readouterr().err
    assert "at least 80x24" in err and "Did you mean 'rank'?" in err
