"""Whose trial is it, and does its process live?"""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime, timedelta

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from qslm_opt.search.ledger import open_storage
from qslm_opt.search.owners import close_stale, is_gone, registered, shares_board
from qslm_opt.store import prepare


def test_a_run_of_this_process_lives_until_it_ends():
    with registered() as owner:
        assert is_gone(owner) is False
    assert is_gone(owner) is True


def test_a_run_shares_the_board_it_measures_and_no_other_of_this_host():
    with registered("GPU-1") as owner:
        assert shares_board(owner, "GPU-1")
        assert not shares_board(owner, "GPU-2")
        assert shares_board(owner, None)  # what is not known may be the same
    with registered() as unknown:
        assert shares_board(unknown, "GPU-1")
    elsewhere = json.dumps({**json.loads(owner), "host": "elsewhere"})
    assert not shares_board(elsewhere, "GPU-1")
    assert [shares_board(text, "GPU-1") for text in (None, "", "{}", "[]")] == [True] * 4


def test_another_process_of_this_host_lives_as_long_as_it_does():
    code = "from qslm_opt.search.owners import registered as r\nwith r() as o: print(o, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        owner = process.stdout.readline()
        assert is_gone(owner) is False
        reused = json.dumps({**json.loads(owner), "born": "1"})
        assert is_gone(reused) is True  # the pid is somebody else's now
        process.communicate("\n", timeout=60)
    assert is_gone(owner) is True


@pytest.mark.parametrize(
    "owner", [None, "", "{}", "[]", '{"host": "elsewhere", "pid": 1, "born": "", "run": ""}']
)
def test_what_cannot_be_seen_is_not_claimed(owner):
    assert is_gone(owner) is None


def test_only_trials_without_a_living_owner_are_closed(tmp_path):
    url = f"sqlite:///{tmp_path}/x.db"
    prepare(url)
    storage = open_storage(url)
    study = optuna.create_study(storage=storage)
    with registered() as gone:
        pass
    far = json.dumps({"host": "elsewhere", "pid": 1, "born": "", "run": ""})
    with registered() as alive:
        for owner, minutes in ((alive, 99), (gone, 0), (far, 9), (far, 11), (None, 11)):
            trial = create_trial(state=TrialState.RUNNING, user_attrs={"owner": owner} if owner else {})
            trial.datetime_start = datetime.now() - timedelta(minutes=minutes)
            study.add_trial(trial)
        closed = close_stale(storage, study._study_id, patience=600)
    assert [t.number for t in closed] == [1, 3, 4]
    states = [t.state for t in study.trials]
    assert states == [
        TrialState.RUNNING,
        TrialState.FAIL,
        TrialState.RUNNING,
        TrialState.FAIL,
        TrialState.FAIL,
    ]
    assert study.trials[1].user_attrs["reason"].startswith("stale: its process is gone")
    assert [t.number for t in close_stale(storage, study._study_id, patience=10**6)] == [0]
