"""Several processes on one PostgreSQL server, started here on loopback; skipped where there is none."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from qslm_opt.search.driver import create_study, run_study
from qslm_opt.store import Repository, compact, prepare
from tests.postgres import Server, postgres  # noqa: F401
from tests.search.toy import Recorder, spec, toy

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
