"""Where the workers of one run compute, and that they are told so."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from qslm_opt.cli import running, study_create
from qslm_opt.cli.main import run
from qslm_opt.cli.placement import (
    THREAD_LIMITS,
    Place,
    available_cores,
    describe,
    held_to,
    place_workers,
    places_of,
)
from tests.cli.fake_session import FakeSession

FLAGS = (
    "--model", "demo", "--task", "demo-classify", "--memory-budget", "9500B", "--precisions", "8,4,3",
    "--max-drop", "0.1", "--progress", "none",
)  # fmt: skip


@pytest.mark.parametrize(
    ("workers", "device", "gpus", "cores", "limit", "devices", "threads", "words"),
    [
        (4, "auto", 2, 64, None, ["cuda:0", "cuda:1"] * 2, None, "4 workers on cuda:0, cuda:1"),
        (2, "cuda", 8, 64, None, ["cuda:0", "cuda:1"], None, "2 workers on cuda:0, cuda:1"),
        (3, "auto", 1, 64, None, ["cuda:0"] * 3, None, "3 workers on cuda:0"),
        (2, "cuda:3", 8, 64, None, ["cuda:3"] * 2, None, "2 workers on cuda:3"),
        (2, "cuda:1", 0, 64, None, ["cuda:1"] * 2, None, "2 workers on cuda:1"),
        (2, "auto", 0, 2, None, ["auto"] * 2, 1, "2 workers: 1 thread each on the CPU"),
        (2, "cpu", 4, 9, None, ["cpu"] * 2, 4, "2 workers: 4 threads each on the CPU"),
        (5, "cpu", 0, 2, None, ["cpu"] * 5, 1, "5 workers: 1 thread each on the CPU"),
        (2, "cpu", 0, 16, "3", ["cpu"] * 2, 3, "2 workers: 3 threads each on the CPU"),
        (2, "cpu", 0, 16, "32", ["cpu"] * 2, 8, "2 workers: 8 threads each on the CPU"),
        (2, "cpu", 0, 16, "2,4", ["cpu"] * 2, 2, "2 workers: 2 threads each on the CPU"),
        (2, "cpu", 0, 16, "many", ["cpu"] * 2, 8, "2 workers: 8 threads each on the CPU"),
        (2, "cpu", 0, 16, "0", ["cpu"] * 2, 8, "2 workers: 8 threads each on the CPU"),
    ],
)
def test_the_places_of_the_workers(workers, device, gpus, cores, limit, devices, threads, words):
    given = {} if limit is None else {"OMP_NUM_THREADS": limit}
    places = place_workers(workers, device, gpus=gpus, cores=cores, environment=given)
    assert places == tuple(Place(name, threads) for name in devices)
    assert describe(places) == words


@pytest.mark.parametrize(("device", "gpus"), [("auto", 0), ("auto", 8), ("cpu", 0), ("cuda:1", 8)])
def test_one_worker_is_left_as_it_is(device, gpus):
    places = place_workers(1, device, gpus=gpus, cores=64, environment={"OMP_NUM_THREADS": "2"})
    assert places == (Place(device),)
    assert places[0].environment({}) == {}


def test_a_limit_of_the_user_is_lowered_and_never_raised():
    place = Place("cpu", 4)
    assert place.environment({}) == dict.fromkeys(THREAD_LIMITS, "4")
    given = {"MKL_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "16"}
    assert place.environment(given) == {**dict.fromkeys(THREAD_LIMITS, "4"), "MKL_NUM_THREADS": "1"}
    assert Place("cuda:0").environment(given) == {}


def test_the_gpus_that_torch_sees_are_shared_out(monkeypatch):
    cuda = SimpleNamespace(device_count=lambda: 2)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    engine = SimpleNamespace(device=SimpleNamespace(type="cuda"))
    session = SimpleNamespace(engine=engine, spec=SimpleNamespace(device="auto"))
    assert [place.device for place in places_of(session, 3)] == ["cuda:0", "cuda:1", "cuda:0"]


def test_this_process_is_held_to_its_threads_and_let_go_again(monkeypatch):
    def library(threads):
        counts = [threads]
        return SimpleNamespace(
            counts=counts, get_num_threads=lambda: counts[-1], set_num_threads=counts.append
        )

    torch, numba = library(8), library(2)
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "numba", numba)

    def interrupted():
        with held_to(Place("cpu", 4)):
            assert (torch.counts[-1], numba.counts[-1]) == (4, 2)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (torch.counts[-1], numba.counts[-1]) == (8, 2)
    with held_to(Place("cuda:0")):
        assert (len(torch.counts), len(numba.counts)) == (3, 3)


@pytest.fixture
def url(tmp_path, monkeypatch):
    monkeypatch.setattr(study_create, "open_session", FakeSession)
    for name in THREAD_LIMITS:
        monkeypatch.delenv(name, raising=False)
    url = f"sqlite:///{tmp_path}/q.db"
    monkeypatch.setenv("QSLM_OPT_STORAGE", url)
    return url


def told(folder: Path) -> list[dict[str, str | None]]:
    """What each worker that was started was told."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Workers are processes that write the limits in their environment into this folder."""
    code = (
        "import json, os, pathlib, sys\n"
        f"limits = {{name: os.environ.get(name) for name in {THREAD_LIMITS!r}}}\n"
        "pathlib.Path(sys.argv[1], f'{os.getpid()}.json').write_text(json.dumps(limits))\n"
    )
    monkeypatch.setattr(running, "_resume", lambda name: [sys.executable, "-c", code, str(tmp_path)])
    return tmp_path


def test_the_workers_get_their_slice_of_the_cores_in_their_environment(url, folder, capsys, monkeypatch):
    monkeypatch.setenv("MKL_NUM_THREADS", "1")
    assert run(["study", "create", "x", *FLAGS, "--workers", "3"]) == 0
    threads = max(1, available_cores() // 3)
    limits = {**dict.fromkeys(THREAD_LIMITS, str(threads)), "MKL_NUM_THREADS": "1"}
    assert told(folder) == [limits, limits]
    assert f"3 workers: {threads} thread" in capsys.readouterr().err


def test_a_resume_places_its_workers_in_the_same_way(url, folder, capsys):
    assert run(["study", "create", "x", *FLAGS, "--no-run"]) == 0
    assert run(["study", "resume", "x", "--progress", "none", "--workers", "2"]) == 0
    threads = str(max(1, available_cores() // 2))
    assert told(folder) == [dict.fromkeys(THREAD_LIMITS, threads)]
    assert f"2 workers: {threads} thread" in capsys.readouterr().err


def test_workers_on_a_gpu_have_no_limit_of_threads_and_their_own_device(url, folder, monkeypatch, capsys):
    places = (Place("cuda:0"), Place("cuda:1"), Place("cuda:0"))
    monkeypatch.setattr(running, "places_of", lambda session, workers: places)
    commands, rest = [], []
    popen = running.subprocess.Popen

    def start(words, **settings):
        commands.append(words[-2:])
        rest.append(settings["env"].get("QSLM_OPT_AT_REST"))
        return popen(words, **settings)

    monkeypatch.setattr(running.subprocess, "Popen", start)
    assert run(["study", "create", "x", *FLAGS, "--workers", "3"]) == 0
    assert commands == [["--device", "cuda:1"], ["--device", "cuda:0"]]
    assert rest == ["x", None]  # a GPU that two share is not at rest when the second one begins
    assert told(folder) == [dict.fromkeys(THREAD_LIMITS)] * 2
    assert "3 workers on cuda:0, cuda:1" in capsys.readouterr().err


def test_one_worker_says_nothing_and_starts_nothing(url, folder, capsys):
    assert run(["study", "create", "x", *FLAGS]) == 0
    assert told(folder) == []
    assert "worker" not in capsys.readouterr().err


def test_the_cores_are_those_that_this_process_may_use(monkeypatch):
    assert available_cores() >= 1
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5}, raising=False)
    assert available_cores() == 2
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert available_cores() == 1
