"""Real processes on one study: several at a time, killed, and resumed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from qslm_opt.search.driver import create_study, run_study
from qslm_opt.store import Repository
from qslm_opt.store.rows import own_host
from tests.search.toy import Recorder, spec, toy

ROOT = Path(__file__).resolve().parents[2]
STUDY = spec(max_increase="100%", memory_budget="17%", precisions=(8, 4, 3, 2), sensitivity_precisions=(4,))
NEVER = -1


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """Digests of a sequential run's trials, and its result."""
    url = f"sqlite:///{tmp_path_factory.mktemp('expected')}/toy.db"
    create_study(STUDY, url, toy(STUDY))
    summary = run_study("toy", url, toy(STUDY), listener=Recorder())
    return [t.digest for t in records(url)], result(summary)


@pytest.fixture
def url(tmp_path):
    url = f"sqlite:///{tmp_path}/toy.db"
    create_study(STUDY, url, toy(STUDY))
    return url


def start(url: str, delay: float, last: int = NEVER) -> subprocess.Popen[str]:
    """A process that works on the study and kills itself in trial ``last`` or the next that it gets."""
    command = [sys.executable, "-m", "tests.search.toy", url, str(delay), str(last)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def records(url: str):
    with Repository(url) as repository:
        return repository.trials("toy")


def result(summary):
    return summary.best.digest, summary.score, summary.candidates, summary.order


def read_until(process: subprocess.Popen[str], number: int) -> None:
    for line in process.stdout:
        if int(line) >= number:
            return
    raise AssertionError(f"the process ended before it started trial {number}")


def test_kill_9_in_the_middle_of_a_trial_and_a_resume_give_the_same_result(url, expected):
    digests, best = expected
    process = start(url, delay=0.0, last=4)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert [t.state for t in records(url)] == ["complete"] * 4 + ["running"]
    with Repository(url) as repository:
        assert repository.study("toy").state == "dead"
    listener = Recorder()
    summary = run_study("toy", url, toy(STUDY), listener=listener)
    assert f"1 stale trial closed: trial 4: process {process.pid} on {own_host()} is gone" in listener.lines
    assert result(summary) == best
    stored = records(url)
    assert [t.digest for t in stored if t.state != "failed"] == digests
    assert [t.number for t in stored if t.state == "failed"] == [4]


def test_workers_of_which_one_is_killed_give_the_sequential_result(url, expected):
    digests, best = expected
    killed = start(url, delay=0.01, last=5)
    others = [start(url, delay=0.01) for _ in range(2)]
    assert killed.wait(timeout=120) == -signal.SIGKILL
    assert [other.wait(timeout=120) for other in others] == [0, 0]
    summary = run_study("toy", url, toy(STUDY), listener=Recorder())
    assert result(summary) == best
    stored = records(url)
    assert set(digests) <= {t.digest for t in stored}
    ran = [t.digest for t in stored if t.state in ("complete", "pruned") and t.used]
    assert len(ran) == len(set(ran))
    assert summary.counts["running"] == 0
    assert summary.counts["failed"] == 1  # closed by the workers that went on
    for process in (killed, *others):
        process.stdout.close()


def test_sigterm_ends_a_process_as_ctrl_c_does(url):
    process = start(url, delay=0.2)
    read_until(process, 2)  # which takes two seconds
    os.kill(process.pid, signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert [t.state for t in records(url)] == ["complete", "complete", "failed"]
    with Repository(url) as repository:
        row = repository.study("toy")
    assert (row.state, row.reason) == ("stopped", "interrupted")


def test_the_spec_of_this_file_has_candidates_to_compare(expected):
    digests, (best, score, candidates, order) = expected
    assert best in digests
    assert candidates >= 3
    assert score > 0
    assert len(order) == 4
