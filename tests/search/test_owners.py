"""Whose trial is it, and does its process live?"""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime, timedelta

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from qslm_opt.search.leases import Leases
from qslm_opt.search.ledger import open_storage
from qslm_opt.search.owners import Owner, close_stale, registered, shares_board
from qslm_opt.store import prepare


def gone(text):
    return Owner.read(text).is_gone()


def far(number):
    return json.dumps({"host": f"elsewhere{number}", "pid": 1, "born": "", "run": ""})


def test_a_run_of_this_process_lives_until_it_ends():
    with registered() as owner:
        assert gone(owner) is False
    assert gone(owner) is True


def test_a_run_shares_the_board_it_measures_and_no_other_of_this_host():
    with registered("GPU-1") as owner:
        assert shares_board(owner, "GPU-1")
        assert not shares_board(owner, "GPU-2")
        assert shares_board(owner, None)  # what is not known may be the same
    with registered() as unknown:
        assert shares_board(unknown, "GPU-1")
    container = json.dumps({**json.loads(owner), "host": "elsewhere"})
    assert shares_board(container, "GPU-1")  # the UUID says so, whatever the host calls itself there
    assert not shares_board(container, "GPU-2")
    for other in ("nvml:0", None, 7):  # what only one host knows
        elsewhere = json.dumps({**json.loads(container), "board": other})
        assert not shares_board(elsewhere, "GPU-1")
        assert not shares_board(elsewhere, "nvml:0")
    assert not shares_board(container, None)
    assert [shares_board(text, "GPU-1") for text in (None, "", "{}", "[]")] == [True] * 4


def test_another_process_of_this_host_lives_as_long_as_it_does():
    code = "from qslm_opt.search.owners import registered as r\nwith r() as o: print(o, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        owner = process.stdout.readline()
        assert gone(owner) is False
        reused = json.dumps({**json.loads(owner), "born": "1"})
        assert gone(reused) is True  # the pid is somebody else's now
        process.communicate("\n", timeout=60)
    assert gone(owner) is True


@pytest.mark.parametrize("owner", [None, "", "{}", "[]", "3", '{"host": "x", "pid": "y"}'])
def test_what_is_no_owner_is_none(owner):
    assert Owner.read(owner) is None


def test_a_process_of_another_host_cannot_be_seen():
    assert gone(far(1)) is None


class Beats:
    """The beats of a store and a clock, both moved by hand."""

    def __init__(self):
        self.now, self.places = 0.0, {}
        self.leases = Leases(lambda: dict(self.places), seconds=60.0, clock=lambda: self.now)

    def pass_time(self, seconds, *beating, step=5.0):
        until = self.now + seconds
        while self.now < until:
            self.now = min(until, self.now + step)
            for place in beating:
                self.places[place] = self.places.get(place, 0) + 1
            self.leases.look()


def test_a_lease_expires_when_the_beat_stands_still_whatever_the_other_clock_says():
    beats = Beats()
    beats.places = {("far", 1): 10**9, ("near", 2): -5.0}  # clocks of hosts are never compared
    beats.pass_time(120, ("near", 2))
    assert beats.leases.expired("far", 1)
    assert not beats.leases.expired("near", 2)
    beats.pass_time(5, ("far", 1))
    assert not beats.leases.expired("far", 1)


def test_a_process_that_never_beat_has_a_whole_lease_from_the_first_question():
    beats = Beats()
    beats.pass_time(100)
    assert not beats.leases.expired("far", 1)
    beats.pass_time(60)
    assert not beats.leases.expired("far", 1)
    beats.pass_time(5)
    assert beats.leases.expired("far", 1)


def test_after_a_lid_was_closed_here_the_others_have_a_new_lease():
    beats = Beats()
    beats.places = {("far", 1): 1.0}
    beats.pass_time(10)
    beats.pass_time(3600, step=3600)
    assert not beats.leases.expired("far", 1)
    beats.pass_time(65)
    assert beats.leases.expired("far", 1)


@pytest.fixture
def study(tmp_path):
    url = f"sqlite:///{tmp_path}/x.db"
    prepare(url)
    storage = open_storage(url)
    yield optuna.create_study(storage=storage), storage
    storage.engine.dispose()


def add_running(study, owner, minutes=0):
    trial = create_trial(state=TrialState.RUNNING, user_attrs={"owner": owner} if owner else {})
    trial.datetime_start = datetime.now() - timedelta(minutes=minutes)
    study.add_trial(trial)


def test_only_trials_that_nobody_holds_are_closed(study):
    study, storage = study
    beats = Beats()
    beats.places = {("elsewhere1", 1): 1.0, ("elsewhere2", 1): 1.0}
    with registered() as gone:
        pass
    with registered() as alive:
        for owner, minutes in ((alive, 99), (gone, 0), (far(1), 99), (far(2), 0), (None, 9), (None, 11)):
            add_running(study, owner, minutes)
        beats.pass_time(100, ("elsewhere1", 1))
        closed = close_stale(storage, study._study_id, beats.leases, lambda: 600.0)
    assert [trial.number for trial, _ in closed] == [1, 3, 5]
    assert [trial.state.name for trial in study.trials] == [
        "RUNNING", "FAIL", "RUNNING", "FAIL", "RUNNING", "FAIL"
    ]  # fmt: skip
    reasons = [study.trials[number].user_attrs["reason"] for number in (1, 3, 5)]
    assert reasons[0].endswith("is gone")
    assert reasons[1] == "stale: process 1 on elsewhere2 gave no sign of life for 60 s"
    assert reasons[2] == "stale: no process is known to run it"
    closed = close_stale(storage, study._study_id, beats.leases, lambda: 10.0**6)
    assert [trial.number for trial, _ in closed] == [0]


def test_a_suspended_process_of_this_host_loses_its_trial_when_its_lease_expires(study):
    study, storage = study
    beats = Beats()
    code = "from qslm_opt.search.owners import registered as r\nwith r() as o: print(o, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        owner = Owner.read(text := process.stdout.readline())
        add_running(study, text)
        beats.places = {(owner.host, owner.pid): 1.0}
        beats.pass_time(30)
        assert close_stale(storage, study._study_id, beats.leases, lambda: 0.0) == []
        beats.pass_time(40)
        ((trial, why),) = close_stale(storage, study._study_id, beats.leases, lambda: 0.0)
        assert trial.number == 0
        assert "no sign of life for 60 s" in why
        process.communicate("\n", timeout=60)
