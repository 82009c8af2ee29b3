"""Trials in one transaction, attributes in one statement, and nothing of either after a failure."""

from __future__ import annotations

import contextlib

import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState

from qslm_opt.search.ledger import close_trial, one_transaction, open_storage, write_attributes
from qslm_opt.store import prepare

BITS = {"bits": CategoricalDistribution([2, 3])}


@pytest.fixture
def url(tmp_path):
    url = f"sqlite:///{tmp_path}/x.db"
    prepare(url)
    return url


@pytest.fixture(params=["database", "memory"])
def study(url, request):
    storage = open_storage(url) if request.param == "database" else optuna.storages.InMemoryStorage()
    return optuna.create_study(storage=storage)


def test_attributes_and_constraints_are_read_back_by_optuna(study):
    trial = study.ask(BITS)
    attributes = {"setting": "{}", "bytes": 7, "loss": 0.1, "power_w": None}
    write_attributes(study._storage, trial._trial_id, attributes)
    constraints = {"metric": -0.25, "memory": 0.5}
    assert close_trial(study._storage, trial._trial_id, TrialState.COMPLETE, 1.5, {"value": 2.0}, constraints)
    stored = study.trials[0]
    assert (stored.state, stored.value) == (TrialState.COMPLETE, 1.5)
    assert stored.user_attrs == {"setting": "{}", "bytes": 7, "loss": 0.1, "value": 2.0}
    assert stored.constraints == {"metric": -0.25, "memory": 0.5}


def test_a_trial_is_two_commits_and_seen_by_others_only_as_a_whole(url):
    database = open_storage(url)
    study = optuna.create_study(storage=database, study_name="a")
    other = optuna.load_study(storage=open_storage(url), study_name="a")
    commits = count_commits(database)
    with one_transaction(study._storage):
        trial = study.ask(BITS)
        write_attributes(study._storage, trial._trial_id, {"digest": "d"})
        assert other.get_trials() == []
    assert other.get_trials()[0].user_attrs == {"digest": "d"}
    assert close_trial(
        study._storage, trial._trial_id, TrialState.COMPLETE, 3.5, {"value": 3.0}, {"metric": 0.0}
    )
    assert commits == [1, 1]
    stored = other.get_trials()[0]
    assert (stored.state, stored.value, stored.user_attrs["value"]) == (TrialState.COMPLETE, 3.5, 3.0)


def count_commits(database) -> list[int]:
    """Grows by one with each commit of the storage's engine."""
    commits: list[int] = []
    dialect = database.engine.dialect
    commit = dialect.do_commit
    dialect.do_commit = lambda connection: (commits.append(1), commit(connection))[1]
    return commits


def test_an_error_inside_takes_everything_back(url):
    study = optuna.create_study(storage=open_storage(url), study_name="a")

    def fail():
        with one_transaction(study._storage):
            study.ask(BITS)
            raise KeyError("x")

    with pytest.raises(KeyError, match="x"):
        fail()
    again = optuna.load_study(storage=open_storage(url), study_name="a")
    assert again.get_trials() == []
    with one_transaction(again._storage):
        again.ask(BITS)
    assert [t.number for t in again.get_trials()] == [0]


def test_a_trial_that_somebody_closed_is_not_written_to(study):
    trial = study.ask(BITS)
    study.tell(trial.number, state=TrialState.FAIL)
    assert not close_trial(study._storage, trial._trial_id, TrialState.COMPLETE, 1.0, {"value": 1.0})
    assert study.trials[0].state == TrialState.FAIL
    assert study.trials[0].user_attrs == {}


def test_a_writer_inside_keeps_others_from_starting_a_trial_until_it_is_done(url):
    first = optuna.create_study(storage=open_storage(url), study_name="a")
    impatient = optuna.storages.RDBStorage(url, engine_kwargs={"connect_args": {"timeout": 0.05}})
    with one_transaction(first._storage):
        first.ask(BITS)
        with contextlib.closing(impatient.engine.raw_connection()) as connection:
            cursor = connection.cursor()
            with pytest.raises(Exception, match="locked"):
                cursor.execute("UPDATE studies SET study_name = 'b'")
    second = optuna.load_study(storage=impatient, study_name="a")
    assert second.ask(BITS).number == 1
