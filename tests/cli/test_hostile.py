"""Names, URLs and servers as somebody with bad intentions gives them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import optuna
import pytest

from qslm_opt.cli import running
from qslm_opt.cli.main import run
from qslm_opt.errors import DataError
from qslm_opt.store import prepare, read_study, write_archive
from tests.store.fake_study import FakeStudy, url_of

ROOT = Path(__file__).resolve().parents[2]
NAMES = (
    "../x", "/etc/passwd", "a'; drop table studies; --", 'a" or "1"="1', "a\0b", "x" * 5000,
    "\x1b[2J\x1b]0;owned\x07", "\u202egpj.exe", "a\nb", "", "%s%n", "\udcff", "漢字", "--help-me",
)  # fmt: skip
CREATE = ("--model", "demo", "--task", "demo", "--max-increase", "1", "--memory-budget", "1MB", "--no-run")
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]")


def said(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    whole = captured.out + captured.err
    assert not CONTROL.search(whole), repr(whole)
    assert "Traceback" not in whole
    return whole


@pytest.mark.parametrize("name", NAMES, ids=lambda name: repr(name)[:20])
def test_a_hostile_study_name_is_refused_in_one_line(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    study = FakeStudy(tmp_path / "q.db")
    study.trial(0.9)
    study.close()
    url = ("--storage", study.url)
    where = ["--", name]
    assert run(["study", "create", *CREATE, *url, *where]) == 2
    said(capsys)
    for words in (["study", "show"], ["study", "stop"], ["study", "delete", "--yes"]):
        assert run([*words, *url, *where]) == 6
        assert len(said(capsys).splitlines()) == 1
    assert {path.name.partition("-")[0] for path in tmp_path.iterdir()} == {"q.db"}
    with_trials = optuna.load_study(study_name="s", storage=study.url)
    assert len(with_trials.trials) == 1


@pytest.mark.parametrize("name", [name for name in NAMES if "\0" not in name and len(name) < 500 and name])
def test_a_name_that_another_program_gave_is_shown_without_obeying_it(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if "\udcff" in name:
        pytest.skip("no database holds half a character")
    study = FakeStudy(tmp_path / "q.db")
    study.trial(0.9)
    storage = study.study._storage._backend  # type: ignore[attr-defined]
    with storage.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE studies SET study_name = ?", (name,))
    study.close()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for words in (["study", "list"], ["study", "show", "--", name]):
        assert run([words[0], words[1], "--storage", study.url, *words[2:]]) == 0
        said(capsys)
    assert running.log_file(name).resolve().parent == (tmp_path / "state/qslm-opt").resolve()


@pytest.mark.parametrize(
    "model",
    ["../nothing", "x" * 5000, "a\0b", "~nobody-of-that-name/x", "org/name\n", "\x1b[2J", "org/../x", "",
     "org/name@../../x", "demo#sha256=123", "demo#sha256=" + "0" * 64],
    ids=lambda model: repr(model)[:24],
)  # fmt: skip
def test_a_hostile_model_name_is_refused_in_one_line(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    words = ["--task", "demo", "--max-increase", "1", "--memory-budget", "1MB", "--no-run", "--model", model]
    assert run(["study", "create", "t", *words, "--storage", url_of(tmp_path / "q.db")]) in (1, 2)
    assert "error: " in said(capsys)
    assert list(tmp_path.iterdir()) == []  # no storage is made for a study that is none


@pytest.mark.parametrize("data", ["../nothing", "x" * 5000, "a\0b", "~nobody-of-that-name/x", "\x1b[2J", ""])
def test_a_hostile_data_folder_is_refused_in_one_line(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from qslm_opt.data.rows import HubData, read_rows

    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"the data folder .* does not exist|no train.parquet in '.'"):
        read_rows("sst2", HubData("a/b", "c"), data, "train", ("sentence",))


PASSWORD = "s3cr3t-word"
URLS = (
    f"postgresql+psycopg://me:{PASSWORD}@127.0.0.1:1/db",
    f"postgresql+psycopg://127.0.0.1:1/db?user=me&password={PASSWORD}",
    f"postgresql+psycopg://me:{PASSWORD}@127.0.0.1:nonsense/db",
    f"mysql+nosuch://me:{PASSWORD}@127.0.0.1:1/db",
    f"oracle://me:{PASSWORD}@127.0.0.1:1/db",
    f"postgres//me:{PASSWORD}@host",
    f"sqlite:///q.db?password={PASSWORD}",
)


@pytest.mark.parametrize("url", URLS)
def test_no_command_shows_the_password_of_a_storage(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    archive = tmp_path / "s.study"
    study = FakeStudy(tmp_path / "here.db")
    write_archive(read_study(study.url, "s"), archive)
    capsys.readouterr()
    monkeypatch.setenv("QSLM_OPT_STORAGE", url)
    for words in (
        ["study", "create", "t", *CREATE, "--storage", url], ["study", "resume", "t"],
        ["study", "list", "--storage", url], ["study", "show", "t"], ["study", "stop", "t"],
        ["study", "export", "t", "--format", "study"], ["study", "import", str(archive)],
        ["study", "delete", "t", "--yes"], ["dashboard"],
    ):  # fmt: skip
        assert run(words) in (1, 2, 3)
        assert PASSWORD not in said(capsys), words
    if url == URLS[0]:
        run(["doctor", "--json"])
        assert PASSWORD not in said(capsys)
    assert all(PASSWORD.encode() not in path.read_bytes() for path in tmp_path.iterdir())


def test_a_worker_is_told_the_storage_where_other_users_cannot_read_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The command line of a process is public, its environment is not."""
    url = URLS[0]
    started: list[tuple[list[str], dict[str, str]]] = []

    class Process:
        def __init__(self, words: list[str], *, env: dict[str, str], **rest: object) -> None:
            started.append((words, env))

        def wait(self, seconds: float | None) -> int:
            return 0

    monkeypatch.setattr(subprocess, "Popen", Process)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    running.run_detached("s", url, 2)
    with running.workers_on("s", url, [running.Place("cpu")], "cpu"):
        pass
    assert len(started) == 2
    for words, env in started:
        assert PASSWORD not in " ".join(words)
        assert env["QSLM_OPT_STORAGE"] == url


def test_the_dashboard_listens_on_loopback_and_says_what_another_host_means(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from qslm_opt.search import dashboard_storage

    pytest.importorskip("optuna_dashboard")
    url = url_of(tmp_path / "q.db")
    prepare(url)
    hosts: list[str] = []
    monkeypatch.setattr(dashboard_storage, "serve", lambda url, host, port: hosts.append(host))
    assert run(["dashboard", "--storage", url]) == 0
    assert hosts == ["127.0.0.1"]
    assert "warning" not in capsys.readouterr().err
    assert run(["dashboard", "--storage", url, "--host", "0.0.0.0"]) == 0
    words = "warning: on 0.0.0.0 everybody who can reach this machine can read, change and delete"
    assert words in capsys.readouterr().err


def test_a_word_that_is_no_text_is_an_error_and_no_traceback(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "qslm_opt", "study", "show", b"\xff\xfe", "--storage"]
    done = subprocess.run([*words, url_of(tmp_path / "q.db")], cwd=ROOT, capture_output=True)
    assert done.returncode == 3
    assert b"Traceback" not in done.stderr
