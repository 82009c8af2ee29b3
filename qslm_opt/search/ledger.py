"""How trials are written: each step of a trial in one transaction, all its attributes in one statement.

One attribute through ``Trial.set_user_attr`` costs about 1 ms of SQLAlchemy and a commit, and a trial has
some twenty; ``Study.ask`` and ``Study.tell`` read the trial several times. These helpers use Optuna's own
session on Optuna's own tables; on a storage other than a database they fall back to single calls.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import optuna
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage, GrpcStorageProxy, RDBStorage
from optuna.storages._rdb import models
from optuna.trial import TrialState

from qslm_opt.errors import SchemaError
from qslm_opt.search.creation import open_database
from qslm_opt.store import is_grpc, masked

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

CONSTRAINT = "constraints:"
"""Prefix under which Optuna keeps what ``Trial.set_constraint`` sets."""


def open_storage(url: str) -> RDBStorage:
    """Return Optuna's storage on ``url`` with the engine settings of ``store``.

    Raises:
        SchemaError: Optuna's tables are of another release of Optuna.
    """
    try:
        return open_database(url)
    except RuntimeError as error:
        raise SchemaError(_other_optuna(url, str(error))) from error


def _other_optuna(url: str, said: str) -> str:
    """Return what Optuna said about tables of another release of its own as a sentence with the fix."""
    by = re.search(r"set up by optuna ([\w.+-]+)\)", said)
    written = f"was written by optuna {by[1]}" if by else "was written by another optuna"
    fix = (
        f"keep a copy, then run: optuna storage upgrade --storage {shlex.quote(masked(url))}"
        if "storage upgrade" in said
        else "upgrade optuna (pip install -U optuna)"
    )
    return (
        f"storage {masked(url)} {written}, whose tables are not those of optuna {optuna.__version__} "
        f"here; {fix}."
    )


def open_shared(url: str) -> BaseStorage:
    """Return Optuna's storage on ``url``, which may be a proxy's; ``close_storage`` closes it."""
    if is_grpc(url):
        from qslm_opt.search.proxy import RemoteStorage

        return RemoteStorage(url)
    return open_storage(url)


def close_storage(storage: BaseStorage) -> None:
    """Close the connections of what ``open_shared`` returned."""
    if isinstance(storage, RDBStorage):
        storage.engine.dispose()
    elif isinstance(storage, GrpcStorageProxy):
        storage.close()


@dataclass(frozen=True)
class OpenTrial:
    """A trial that this process runs."""

    id: int
    """Optuna's, unique in the storage."""
    number: int
    """Its place in the study, from 0."""


@contextmanager
def one_transaction(storage: BaseStorage) -> Iterator[None]:
    """Make everything this thread writes inside one transaction: committed at the end, or nothing of it.

    A trial created inside holds the write lock, so what is read after it is the latest state until the end.
    Do not write to the same database by another connection inside: it would wait for this one.
    """
    database = _database(storage)
    if database is None:
        yield
        return
    database.scoped_session.remove()
    with database.engine.begin() as connection:
        database.scoped_session(bind=connection, join_transaction_mode="rollback_only")
        try:
            yield
        finally:
            database.scoped_session.remove()


def start_trial(
    storage: BaseStorage,
    study_id: int,
    number: int,
    parameters: Mapping[str, Any],
    distributions: Mapping[str, BaseDistribution],
    attributes: Mapping[str, Any],
) -> int | None:
    """Start trial ``number`` in one transaction; return its id, or None, and store nothing, when it is taken.

    Whoever chose the parameters by looking at the ``number`` trials before it must then look again.
    """
    remote = remote_call(storage)
    if remote is not None:
        written = {name: distribution_to_json(found) for name, found in distributions.items()}
        started: int | None = remote(
            "start_trial", study_id=study_id, number=number, parameters=parameters, distributions=written,
            attributes=attributes,
        )  # fmt: skip
        return started
    try:
        with one_transaction(storage):
            trial = _open_numbered(storage, study_id, number)
            write_parameters(storage, trial.id, parameters, distributions)
            write_attributes(storage, trial.id, attributes)
    except _TakenError:
        return None
    return trial.id


class _TakenError(Exception):
    """Another worker has started this trial."""


def _open_numbered(storage: BaseStorage, study_id: int, number: int) -> OpenTrial:
    trial = open_trial(storage, study_id)
    if trial.number != number:
        raise _TakenError
    return trial


def open_trial(storage: BaseStorage, study_id: int) -> OpenTrial:
    """Create a running trial without parameters."""
    database = _database(storage)
    if database is None:
        trial_id = storage.create_new_trial(study_id)
        return OpenTrial(trial_id, storage.get_trial_number_from_id(trial_id))
    created = database._create_new_trial(study_id)  # beside Optuna's cache, which reads it when it is asked
    return OpenTrial(created._trial_id, created.number)


def write_parameters(
    storage: BaseStorage,
    trial_id: int,
    parameters: Mapping[str, Any],
    distributions: Mapping[str, BaseDistribution],
) -> None:
    """Write parameters that a trial does not have yet; those of the study so far must be compatible."""
    database = _database(storage)
    values = {name: distributions[name].to_internal_repr(value) for name, value in parameters.items()}
    if database is None:
        for name, value in values.items():
            storage.set_trial_param(trial_id, name, value, distributions[name])
        return
    rows = [
        {
            "trial_id": trial_id,
            "param_name": name,
            "param_value": value,
            "distribution_json": distribution_to_json(distributions[name]),
        }
        for name, value in values.items()
    ]
    _insert(database, {models.TrialParamModel: rows})


def write_attributes(
    storage: BaseStorage,
    trial_id: int,
    attributes: Mapping[str, Any],
    constraints: Mapping[str, float] | None = None,
) -> None:
    """Write user attributes and constraints that a trial does not have yet; None is left out."""
    user = {key: value for key, value in attributes.items() if value is not None}
    system = {CONSTRAINT + key: value for key, value in (constraints or {}).items()}
    database = _database(storage)
    if database is not None:
        tables = {models.TrialUserAttributeModel: user, models.TrialSystemAttributeModel: system}
        rows = {
            table: [{"trial_id": trial_id, "key": k, "value_json": json.dumps(v)} for k, v in values.items()]
            for table, values in tables.items()
        }
        _insert(database, rows)
        return
    for key, value in user.items():
        storage.set_trial_user_attr(trial_id, key, value)
    for key, value in system.items():
        storage.set_trial_system_attr(trial_id, key, value)


def close_trial(
    storage: BaseStorage,
    trial_id: int,
    state: TrialState,
    value: float | None,
    attributes: Mapping[str, Any],
    constraints: Mapping[str, float] | None = None,
) -> bool:
    """Store a running trial's end in one transaction; False, and nothing stored, when it had ended already.

    Does what ``Study.tell`` does at less than half of its cost: that reads the whole trial twice.
    """
    values = None if value is None else [value]
    remote = remote_call(storage)
    if remote is not None:
        told = {"value": value, "attributes": dict(attributes), "constraints": dict(constraints or {})}
        return bool(remote("close_trial", trial_id=trial_id, state=state.name, **told))
    try:
        if _database(storage) is None:
            storage.check_trial_is_updatable(trial_id, storage.get_trial(trial_id).state)
            write_attributes(storage, trial_id, attributes, constraints)
            storage.set_trial_state_values(trial_id, state, values)
            return True
        with one_transaction(
            storage
        ):  # the state first: it takes the lock, and raises when the trial has ended
            storage.set_trial_state_values(trial_id, state, values)
            write_attributes(storage, trial_id, attributes, constraints)
    except UpdateFinishedTrialError:
        return False
    return True


def remote_call(storage: BaseStorage) -> Callable[..., Any] | None:
    """Return what calls the proxy that a storage is behind; None where it is behind none of ours."""
    call: Callable[..., Any] | None = getattr(storage, "call", None)
    return call if isinstance(storage, GrpcStorageProxy) else None


def _insert(database: RDBStorage, tables: Mapping[Any, list[dict[str, Any]]]) -> None:
    session = database.scoped_session()
    try:
        for table, rows in tables.items():
            session.bulk_insert_mappings(table, rows)
        session.commit()
    except Exception:
        session.rollback()
        raise
    finally:
        session.close()


def _database(storage: BaseStorage) -> RDBStorage | None:
    """The database behind Optuna's cache, None for other storages."""
    behind = getattr(storage, "_backend", storage)
    return behind if isinstance(behind, RDBStorage) else None


class Lookout:
    """Reads a study's trials, and only where there are some that the caller has not taken in.

    With one worker there are none but its own: it looks by one small query, not by Optuna's reading of a
    whole trial.
    """

    def __init__(self) -> None:
        self._settled = -1
        """Trials up to this id are taken in for good."""

    def trials(self, study: optuna.Study, known: Container[int], but: int = -1) -> list[FrozenTrial]:
        """Return all trials, by number; none when each is number ``but`` or its number is in ``known``."""
        database = _database(study._storage)
        if database is not None:
            recent = self._recent(database, study._study_id)
            if all(number in known or number == but for _, number in recent):
                settled = takewhile(lambda row: row[1] != but, recent)  # what is running stays in sight
                self._settled = max((trial_id for trial_id, _ in settled), default=self._settled)
                return []
        return study.get_trials(deepcopy=False)

    def _recent(self, database: RDBStorage, study_id: int) -> list[tuple[int, int]]:
        """Ids and numbers of the trials that are not settled, by id."""
        trial = models.TrialModel
        session = database.scoped_session()
        try:
            query = session.query(trial.trial_id, trial.number)
            recent = query.filter(trial.study_id == study_id, trial.trial_id > self._settled)
            return [(row[0], row[1]) for row in recent.order_by(trial.trial_id)]
        finally:
            session.close()


def load_study(
    name: str,
    storage: BaseStorage,
    sampler: optuna.samplers.BaseSampler | None = None,
    pruner: optuna.pruners.BasePruner | None = None,
) -> optuna.Study:
    """Return the Optuna study; Optuna's own log is silent."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.load_study(study_name=name, storage=storage, sampler=sampler, pruner=pruner)
