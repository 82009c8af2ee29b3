"""Trials in one transaction, attributes in one statement, and nothing of either after a failure."""

from __future__ import annotations

import contextlib

import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState

from qslm_opt.search.ledger import (
    Lookout,
    close_trial,
    load_study,
    one_transaction,
    open_storage,
    open_trial,
    write_attributes,
    write_parameters,
)
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


def test_an_opened_trial_is_what_ask_would_have_made(study):
    asked = study.ask(BITS)
    opened = open_trial(study._storage, study._study_id)
    write_parameters(study._storage, opened.id, {"bits": asked.params["bits"]}, BITS)
    first, second = study.trials
    assert (opened.number, second.number, second._trial_id) == (1, 1, opened.id)
    assert (second.state, second.params, second.distributions) == (first.state, first.params, BITS)
    assert second.datetime_start >= first.datetime_start
    assert close_trial(study._storage, opened.id, TrialState.COMPLETE, 2.0, {"value": 2.0})
    assert study.tell(asked, 3.0).number == 0
    assert [t.value for t in study.trials] == [3.0, 2.0]


def test_an_opened_trial_is_gone_when_its_transaction_fails(url):
    study = optuna.create_study(storage=open_storage(url), study_name="a")

    def fail():
        with one_transaction(study._storage):
            write_attributes(study._storage, open_trial(study._storage, study._study_id).id, {"a": 1})
            raise KeyError("x")

    with pytest.raises(KeyError, match="x"):
        fail()
    assert study.get_trials() == []
    assert open_trial(study._storage, study._study_id).number == 0


def test_a_lookout_reads_trials_only_while_one_is_not_known(url):
    study = optuna.create_study(storage=open_storage(url), study_name="a")
    another = optuna.load_study(storage=open_storage(url), study_name="a")
    lookout, known = Lookout(), set()

    def seen(but: int = -1) -> list[int]:
        return [trial.number for trial in lookout.trials(study, known, but)]

    assert seen() == []
    mine = another.ask(BITS)
    assert (seen(), seen(but=0)) == ([0], [])
    theirs = another.ask(BITS)
    assert seen(but=0) == [0, 1]
    another.tell(theirs, 1.0)
    known.add(1)
    assert seen(but=0) == []
    assert seen() == [0, 1]  # the one that still runs is not lost behind a later one
    another.tell(mine, 1.0)
    known.add(0)
    assert seen() == []
    another.enqueue_trial({"bits": 2})
    assert [t.state for t in lookout.trials(study, known)][2:] == [TrialState.WAITING]


def test_a_lookout_inside_a_transaction_sees_what_others_wrote_before_it(url):
    study = load_study(optuna.create_study(storage=open_storage(url)).study_name, open_storage(url))
    another = load_study(study.study_name, open_storage(url))
    lookout = Lookout()
    assert lookout.trials(study, ()) == []
    theirs = another.ask(BITS)
    with one_transaction(study._storage):
        mine = open_trial(study._storage, study._study_id)
        assert [t.number for t in lookout.trials(study, (), but=mine.number)] == [theirs.number, mine.number]
