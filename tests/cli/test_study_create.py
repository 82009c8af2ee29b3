from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qslm_opt.cli import demo, running, study_create
from qslm_opt.cli.main import run
from qslm_opt.cli.spec_flags import make_spec
from qslm_opt.errors import SpecError, UsageError
from qslm_opt.measure.meter import NullMeter
from qslm_opt.spec import StudySpec
from qslm_opt.store import Repository
from qslm_opt.store.rows import own_host
from tests.cli.fake_session import FakeSession

FLAGS = ("--model", "demo", "--task", "demo-classify", "--memory-budget", "9500B", "--precisions", "8,4,3")


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("QSLM_OPT_STORAGE", f"sqlite:///{tmp_path}/q.db")
    return f"sqlite:///{tmp_path}/q.db"


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[FakeSession]]:
    opened: list[FakeSession] = []

    def use(**settings: Any) -> list[FakeSession]:
        def open_session(spec: StudySpec) -> FakeSession:
            opened.append(FakeSession(spec, **settings))
            return opened[-1]

        monkeypatch.setattr(study_create, "open_session", open_session)
        monkeypatch.setattr(demo, "open_session", open_session)
        return opened

    return use


def test_every_key_of_a_spec_is_a_flag_of_create() -> None:
    renamed = {"pins": "pin", "ties": "tie"}
    keys = {renamed.get(field.name, field.name) for field in fields(StudySpec)}
    assert keys <= set(inspect.signature(study_create.create).parameters)


def test_every_flag_reaches_the_spec(
    url: str, sessions: Callable[..., list[FakeSession]], capsys: pytest.CaptureFixture[str]
) -> None:
    opened = sessions()
    words = [
        "x", "--model", "demo", "--task", "demo-classify", "--memory-budget", "30kB", "--min-accuracy", "0.5",
        "--lambda", "0.3", "--precisions", "8,4", "--sensitivity-precisions", "4", "--layout",
        "tensor/symmetric", "--quantizer", "rtn", "--fixed", "fp32", "--no-sign-embedding", "--pin",
        "input=int8/tensor/affine", "--pin", "input/emb=int4/group50/affine", "--data", "d", "--split",
        "test", "--limit", "7", "--window", "64", "--window-batch", "3", "--embed-spike", "off",
        "--rescale-every", "6", "--seed", "5", "--device", "cpu", "--power-window", "3.5",
        "--no-run", "--json",
    ]  # fmt: skip
    assert run(["study", "create", *words]) == 0
    assert opened[0].spec == StudySpec(
        "x", "demo", "demo-classify", "30kB", min_accuracy=0.5, lam=0.3, precisions=(8, 4),
        sensitivity_precisions=(4,), layout="tensor/symmetric", quantizer="rtn", fixed="fp32",
        sign_embedding=False, pins={"input": "int8/tensor/affine", "input/emb": "int4/group50/affine"},
        data="d", split="test", limit=7, window=64, window_batch=3, embed_spike="off", rescale_every=6,
        seed=5, device="cpu", power_window=3.5,
    )  # fmt: skip
    captured = capsys.readouterr()
    assert json.loads(captured.out)["state"] == "created"
    assert "run it: qslm-opt study resume x" in captured.err
    assert opened[0].runs == 0


@pytest.mark.parametrize(
    ("words", "key", "value"),
    [
        (["--exclude", "attention.*"], "exclude", ("attention.*",)),
        (["--tie", "input,attention.0/att.key"], "ties", ("input,attention.0/att.key",)),
    ],
)
def test_exclusions_and_ties_reach_the_spec(
    url: str, sessions: Callable[..., list[FakeSession]], words: list[str], key: str, value: tuple[str, ...]
) -> None:
    opened = sessions()
    assert run(["study", "create", "x", *FLAGS, "--max-drop", "0.1", *words, "--no-run"]) == (
        0 if key == "ties" else 4  # float32 of the excluded block alone is above the budget
    )
    assert getattr(opened[0].spec, key) == value


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "case.toml"
    file.write_text(
        'model = "m"\ntask = "sst2"\nmax_drop = 0.02\nmemory_budget = "1MB"\nlambda = 0.5\n'
        'exclude = ["a", "b"]\nties = ["c.*"]\n[pins]\ninput = "fp16"\noutput = "fp16"\n'
    )
    plain = make_spec(None, file, {"max_drop": None})
    assert (plain.name, plain.max_drop, plain.lam) == ("case", 0.02, 0.5)
    changed = make_spec(
        "other", file, {"min_accuracy": 0.8, "lambda": 0.1, "pins": {"output": "sign"}, "model": None,
                      "exclude": ("b", "d")}
    )  # fmt: skip
    assert (changed.name, changed.model, changed.lam) == ("other", "m", 0.1)
    assert (changed.max_drop, changed.min_accuracy) == (None, 0.8)
    assert changed.pins == {"input": "fp16", "output": "sign"}
    assert (changed.exclude, changed.ties) == (("a", "b", "d"), ("c.*",))


def test_wrong_specs_are_refused_with_the_fix(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give NAME, or --spec FILE"):
        make_spec(None, None, {"model": "demo"})
    file = tmp_path / "x.toml"
    file.write_text('model = "m"\nmemory_buget = "1MB"\n')
    with pytest.raises(SpecError, match=r"'memory_buget' is unknown. Did you mean 'memory_budget'\?"):
        make_spec(None, file, {})
    with pytest.raises(UsageError, match="does not exist"):
        make_spec(None, tmp_path / "none.toml", {})


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("--precisions", "8;4"), "no list of bits; write for instance 8,4,2"),
        (("--pin", "input"), "is not UNIT=FORMAT"),
        (("--task", "sst"), "Did you mean 'sst2'?"),
        (("--max-drop", "x"), "--max-drop"),
        (("--no-run", "--workers", "2"), "--no-run runs nothing"),
        (("--watch", "--json"), "leave one of --watch and --json out"),
        (("--watch",), "the dashboard needs a terminal"),
        (("--model", "./nowhere"), "model './nowhere' does not exist"),
        (("--progress", "loud"), "--progress"),
        (("--power-window", "-1"), "power_window -1.0 is out of range; it is seconds from 0 (off) to 600"),
    ],
)
def test_wrong_flags_exit_with_2_in_one_line(
    url: str, words: tuple[str, ...], error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["study", "create", "x", *FLAGS, "--max-drop", "0.02", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert error in captured.err


def test_create_runs_the_study_and_prints_its_candidates(
    url: str, sessions: Callable[..., list[FakeSession]], capsys: pytest.CaptureFixture[str]
) -> None:
    opened = sessions()
    assert run(["study", "create", "x", *FLAGS, "--max-drop", "0.1", "--json"]) == 0
    captured = capsys.readouterr()
    value = json.loads(captured.out)
    assert value["state"] == "finished"
    assert value["best"]["bytes"] <= 9_500
    assert value["candidates"][0]["trial"] == value["best"]["trial"]
    assert value["evaluations"] == opened[0].runs
    assert {t["tier"]: t["done"] for t in value["tiers"]}["sensitivity"] == 6
    lines = captured.err.splitlines()
    assert "study 'x' is created; watch it live: qslm-opt watch x" in lines
    assert len([line for line in lines if "sensitivity" in line and "bits: accuracy" in line]) == 6
    assert any(line.endswith("candidate, 0.0 s") for line in lines)


def test_a_table_is_printed_without_json_and_no_progress_on_stderr_with_progress_none(
    url: str, sessions: Callable[..., list[FakeSession]], capsys: pytest.CaptureFixture[str]
) -> None:
    sessions()
    assert run(["study", "create", "x", *FLAGS, "--max-drop", "0.1", "--progress", "none"]) == 0
    captured = capsys.readouterr()
    assert "candidates at λ = 0.2" in captured.out
    assert captured.err == (
        "study 'x' is created; watch it live: qslm-opt watch x\n"
        "finished; take trial 7 away: qslm-opt model pack demo --study x --output x-packed\n"
        "the smallest candidate is trial 9, 4.67 kB; --trial 9 takes it in place of what λ = 0.2 prefers\n"
    )


def test_a_taken_name_exits_with_3_before_a_model_is_loaded(
    url: str, sessions: Callable[..., list[FakeSession]], capsys: pytest.CaptureFixture[str]
) -> None:
    opened = sessions()
    words = ["study", "create", "x", *FLAGS, "--max-drop", "0.1", "--no-run"]
    assert run(words) == 0
    assert run(words) == 3
    assert "resume it (qslm-opt study resume x)" in capsys.readouterr().err
    assert len(opened) == 1


def test_a_study_that_ends_without_a_candidate_exits_with_4(
    url: str, sessions: Callable[..., list[FakeSession]], capsys: pytest.CaptureFixture[str]
) -> None:
    sessions(cost=5)
    assert run(["study", "create", "x", *FLAGS, "--max-drop", "0.01", "--progress", "none"]) == 4
    captured = capsys.readouterr()
    assert captured.out == ""
    last = captured.err.splitlines()[-1]
    assert last.startswith("error: no setting meets both constraints; the closest is trial")
    assert Repository(url).study("x").state == "infeasible"
    assert run(["study", "resume", "x", "--progress", "none"]) == 4


def test_a_budget_that_nothing_reaches_exits_with_4_before_any_run(
    url: str, sessions: Callable[..., list[FakeSession]], capsys: pytest.CaptureFixture[str]
) -> None:
    opened = sessions()
    assert run(["study", "create", "x", *FLAGS, "--max-drop", "0.1", "--memory-budget", "1kB"]) == 4
    assert "error: " in capsys.readouterr().err
    assert opened[0].runs == 0
    assert not Path(url.removeprefix("sqlite:///")).exists()  # a refused study leaves no storage behind


def test_ctrl_c_exits_with_130_says_how_to_go_on_and_loses_nothing(
    url: str, sessions: Callable[..., list[FakeSession]], capsys: pytest.CaptureFixture[str]
) -> None:
    sessions(interrupt_after=4)
    assert run(["study", "create", "x", *FLAGS, "--max-drop", "0.1"]) == 130
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines()[-1] == (
        "interrupted; what was finished is stored. Go on with: qslm-opt study resume x"
    )
    assert Repository(url).study("x").state == "stopped"
    opened = sessions()
    assert run(["study", "resume", "x", "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["state"] == "finished"
    assert value["counts"]["failed"] == 1
    assert opened[-1].runs == value["evaluations"] - 4


def test_a_changed_study_is_refused_with_3(
    url: str, sessions: Callable[..., list[FakeSession]], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    sessions()
    assert run(["study", "create", "x", *FLAGS, "--max-drop", "0.1", "--no-run"]) == 0
    monkeypatch.setattr(FakeSession, "fingerprint", lambda self: {"weights": "other"})
    assert run(["study", "resume", "x"]) == 3
    assert "was created with another weights" in capsys.readouterr().err


def test_a_study_that_has_ended_is_shown_without_loading_its_model(
    url: str, sessions: Callable[..., list[FakeSession]], capsys: pytest.CaptureFixture[str]
) -> None:
    opened = sessions()
    assert run(["study", "create", "x", *FLAGS, "--max-drop", "0.1", "--progress", "none"]) == 0
    first = capsys.readouterr().out
    assert run(["study", "resume", "x"]) == 0
    captured = capsys.readouterr()
    assert captured.out == first
    assert "has ended, nothing is left to run" in captured.err
    assert len(opened) == 1


def test_a_bound_that_the_unquantized_model_violates_exits_with_4(
    url: str, sessions: Callable[..., list[FakeSession]], capsys: pytest.CaptureFixture[str]
) -> None:
    sessions()
    assert run(["study", "create", "x", *FLAGS, "--min-accuracy", "0.95", "--progress", "none"]) == 4
    assert "the unquantized model already violates the bound" in capsys.readouterr().err
    assert run(["study", "candidates", "x"]) == 4
    assert "the unquantized model already violates the bound" in capsys.readouterr().err


def test_resume_can_name_another_device_and_power_window(
    url: str, sessions: Callable[..., list[FakeSession]]
) -> None:
    opened = sessions()
    assert run(["study", "create", "x", *FLAGS, "--max-drop", "0.1", "--no-run"]) == 0
    words = ["--device", "cpu", "--power-window", "0.5"]
    assert run(["study", "resume", "x", *words, "--progress", "none"]) == 0
    assert (opened[-1].spec.device, opened[-1].spec.power_window) == ("cpu", 0.5)


def test_the_storage_is_named_in_hints_when_it_is_not_the_default(
    tmp_path: Path, sessions: Callable[..., list[FakeSession]], capsys: pytest.CaptureFixture[str]
) -> None:
    sessions()
    url = f"sqlite:///{tmp_path}/q.db"
    words = ["study", "create", "x", *FLAGS, "--max-drop", "0.1", "--no-run", "--storage", url]
    assert run(words) == 0
    assert f"qslm-opt study resume x --storage {url}" in capsys.readouterr().err


def test_the_demo_runs_once_and_shows_its_result_again(
    url: str, sessions: Callable[..., list[FakeSession]], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    opened = sessions()
    monkeypatch.setitem(demo.DEMOS["demo-classify"], "memory_budget", "40%")
    monkeypatch.setitem(demo.DEMOS["demo-classify"], "max_drop", 0.1)
    words = ["demo", "--task", "demo-classify", "--progress", "none"]
    assert run(words) == 0
    first = capsys.readouterr()
    assert "demo-classify: " in first.out
    assert run(words) == 0
    second = capsys.readouterr()
    assert second.out == first.out
    assert "has ended before; its result is below. --fresh runs it again" in second.err
    assert len(opened) == 1
    assert run([*words, "--fresh", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "demo-classify"
    assert len(opened) == 2


def test_an_interrupted_demo_goes_on(
    url: str, sessions: Callable[..., list[FakeSession]], capsys: pytest.CaptureFixture[str]
) -> None:
    sessions(interrupt_after=3)
    assert run(["demo", "--task", "demo-classify", "--progress", "none"]) == 130
    sessions()
    run(["demo", "--task", "demo-classify", "--progress", "none"])
    assert "exists and is stopped; going on with it" in capsys.readouterr().err


def test_workers_are_told_the_storage_and_waited_for(
    url: str, sessions: Callable[..., list[FakeSession]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    sessions()
    code = (
        "import os, pathlib, sys, time; time.sleep(0.5)\n"
        "pathlib.Path(sys.argv[1], f'{os.getpid()}.txt').write_text(os.environ['QSLM_OPT_STORAGE'])\n"
        "sys.exit(1)"
    )
    monkeypatch.setattr(running, "_resume", lambda name: [sys.executable, "-c", code, str(tmp_path)])
    assert run(["study", "create", "x", *FLAGS, "--max-drop", "0.1", "--workers", "3"]) == 0
    assert [path.read_text() for path in tmp_path.glob("*.txt")] == [url, url]
    assert capsys.readouterr().err.count("ended with exit code 1") == 2


def test_workers_are_stopped_when_the_run_is_interrupted(
    url: str, sessions: Callable[..., list[FakeSession]], monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions(interrupt_after=0)
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    monkeypatch.setattr(running, "_resume", lambda name: sleep)
    started = time.monotonic()
    assert run(["study", "create", "x", *FLAGS, "--max-drop", "0.1", "--workers", "2"]) == 130
    assert time.monotonic() - started < 30


def test_an_interrupt_while_waiting_for_the_workers_ends_them_and_says_how_to_go_on(
    url: str, sessions: Callable[..., list[FakeSession]], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    sessions()
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    monkeypatch.setattr(running, "_resume", lambda name: sleep)
    inner, waits = running._wait, []

    def wait(processes: Any, seconds: float | None) -> None:
        waits.append((processes, seconds))
        if seconds is None:
            raise KeyboardInterrupt
        inner(processes, seconds)

    monkeypatch.setattr(running, "_wait", wait)
    assert run(["study", "create", "x", *FLAGS, "--max-drop", "0.1", "--workers", "2"]) == 130
    assert [process.poll() is None for process in waits[-1][0]] == [False]
    assert "interrupted; what was finished is stored. Go on with: qslm-opt" in capsys.readouterr().err


def test_an_interrupt_while_a_stored_study_is_loading_says_how_to_go_on(
    url: str, sessions: Callable[..., list[FakeSession]], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    sessions(interrupt_after=3)
    words = ["demo", "--task", "demo-classify", "--progress", "none"]
    assert run(words) == 130
    capsys.readouterr()

    def interrupted(spec: StudySpec) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "open_session", interrupted)
    assert run(words) == 130
    assert "Go on with: qslm-opt study resume demo-classify" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "told"),
    [([], ""), (["--device", "cuda:1"], "--device cuda:1"), (["--power-window", "0"], "--power-window 0.0")],
)
def test_the_workers_compute_on_the_device_that_was_given(
    url: str, sessions: Callable[..., list[FakeSession]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    given: list[str], told: str,
) -> None:  # fmt: skip
    sessions()
    assert run(["study", "create", "x", *FLAGS, "--max-drop", "0.1", "--no-run"]) == 0
    code = "import pathlib, sys; pathlib.Path(sys.argv[1]).write_text(' '.join(sys.argv[2:]))"
    words = [sys.executable, "-c", code, str(tmp_path / "words")]
    monkeypatch.setattr(running, "_resume", lambda name: words)
    assert run(["study", "resume", "x", "--workers", "2", "--progress", "none", *given]) == 0
    assert (tmp_path / "words").read_text() == f"--progress none {told}".strip()
    process, _ = running.run_detached("x", url, 1, "cuda:1", 3.0)
    assert process.wait(30) == 0
    assert (tmp_path / "words").read_text().endswith("--workers 1 --device cuda:1 --power-window 3.0")


class RestMeter(NullMeter):
    rests = 0

    def measure_idle(self, seconds: float = 1.0) -> None:
        RestMeter.rests += 1


def test_the_device_at_rest_is_measured_once_before_the_run_and_not_beside_others(
    url: str, sessions: Callable[..., list[FakeSession]], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = sessions(interrupt_after=2)
    monkeypatch.setattr("qslm_opt.measure.meter.open_meter", lambda *_, **__: RestMeter())
    monkeypatch.setattr(RestMeter, "rests", 0)
    assert run(["study", "create", "x", *FLAGS, "--max-drop", "0.1", "--progress", "none"]) == 130
    assert (RestMeter.rests, len(opened)) == (1, 1)
    with Repository(url) as repository:
        repository.beat(repository.study("x").uuid, os.getppid(), own_host(), "block")
    sessions()
    run(["study", "resume", "x", "--progress", "none"])
    assert RestMeter.rests == 1


def test_a_stop_while_the_session_loads_is_obeyed_and_the_next_resume_goes_on(
    url: str, sessions: Callable[..., list[FakeSession]], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    sessions()
    assert run(["study", "create", "x", *FLAGS, "--max-drop", "0.1", "--no-run"]) == 0
    load = study_create.open_session

    def stopped_meanwhile(spec: StudySpec) -> object:
        with Repository(url) as repository:
            repository.request_stop(repository.study("x").uuid)
        return load(spec)

    monkeypatch.setattr(study_create, "open_session", stopped_meanwhile)
    assert run(["study", "resume", "x", "--progress", "none"]) == 0
    assert "stopped as asked" in capsys.readouterr().err
    monkeypatch.setattr(study_create, "open_session", load)
    assert run(["study", "resume", "x", "--progress", "none"]) == 0
    assert "candidates at" in capsys.readouterr().out


def test_a_worker_counts_from_the_command_that_started_it(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    running.begin()
    began = running._began["at"]
    monkeypatch.setenv("QSLM_OPT_BEGAN", running._environment(url)["QSLM_OPT_BEGAN"])
    running.begin()
    assert running._began["at"] == began


def test_a_background_run_gets_the_storage_and_a_log(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    code = "import os, sys; print(os.environ['QSLM_OPT_STORAGE'], os.getsid(0) == os.getpid(), sys.argv[1:])"
    monkeypatch.setattr(running, "_resume", lambda name: [sys.executable, "-c", code])
    process, log = running.run_detached("x", url, 2)
    assert process.wait(30) == 0
    assert log == tmp_path / "state" / "qslm-opt" / "x.log"
    assert log.read_text().strip() == f"{url} True ['--progress', 'plain', '--workers', '2']"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (None, "the search goes on in process 77"),
        (0, "candidates at"),
        (3, "ended with exit code 3; what it"),
    ],
)
def test_watch_runs_the_study_in_the_background_behind_the_dashboard(
    url: str, sessions: Callable[..., list[FakeSession]], monkeypatch: pytest.MonkeyPatch, code: int | None,
    words: str, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    sessions()
    shown = []
    process = SimpleNamespace(pid=77, poll=lambda: code, returncode=None)

    def start(name: str, url: str, workers: int, *_: object) -> tuple[object, Path]:
        if code == 0:
            assert run(["study", "resume", name, "--progress", "none"]) == 0
        return process, Path("x.log")

    monkeypatch.setattr(study_create, "need_terminal", lambda: None)
    monkeypatch.setattr(running, "need_terminal", lambda: None)
    monkeypatch.setattr(running, "run_detached", start)
    monkeypatch.setattr("qslm_opt.cli.watch.open_dashboard", lambda url, name: shown.append((url, name)))
    assert run(["study", "create", "x", *FLAGS, "--max-drop", "0.1", "--watch"]) == (code or 0)
    assert shown == [(url, "x")]
    captured = capsys.readouterr()
    assert words in captured.out + captured.err


def test_a_worker_is_the_command_itself() -> None:
    words = [*running._resume("x"), "--help"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0
    assert "Go on with a study" in done.stdout
