"""Several processes on one PostgreSQL server, started here on loopback; skipped where there is none."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest

from qslm_opt.results import PowerSample, PowerWindow
from qslm_opt.search.driver import create_study, delete_study, run_study
from qslm_opt.store import Repository, compact, prepare
from qslm_opt.store.power import LONG_MS
from tests.postgres import Server, postgres  # noqa: F401
from tests.search.toy import Recorder, ToyMeter, spec, toy

ROOT = Path(__file__).resolve().parents[2]
STUDY = spec(max_increase="100%", memory_budget="17%", precisions=(8, 4, 3, 2), sensitivity_precisions=(4,))


@pytest.fixture
def url(postgres: Server) -> str:  # noqa: F811
    return postgres.url()


def result(summary):
    return summary.best.digest, summary.score, summary.candidates, summary.order


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The result of one worker on SQLite."""
    url = f"sqlite:///{tmp_path_factory.mktemp('expected')}/toy.db"
    create_study(STUDY, url, toy(STUDY))
    return result(run_study("toy", url, toy(STUDY), listener=Recorder()))


def start(url: str, last: int = -1) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.search.toy", url, "0.005", str(last)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def test_workers_on_one_server_one_of_them_killed_find_what_one_worker_does(url, expected):
    create_study(STUDY, url, toy(STUDY))
    killed, *others = start(url, last=5), start(url), start(url)
    assert killed.wait(timeout=300) == -signal.SIGKILL
    for other in others:
        _, said = other.communicate(timeout=300)
        assert other.returncode == 0, said
    killed.stderr.close()
    summary = run_study("toy", url, toy(STUDY), listener=Recorder())
    assert result(summary) == expected
    with Repository(url) as repository:
        trials = repository.trials("toy")
        row = repository.study("toy")
    assert row.state == "finished"
    ran = [t.digest for t in trials if t.state in ("complete", "pruned") and t.used]
    assert len(ran) == len(set(ran))
    assert [t.state for t in trials if t.state not in ("complete", "pruned")] == ["failed"]


def test_a_server_that_drops_all_connections_between_two_trials_is_found_again(url, postgres, expected):  # noqa: F811
    create_study(STUDY, url, toy(STUDY))

    def drop(record) -> None:
        if record.number in (2, 7):
            postgres.restart()

    assert result(run_study("toy", url, toy(STUDY), listener=Recorder(on_end=drop))) == expected


def test_the_schema_is_made_once_and_the_change_mark_moves(url):
    prepare(url)
    prepare(url)
    create_study(STUDY, url, toy(STUDY))
    with Repository(url, read_only=True) as reader, Repository(url) as writer:
        before = reader.changed()
        writer.request_stop(writer.study("toy").uuid)
        assert reader.changed() != before
        writer.beat(writer.study("toy").uuid, 7, "elsewhere", "global")
        assert writer.study("toy").state == "running"  # by the server's clock, not by two hosts' clocks
        assert list(writer.beats(writer.study("toy").uuid)) == [("elsewhere", 7)]


def test_the_power_of_a_run_is_stored_on_a_server_and_read_thinned(url):
    made, began = toy(STUDY), time.time()
    window = PowerWindow("replay", 40, 20.0, 61.0, 1.0, 12.0, throttle=("power cap",), ended=began)
    plain_run = made.run
    made.run = lambda *args, **more: (plain_run(*args, **more)[0], window)
    create_study(STUDY, url, made)
    every, count = 10, 400  # longer than what is thinned from the samples themselves
    samples = [
        PowerSample(began + every * n, 100.0 + n, 2**37, 0.5, 1980, 3201, 61.0, ("thermal",))
        for n in range(count)
    ]
    listener = Recorder()
    run_study("toy", url, made, listener=listener, meter=ToyMeter(samples))
    assert not [line for line in listener.lines if "gaps" in line]
    with Repository(url, read_only=True) as repository:
        uuid = repository.study("toy").uuid
        assert set(repository.power_windows(uuid).values()) == {window}
        (device,) = repository.power_devices(uuid)
        whole = repository.power_samples(device.id, began, began + every * count)
        assert [s.power_w for s in whole] == [s.power_w for s in samples]
        assert {s.throttle for s in whole} == {("thermal",)}
        for seconds in (1000, every * count):
            assert (seconds * 1000 > LONG_MS) is (seconds != 1000)
            found = repository.power_samples(device.id, device.started, device.started + seconds, points=10)
            inside = [s.power_w for s in whole if s.at <= device.started + seconds]
            assert len(found) == 10
            assert sum(s.power_w for s in found) / 10 == pytest.approx(sum(inside) / len(inside), rel=0.02)
            assert all(a.at < b.at and a.power_w < b.power_w for a, b in pairwise(found))
            assert {(s.memory_bytes, s.utilization) for s in found} == {(2**37, 0.5)}
    delete_study("toy", url)
    with Repository(url) as repository:
        assert repository.power_devices(uuid) == [] == list(repository.power_windows(uuid))
        assert repository.power_samples(device.id, began, began + every * count) == []


def test_a_server_is_compacted_and_says_its_size(url):
    create_study(STUDY, url, toy(STUDY))
    summary = run_study("toy", url, toy(STUDY), listener=Recorder())
    with Repository(url) as repository:
        before = repository.trials("toy")
    done = compact(url, "toy")
    assert done.before_bytes > 0
    assert done.after_bytes > 0
    with Repository(url) as repository:
        assert repository.trials("toy") == before
    assert summary.state == "finished"
