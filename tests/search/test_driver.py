"""Studies on SQLite, with a session that measures an artificial metric."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from math import inf

import optuna
import pytest
from optuna.trial import TrialState

from qslm_opt.errors import (
    FingerprintError,
    InfeasibleError,
    SchemaError,
    StorageError,
    StudyExistsError,
    StudyNotFoundError,
    UsageError,
)
from qslm_opt.formats import Format
from qslm_opt.rank import rank
from qslm_opt.results import PowerWindow
from qslm_opt.search.driver import create_study, delete_study, run_study
from qslm_opt.search.interrupts import Interrupts
from qslm_opt.search.ledger import open_storage
from qslm_opt.search.run import Run
from qslm_opt.search.space import SearchSpace
from qslm_opt.search.tiers import TIERS
from qslm_opt.setting import QuantSetting
from qslm_opt.store import Repository
from tests.search.toy import Recorder, ToyMeter, spec, toy

STUDY = spec(max_increase="100%", memory_budget="17%", precisions=(8, 4, 3, 2), sensitivity_precisions=(4,))


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/toy.db"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A study that ran to its end: (url, summary, session, listener). Not to be written to."""
    url = f"sqlite:///{tmp_path_factory.mktemp('finished')}/toy.db"
    return url, *run(url)


def run(url, study=STUDY, session=None, listener=None, **more):
    """Create and run a study; returns (summary, session, listener)."""
    session, listener = session or toy(study), listener or Recorder()
    create_study(study, url, session)
    return run_study(study.name, url, session, listener=listener, **more), session, listener


def records(url):
    with Repository(url) as repository:
        return repository.trials("toy")


def row(url):
    with Repository(url) as repository:
        return repository.study("toy")


def optuna_study(url):
    return optuna.load_study(study_name="toy", storage=open_storage(url))


def test_a_study_runs_to_its_end_and_says_what_it_found(finished):
    url, summary, session, listener = finished
    stored = row(url)
    assert summary.state == stored.state == "finished"
    assert summary.candidates >= 1
    assert summary.best is not None
    assert summary.best.feasible
    assert summary.best.bytes <= stored.budget
    assert summary.best.value <= stored.bound
    assert summary.extra == 0
    assert listener.tiers == list(TIERS)
    assert sum(summary.counts.values()) == len(records(url)) == len(listener.ended)
    assert sum(summary.evaluations.values()) == len(session.ran)
    assert stored.order == list(summary.order)
    assert [part["tier"] for part in stored.progress] == list(TIERS)
    assert all(part["done"] == part["total"] for part in stored.progress)
    assert stored.pid is None


def test_the_listeners_records_are_those_of_the_store(finished):
    url, _, _, listener = finished
    for told, stored in zip(listener.ended, records(url), strict=True):
        same = {"started": None, "finished": None}
        assert dataclasses.replace(told, **same) == dataclasses.replace(stored, **same)
    starts = [(done, total) for _, done, total in listener.started]
    assert starts[0][0] == 0
    assert all(done < total for done, total in starts)


def test_every_trial_has_both_constraints_and_what_the_store_reads(finished):
    url = finished[0]
    space = SearchSpace.of(STUDY, row(url).hierarchy)
    for trial in optuna_study(url).trials:
        assert trial.constraints.keys() == {"metric", "memory"}
        assert trial.constraints["memory"] == trial.user_attrs["bytes"] / space.budget - 1
        assert trial.params.keys() == {"tier", "unit", "bits"}
        setting = QuantSetting.from_json(trial.user_attrs["setting"])
        assert setting.digest(space.hierarchy) == trial.user_attrs["digest"]
        ran = trial.user_attrs["used"] > 0
        assert ran == ("evaluation" in trial.user_attrs)
        assert ("value" in trial.user_attrs) == (trial.state == TrialState.COMPLETE)
        assert "power_w" not in trial.user_attrs


def test_a_uniform_violator_of_the_budget_is_pruned_without_a_model_run(finished):
    url, _, session, _ = finished
    above = [t for t in records(url) if t.tier == "global" and t.slack["memory"] > 0]
    assert [t.bits for t in above] == [8, 4]
    assert {(t.state, t.used, t.slack["metric"]) for t in above} == {("pruned", 0, 0.0)}
    assert {t.setting for t in above}.isdisjoint(s.to_json() for s in session.ran)


def test_a_certain_violation_stops_the_run_and_is_stored_as_such(url):
    tight = dataclasses.replace(STUDY, max_increase="15%", memory_budget="100%")
    session = toy(tight)
    session.steps = 100
    run(url, tight, session)
    stopped = [t for t in records(url) if t.state == "pruned"]
    assert stopped
    for trial in stopped:
        assert trial.value is None
        assert 0 < trial.used < 1000
        assert trial.slack["metric"] > 0
        assert trial.tier != "sensitivity"
    reports = [len(t.intermediate_values) for t in optuna_study(url).trials if t.state == TrialState.PRUNED]
    assert set(reports) == {1}


def test_the_value_is_the_score_at_lambda_and_the_direction_fits_the_metric(url):
    summary, _, _ = run(url, dataclasses.replace(STUDY, lam=0.5))
    study = optuna_study(url)
    assert study.direction == optuna.study.StudyDirection.MINIMIZE
    for trial in study.trials:
        if trial.state == TrialState.COMPLETE:
            attrs = trial.user_attrs
            assert trial.value == attrs["value"] + 0.5 * attrs["bytes"] / attrs["fp32_bytes"]
    assert summary.score == min(
        t.value for t in study.trials if t.value and all(c <= 0 for c in t.constraints.values())
    )
    assert study.best_trial.number == summary.best.number


def test_the_baseline_is_measured_once_and_a_finished_study_runs_nothing_when_resumed(url):
    first, session, listener = run(url)
    assert session.baselines == 1
    assert listener.lines[0] == "measuring the unquantized model"
    assert row(url).baseline == session.baseline()
    again = toy(STUDY)
    second = run_study("toy", url, again, listener=Recorder())
    assert (again.baselines, again.ran) == (0, [])
    assert (second.state, second.best, second.counts) == (first.state, first.best, first.counts)


def test_a_stop_request_ends_the_run_after_the_running_trial_and_resuming_gives_the_same(url, finished):
    whole_url, whole, _, _ = finished

    def stop(record):
        if record.number == 5:
            with Repository(url) as repository:
                repository.request_stop(repository.study("toy").uuid)

    first, _, _ = run(url, listener=Recorder(stop))
    assert (first.state, row(url).state, len(records(url))) == ("stopped", "stopped", 6)
    second = run_study("toy", url, toy(STUDY), listener=Recorder())
    assert second.state == "finished"
    assert result(second) == result(whole)
    assert [t.digest for t in records(url)] == [t.digest for t in records(whole_url)]


def result(summary):
    return summary.best.digest, summary.score, summary.candidates, summary.order


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_tell_the_running_trial_fail_and_leave_the_study_stopped(url, number):
    session = toy(STUDY)
    session.spec = STUDY
    inner, calls = session.loss_of, []

    def interrupted(setting):
        calls.append(setting)
        if len(calls) == 4:  # the baseline and two trials came before
            os.kill(os.getpid(), number)
        return inner(setting)

    session.loss_of = interrupted
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        run(url, session=session)
    assert signal.getsignal(number) == before
    assert [t.state for t in records(url)] == ["complete", "complete", "failed"]
    failed = optuna_study(url).trials[2]
    assert failed.user_attrs["reason"].startswith("interrupted")
    stored = row(url)
    assert (stored.state, stored.reason, stored.pid) == ("stopped", "interrupted", None)
    summary = run_study("toy", url, toy(STUDY), listener=Recorder())
    assert summary.state == "finished"


def test_not_a_number_fails_the_trial_with_its_reason_and_three_times_condemn_the_setting(url):
    session = toy(STUDY)
    inner, space = session.loss_of, SearchSpace.of(STUDY, session.hierarchy)
    bad = space.setting_of(space.uniform(3))
    session.loss_of = lambda setting: inf if setting == bad else inner(setting)
    summary, _, _ = run(url, session=session)
    failed = [t for t in optuna_study(url).trials if t.state == TrialState.FAIL]
    assert [t.user_attrs["reason"] for t in failed] == [
        "NumericsError: logits are nan at token 3; try more bits."
    ] * 3
    assert {t.user_attrs["setting"] for t in failed} == {bad.to_json()}
    assert summary.state in ("finished", "infeasible")
    assert summary.counts["failed"] == 3


def test_an_unexpected_error_fails_the_trial_and_comes_out(url):
    session = toy(STUDY)
    inner = session.loss_of

    def broken(setting):
        if setting.units.get("input") == Format.parse("int4/channel/affine"):
            raise RuntimeError("out of memory")
        return inner(setting)

    session.loss_of = broken
    with pytest.raises(RuntimeError, match="out of memory"):
        run(url, session=session)
    assert optuna_study(url).trials[0].user_attrs["reason"] == "RuntimeError: out of memory"
    assert (row(url).state, row(url).reason) == ("stopped", "RuntimeError: out of memory")


def test_a_baseline_that_violates_an_absolute_bound_is_said_before_the_search(url):
    study = spec(max_increase=None, max_perplexity=2.0)
    session = toy(study)
    said = r"perplexity 2\.71828 against --max-perplexity 2\.0; no trial was run; .*2\.71829 or more"
    with pytest.raises(InfeasibleError, match=said):
        run(url, study, session)
    assert session.ran == []
    assert row(url).state == "infeasible"


def test_a_budget_out_of_reach_is_said_before_anything_is_stored_or_run(url, tmp_path):
    study = spec(memory_budget="1KB")
    session = toy(study)
    with pytest.raises(InfeasibleError, match="cannot be reached"):
        create_study(study, url, session)
    assert session.baselines == 0
    assert list(tmp_path.iterdir()) == []


def test_when_nothing_is_feasible_the_state_says_so_and_by_how_much(url):
    study = dataclasses.replace(STUDY, max_increase="5%")
    summary, _, _ = run(url, study)
    assert (summary.state, summary.candidates, summary.best) == ("infeasible", 0, None)
    assert summary.closest is not None
    stored = row(url)
    assert stored.state == "infeasible"
    assert stored.reason.startswith(
        f"no setting meets both constraints; the closest, trial {summary.closest.number}"
    )
    assert "%" in stored.reason


def test_a_name_that_is_taken_is_refused(url):
    session = toy(STUDY)
    create_study(STUDY, url, session)
    with pytest.raises(StudyExistsError, match="'toy' is already in storage"):
        create_study(STUDY, url, session)


def test_a_name_taken_by_an_optuna_study_of_somebody_else_is_refused_and_nothing_is_left(url):
    optuna.create_study(study_name="toy", storage=open_storage(url))
    with pytest.raises(StudyExistsError):
        create_study(STUDY, url, toy(STUDY))
    with Repository(url) as repository:
        assert repository.names() == []


def test_an_unknown_study_is_named(url):
    create_study(STUDY, url, toy(STUDY))
    with pytest.raises(StudyNotFoundError, match="toi"):
        run_study("toi", url, toy(STUDY), listener=Recorder())


@pytest.mark.parametrize("part", ["weights", "data"])
def test_a_changed_model_or_data_is_refused_with_both_hashes(url, part):
    create_study(STUDY, url, toy(STUDY))
    other = toy(STUDY)
    old, other.hashes[part] = other.hashes[part], "f" * 16
    with pytest.raises(FingerprintError, match=f"{part} {old[:16]} → {'f' * 16}; go on with"):
        run_study("toy", url, other, listener=Recorder())
    assert records(url) == []


def test_a_changed_spec_is_refused_but_a_changed_lambda_is_not(url):
    create_study(STUDY, url, toy(STUDY))
    with pytest.raises(FingerprintError, match="spec"):
        run_study("toy", url, toy(dataclasses.replace(STUDY, max_increase="50%")), listener=Recorder())
    run_study("toy", url, toy(dataclasses.replace(STUDY, lam=9.0)), listener=Recorder())


def test_delete_leaves_nothing_of_the_study_and_everything_of_others(url):
    run(url)
    create_study(other := dataclasses.replace(STUDY, name="other"), url, toy(other))
    delete_study("toy", url)
    with Repository(url) as repository:
        assert repository.names() == ["other"]
    assert optuna.get_all_study_names(open_storage(url)) == ["other"]
    run(url)


def test_a_running_study_is_not_deleted(url):
    create_study(STUDY, url, toy(STUDY))
    with Repository(url) as repository:
        uuid = repository.study("toy").uuid
        repository.set_state(uuid, "running")
        repository.beat(uuid, os.getpid(), os.uname().nodename, "block")
    with pytest.raises(UsageError, match="stop it first"):
        delete_study("toy", url)


def test_a_full_disk_is_a_storage_error_with_the_fix(url):
    session = toy(STUDY)
    inner, calls = session.loss_of, []

    def full(setting):
        calls.append(setting)
        if len(calls) == 3:
            cause = sqlite3.OperationalError("database or disk is full")
            raise optuna.exceptions.StorageInternalError("in the commit") from cause
        return inner(setting)

    session.loss_of = full
    with pytest.raises(StorageError, match=r"toy\.db is on a full disk; free some space"):
        run(url, session=session)
    assert row(url).state == "stopped"


@pytest.mark.parametrize(
    ("revision", "fix"),
    [
        ("v99.0.0", r"upgrade optuna \(pip install -U optuna\)"),
        ("v2.6.0.a", "keep a copy, then run: optuna storage upgrade --storage sqlite:///.*toy.db"),
    ],
)
def test_tables_of_another_optuna_are_refused(url, revision, fix):
    run(url)
    with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))
        connection.execute("UPDATE version_info SET library_version = '7.8.9'")
    words = rf"toy\.db was written by optuna 7\.8\.9, whose tables are not those of optuna 5\S+ here; {fix}"
    with pytest.raises(SchemaError, match=words):
        run_study("toy", url, toy(STUDY), listener=Recorder())


def test_a_missing_storage_is_an_error_with_the_fix(tmp_path):
    with pytest.raises(StorageError, match="does not exist"):
        run_study("toy", f"sqlite:///{tmp_path}/none.db", toy(STUDY), listener=Recorder())


def test_the_power_of_a_trial_is_stored_when_there_is_a_meter(url):
    session = toy(STUDY)
    measured = session.run
    window = PowerWindow("replay", 10, 5.0, 60.0, 1.0, 12.5)
    session.run = lambda *args, **more: (measured(*args, **more)[0], window)
    run(url, session=session, meter=ToyMeter())
    ran = [t for t in records(url) if t.used]
    assert {(t.power_w, t.energy_j) for t in ran} == {(60.0, 12.5)}
    with Repository(url) as repository:
        assert repository.evaluation("toy", ran[0].number)["power"]["source"] == "replay"


def test_threads_of_one_process_share_a_study_and_give_the_sequential_result(url, finished):
    whole = finished[1]
    create_study(STUDY, url, toy(STUDY))
    summaries = []

    def work():
        summaries.append(run_study("toy", url, toy(STUDY, delay=0.002), listener=Recorder()))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [result(s) for s in summaries] == [result(whole)] * 3
    running_twice = [t.digest for t in records(url) if t.used]
    assert len(running_twice) == len(set(running_twice))


def test_a_trial_enqueued_by_hand_is_failed_and_the_search_goes_on(url, finished):
    session = toy(STUDY)
    create_study(STUDY, url, session)
    study = optuna_study(url)
    study.enqueue_trial({"tier": "global", "unit": "network", "bits": 4})
    study.enqueue_trial({"bits": 2})
    summary = run_study("toy", url, session, listener=Recorder())
    assert result(summary) == result(finished[1])
    assert [t.state for t in records(url)[:2]] == ["failed", "failed"]
    assert optuna_study(url).trials[0].user_attrs["reason"].startswith("enqueued by hand")


def test_a_trial_enqueued_while_the_search_runs_is_failed_as_well(url, finished):
    session = toy(STUDY)
    create_study(STUDY, url, session)

    def enqueue(record):
        if record.number == 5:
            optuna_study(url).enqueue_trial({"bits": 8})

    summary = run_study("toy", url, session, listener=Recorder(on_start=enqueue))
    assert result(summary) == result(finished[1])
    failed = [t for t in optuna_study(url).trials if t.state == TrialState.FAIL]
    assert [t.user_attrs["reason"].startswith("enqueued by hand") for t in failed] == [True]


def measured_ahead(url, whole_url):
    """Start a trial that measures what the walk does not visit, and nearly end it; (trial, digest)."""
    needed = {t.digest for t in records(whole_url)}
    space = SearchSpace.of(STUDY, row(url).hierarchy)
    grid = itertools.product((2, 3, 4), repeat=len(space.uniform(4)))
    levels = next(p for p in grid if space.setting_of(p).digest(space.hierarchy) not in needed)
    setting = space.setting_of(levels)
    digest, size = setting.digest(space.hierarchy), space.memory(levels)
    trial = optuna_study(url).ask()
    attributes = {
        "uuid": "u", "setting": setting.to_json(), "digest": digest, "bytes": size, "used": 1000,
        "fp32_bytes": space.fp32_bytes, "value": 1.0, "loss": 0.0, "seconds": 0.1,
    }  # fmt: skip
    for key, value in attributes.items():
        trial.set_user_attr(key, value)
    trial.set_constraint("metric", -0.5)
    trial.set_constraint("memory", -0.5)
    return trial, digest


def test_what_was_measured_ahead_and_not_needed_is_no_part_of_the_result(url, finished):
    whole_url, whole, _, _ = finished
    create_study(STUDY, url, toy(STUDY))
    trial, digest = measured_ahead(url, whole_url)
    optuna_study(url).tell(trial, 0.5)
    assert [t.feasible for t in records(url)] == [True]  # while the search goes on nothing is marked

    def stop(record):
        if record.number == 3:
            with Repository(url) as repository:
                repository.request_stop(row(url).uuid)

    first = run_study("toy", url, toy(STUDY), listener=Recorder(stop))
    assert (first.state, first.extra, first.best.digest) == ("stopped", 0, digest)
    assert row(url).extra == []
    summary = run_study("toy", url, toy(STUDY), listener=Recorder())
    assert result(summary) == result(whole)
    assert (summary.extra, row(url).extra) == (1, [digest])
    assert [t.number for t in records(url) if t.extra] == [trial.number]
    assert not records(url)[0].feasible
    shown = rank(records(url), STUDY.metric, STUDY.lam)
    assert (shown[0].record.digest, shown[0].score, len(shown)) == result(whole)[:3]


def test_a_trial_that_ends_after_the_search_is_marked_by_its_worker_however_that_ends(url, finished):
    run(url)
    trial, digest = measured_ahead(url, finished[0])
    optuna_study(url).tell(trial, 0.5)
    session, interrupts = toy(STUDY), Interrupts()
    with Repository(url) as repository, open_run(url, repository, session, interrupts) as work:
        interrupts._pending = True  # Ctrl-C came while the trial was stored
        with pytest.raises(KeyboardInterrupt):
            work.until_end()
    assert row(url).extra == [digest]


@contextlib.contextmanager
def open_run(url, repository, session, interrupts):
    work = Run(repository.study("toy"), url, repository, session, Recorder(), None, interrupts, time.time())
    work._start = lambda: work.interrupts.exposed().__enter__()
    yield work


def test_workers_leave_a_study_running_that_others_still_run(url):
    session, seen = toy(STUDY), []
    create_study(STUDY, url, session)
    uuid = row(url).uuid
    with Repository(url) as repository, sleeper() as other:
        repository.beat(uuid, other.pid, os.uname().nodename, "block")
        session.loss_of = interrupt
        with pytest.raises(KeyboardInterrupt):
            run_study("toy", url, session, listener=Recorder())
        seen.append((row(url).state, row(url).pid, row(url).reason))
        with pytest.raises(UsageError, match=f"being run by process {other.pid}"):
            delete_study("toy", url)
    seen.append((row(url).state, row(url).reason))
    assert seen == [("running", other.pid, ""), ("stopped", "interrupted")]


def interrupt(setting):
    raise KeyboardInterrupt


@contextlib.contextmanager
def sleeper():
    """A process that lives while entered."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_stop_that_came_while_the_model_was_loading_holds_and_an_older_one_does_not(url):
    session = toy(STUDY)
    create_study(STUDY, url, session)
    asked = time.time()
    with Repository(url) as repository:
        repository.request_stop(row(url).uuid)
    summary = run_study("toy", url, session, listener=Recorder(), since=asked)
    assert (summary.state, session.ran) == ("stopped", [])
    assert run_study("toy", url, session, listener=Recorder()).state == "finished"


def test_a_window_that_holds_the_power_of_other_trials_is_not_stored(url):
    session = toy(STUDY)
    measured, window, others = session.run, PowerWindow("replay", 10, 5.0, 60.0, 1.0, 12.5), []
    create_study(STUDY, url, session)

    def run_beside_others(*args, **more):
        if len(session.ran) == 2:  # one that starts meanwhile, and is there when the next trial starts
            others.append(optuna_study(url).ask())
        if len(session.ran) == 4:
            optuna_study(url).tell(others[0], state=TrialState.FAIL)
        return measured(*args, **more)[0], window

    session.run = run_beside_others
    run_study("toy", url, session, listener=Recorder(), meter=ToyMeter())
    powers = [t.power_w for t in records(url) if t.used]
    assert powers[:6] == [60.0, 60.0, None, None, None, 60.0]
    assert {t.energy_j for t in records(url) if t.used and t.power_w is None} == {None}
