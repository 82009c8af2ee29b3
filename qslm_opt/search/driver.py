"""Creating, running and deleting studies: the search on a storage, from the first trial to the last."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import datetime
from typing import TYPE_CHECKING, Literal
from uuid import uuid4

import optuna
from optuna.exceptions import DuplicatedStudyError

from qslm_opt import __version__
from qslm_opt.errors import FingerprintError, UsageError
from qslm_opt.search.attempt import Listener, SessionLike, SilentListener
from qslm_opt.search.failures import named_failures
from qslm_opt.search.interrupts import Interrupts
from qslm_opt.search.ledger import close_storage, one_transaction, open_shared
from qslm_opt.search.run import Run
from qslm_opt.search.space import SearchSpace
from qslm_opt.search.summary import RunSummary
from qslm_opt.store import StudyRow, open_repository, prepare, study_exists

if TYPE_CHECKING:
    from qslm_opt.measure.meter import Meter
    from qslm_opt.search.deadline import Deadline
    from qslm_opt.spec import StudySpec

__all__ = [
    "Listener", "RunSummary", "SessionLike", "SilentListener", "create_study", "delete_study", "run_study"
]  # fmt: skip


def create_study(spec: StudySpec, storage: str, session: SessionLike) -> None:
    """Store a new study; nothing is run.

    Raises:
        InfeasibleError: the budget is below what any setting needs.
        StudyExistsError: the name is taken.
        StorageError: the storage cannot be written.
    """
    space = SearchSpace.of(spec, session.hierarchy)
    prepare(storage)
    with named_failures(storage), open_repository(storage) as repository:
        if spec.name in repository.names():
            raise study_exists(spec.name, storage)
        uuid = str(uuid4())
        row = StudyRow(
            uuid, spec.name, spec, session.fingerprint(), None, None, space.budget, session.hierarchy,
            created=datetime.now().isoformat(),
        )  # fmt: skip
        repository.add_study(row)
        try:
            _create_in_optuna(spec, storage, uuid)
        except BaseException:
            repository.delete(uuid)
            raise


def _create_in_optuna(spec: StudySpec, url: str, uuid: str) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    database = open_shared(url)
    direction: Literal["maximize", "minimize"] = "maximize" if spec.metric == "accuracy" else "minimize"
    try:
        with one_transaction(database):
            study = optuna.create_study(storage=database, study_name=spec.name, direction=direction)
            attributes = {"qslm_uuid": uuid, "spec": spec.to_json(), "qslm_version": __version__}
            for key, value in attributes.items():
                study.set_user_attr(key, value)
    except DuplicatedStudyError:
        raise study_exists(spec.name, url) from None
    finally:
        close_storage(database)


def run_study(
    name: str,
    storage: str,
    session: SessionLike,
    *,
    listener: Listener,
    meter: Meter | None = None,
    since: float | None = None,
    deadline: Deadline | None = None,
) -> RunSummary:
    """Go on with a study until it is exhausted, a stop is requested, or Ctrl-C or SIGTERM arrives.

    A ``deadline`` ends the run like Ctrl-C, but with the summary of what is proven by then.

    Several processes may do so at the same time on one study. A request to stop that was made after
    ``since`` (seconds since 1970, default now: when this run was asked for) holds, although it came before
    model and data were loaded.

    Raises:
        StudyNotFoundError: no study of that name.
        FingerprintError: model, data, spec or code are not those of the study.
        InfeasibleError: the unquantized model itself violates the metric bound.
        DeviceError, OutOfMemoryError, StorageError: the GPU, the memory or the storage failed meanwhile.
        KeyboardInterrupt: after the running trial was told FAIL and the study's state is ``stopped``.
    """
    since = time.time() if since is None else since
    with ExitStack() as stack:
        stack.enter_context(named_failures(storage))
        repository = stack.enter_context(open_repository(storage))
        row = repository.study(name)
        check_fingerprint(row, session.fingerprint())
        interrupts = stack.enter_context(Interrupts(deadline))
        run = Run(row, storage, repository, session, listener, meter, interrupts, since)
        return run.until_end()


def delete_study(name: str, storage: str) -> None:
    """Delete a study with all its trials; UsageError while a process works on it."""
    with named_failures(storage), open_repository(storage) as repository:
        row = repository.study(name)
        if row.state == "running":
            raise UsageError(
                f"study {name!r} is being run by process {row.pid} on {row.host}; "
                f"stop it first: qslm-opt study stop {name}."
            )
        database = open_shared(storage)
        try:
            optuna.delete_study(study_name=row.name, storage=database)
        except KeyError:  # Optuna has it no more: ours is all that is left
            pass
        finally:
            close_storage(database)
        repository.delete(row.uuid)


def check_fingerprint(row: StudyRow, now: Mapping[str, str]) -> None:
    """Raise FingerprintError that names each part that differs, with both hashes."""
    differing = [
        f"{part} {row.fingerprint.get(part, 'none')[:16]} → {value[:16]}"
        for part, value in now.items()
        if row.fingerprint.get(part) != value
    ]
    if differing:
        raise FingerprintError(
            f"study {row.name!r} was created with another {', '.join(differing)}; "
            "go on with what it was created with, or create a new study."
        )

