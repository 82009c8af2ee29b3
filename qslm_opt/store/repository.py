"""Repository: all that the commands, the search and the dashboard ask of a storage."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, delete, insert, select, update

from qslm_opt.errors import SchemaError, StorageError, StudyNotFoundError, did_you_mean
from qslm_opt.safe import masked
from qslm_opt.spec import StudySpec
from qslm_opt.store import migrations
from qslm_opt.store.bulk import write_trials
from qslm_opt.store.engine import open_engine
from qslm_opt.store.failures import storage_errors
from qslm_opt.store.held_back import ComparisonRecords, delete_comparisons
from qslm_opt.store.power import PowerRecords, delete_power
from qslm_opt.store.prepare import check_version, schema_version
from qslm_opt.store.rows import StudyRow, is_alive, own_process, seconds_of
from qslm_opt.store.studies import Place, database_time, find_places, read_studies, write_mark
from qslm_opt.store.tables import RUN, STUDY
from qslm_opt.store.trials import read_attribute, read_best, read_trials
from qslm_opt.store.urls import is_sqlite, sqlite_path

if TYPE_CHECKING:
    from types import TracebackType

    from sqlalchemy import PoolProxiedConnection

    from qslm_opt.results import Baseline, TrialRecord, TrialState
    from qslm_opt.store.rows import StudyState


class Repository(PowerRecords, ComparisonRecords):
    """Studies and trials of one storage. Safe to use from several threads.

    With ``read_only`` an SQLite file is opened so that nothing can be written, and a writer is never
    held up. Raises StorageError when the storage is missing or fails, SchemaError when its tables are
    not those of this release (``prepare`` upgrades older ones).
    """

    def __init__(self, url: str, *, read_only: bool = False) -> None:
        self.url = url
        self._sqlite = is_sqlite(url)
        with storage_errors(url):
            if self._sqlite and not sqlite_path(url).exists():
                raise StorageError(
                    f"storage {url} does not exist; create a study (qslm-opt study create) or give --storage."
                )
        self._engine = open_engine(url, "ro" if read_only else "rw")
        self._writing = self._engine.execution_options(qslm_write=True)
        self._kept: PoolProxiedConnection | None = None
        self._lock = threading.Lock()
        try:
            with self._read() as connection:
                self._version = schema_version(connection)
            self._check(read_only)
        except BaseException:
            self._engine.dispose()
            raise

    def close(self) -> None:
        """Close all connections."""
        if self._kept is not None:
            self._kept.close()
            self._kept = None
        self._engine.dispose()

    def __enter__(self) -> Repository:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ------------------------------------------------------------------------------------ reading

    def changed(self) -> int:
        """Return a number that moves when another connection wrote anything; about 10 µs on SQLite."""
        with self._lock, storage_errors(self.url):
            if self._sqlite:
                if self._kept is None:
                    self._kept = self._engine.raw_connection()
                return int(self._kept.cursor().execute("PRAGMA data_version").fetchone()[0])
        with self._read() as connection:
            return write_mark(connection)

    def names(self) -> list[str]:
        """Return the names of all studies, in order of creation."""
        with self._read() as connection:
            return [place.name for place in self._places(connection)]

    def studies(self) -> list[StudyRow]:
        """Return all studies, in order of creation."""
        with self._read() as connection:
            return read_studies(connection, self._places(connection))

    def study(self, name: str) -> StudyRow:
        """Return a study; raise StudyNotFoundError with the nearest name."""
        with self._read() as connection:
            return read_studies(connection, [self._place(connection, name)])[0]

    def trials(
        self, name: str, after: int = -1, states: Iterable[TrialState] | None = None
    ) -> list[TrialRecord]:
        """Return the study's trials numbered above ``after``, by number; ``states`` filters them.

        Those measured ahead and not needed (``set_extra``) are marked.
        """
        with self._read() as connection:
            place = self._place(connection, name)
            if place.study_id is None:
                return []
            extra = connection.execute(select(STUDY.c.extra).where(STUDY.c.uuid == place.uuid)).scalar()
            return read_trials(connection, place.study_id, after, states, extra or ())

    def best(self, name: str) -> TrialRecord | None:
        """Return the study's best feasible trial at its own λ, reading no others; None without one."""
        with self._read() as connection:
            place = self._place(connection, name)
            if place.study_id is None:
                return None
            row = connection.execute(
                select(STUDY.c.extra, STUDY.c.spec).where(STUDY.c.uuid == place.uuid)
            ).one()
            maximize = StudySpec.from_mapping(row.spec).metric == "accuracy"
            return read_best(connection, place.study_id, maximize, row.extra or ())

    def evaluation(self, name: str, number: int) -> dict[str, Any] | None:
        """Return the whole Evaluation of one trial as stored, None when it has none."""
        with self._read() as connection:
            study_id = self._place(connection, name).study_id
            value = None if study_id is None else read_attribute(connection, study_id, number, "evaluation")
        if value is None:
            return None
        found: dict[str, Any] = json.loads(value) if isinstance(value, str) else value
        return found

    def stop_requested(self, uuid: str) -> bool:
        """Return whether someone asked the study to stop, and no later run took that back."""
        with self._read() as connection:
            asked = select(STUDY.c.stop_requested).where(STUDY.c.uuid == uuid)
            return connection.execute(asked).scalar() is not None

    def beats(self, uuid: str) -> dict[tuple[str, int], float]:
        """Return (host, pid) of each process registered on the study, with its last beat."""
        with self._read() as connection:
            runs = connection.execute(
                select(RUN.c.host, RUN.c.pid, RUN.c.heartbeat).where(RUN.c.uuid == uuid)
            )
            return {(host, pid): beat for host, pid, beat in runs}

    # ------------------------------------------------------------------------------------ writing

    def add_study(self, row: StudyRow) -> None:
        """Store a new study; what its processes and trials say is not taken from ``row``."""
        values = {
            "uuid": row.uuid,
            "name": row.name,
            "created": seconds_of(row.created),
            "spec": json.loads(row.spec.to_json()),
            "fingerprint": dict(row.fingerprint),
            "baseline": json.loads(row.baseline.to_json()) if row.baseline else None,
            "hierarchy": row.hierarchy.to_json(),
            "block_order": list(row.order),
            "progress": [dict(part) for part in row.progress],
            "budget": row.budget,
            "state": row.state,
            "state_since": time.time(),
            "reason": row.reason,
            "stop_requested": time.time() if row.stop_requested else None,
            "extra": list(row.extra) or None,
            "revision": 0,
        }
        with self._write() as connection:
            connection.execute(insert(STUDY).values(values))

    def add_trials(
        self,
        name: str,
        records: Sequence[TrialRecord],
        choices: Mapping[str, Sequence[Any]],
        scores: Sequence[float | None],
    ) -> None:
        """Write ended trials to a study that has none, in one transaction; see ``bulk.write_trials``."""
        with self._write() as connection:
            study_id = self._place(connection, name).study_id
            if study_id is None:
                raise StudyNotFoundError(f"study {name!r} is not in Optuna's tables.")
            write_trials(connection, study_id, records, choices, scores)

    def set_baseline(self, uuid: str, baseline: Baseline) -> None:
        """Store the unquantized model's measurement."""
        self._update(uuid, baseline=json.loads(baseline.to_json()))

    def set_order(self, uuid: str, order: Sequence[str]) -> None:
        """Store the order of the blocks, least sensitive first."""
        self._update(uuid, block_order=list(order))

    def set_progress(self, uuid: str, progress: Sequence[Mapping[str, Any]]) -> None:
        """Store how far the tiers are: ``{"tier", "done", "total"}`` each, total None when not known."""
        self._update(uuid, progress=[dict(part) for part in progress])

    def set_extra(self, uuid: str, digests: Iterable[str]) -> None:
        """Store which digests were measured ahead and not needed; they are no part of the result."""
        self._update(uuid, extra=list(digests) or None)

    def set_state(
        self,
        uuid: str,
        state: StudyState,
        reason: str = "",
        *,
        since: float | None = None,
        own: tuple[int, str] | None = None,
    ) -> None:
        """Store the state that this process leaves the study in, with a reason in words.

        ``running`` takes back a request to stop that was made before ``since`` (seconds since 1970, default
        now: when this run was asked for), unless other processes work on the study and are still to obey
        it. ``stopped`` does not replace ``finished`` or ``infeasible``: another worker found the end.
        ``own`` is (pid, host) of the process that says so, by default this one.
        """
        now = time.time()
        changes: dict[str, Any] = {"state": state, "state_since": now, "reason": reason}
        row = STUDY.c.uuid == uuid
        if state == "stopped":
            row &= STUDY.c.state.not_in(("finished", "infeasible"))
        with self._write() as connection:
            connection.execute(update(STUDY).where(row).values(revision=STUDY.c.revision + 1, **changes))
            if state == "running" and not _others(connection, uuid, own or own_process()):
                old = row & (STUDY.c.stop_requested < (now if since is None else since))
                connection.execute(update(STUDY).where(old).values(stop_requested=None))

    def request_stop(self, uuid: str) -> None:
        """Ask the study's processes, also those that are still loading, to end after the running trial."""
        self._update(uuid, stop_requested=time.time())

    def beat(self, uuid: str, pid: int, host: str, phase: str) -> None:
        """Register that a process works on the study, or that it still does."""
        mine = (RUN.c.uuid == uuid) & (RUN.c.host == host) & (RUN.c.pid == pid)
        with self._write() as connection:
            now = database_time(connection)
            found = connection.execute(update(RUN).where(mine).values(heartbeat=now, phase=phase)).rowcount
            if not found:
                mine_now = {"uuid": uuid, "host": host, "pid": pid, "phase": phase}
                connection.execute(insert(RUN).values(started=now, heartbeat=now, **mine_now))

    def end_run(self, uuid: str, pid: int | None = None, host: str | None = None) -> None:
        """Take a process, by default this one, off the study."""
        own_pid, own_host = own_process()
        mine = (RUN.c.pid == (own_pid if pid is None else pid)) & (RUN.c.host == (host or own_host))
        with self._write() as connection:
            connection.execute(delete(RUN).where(RUN.c.uuid == uuid, mine))

    def delete(self, uuid: str) -> None:
        """Delete our rows of a study; Optuna's are deleted through Optuna."""
        with self._write() as connection:
            delete_power(connection, [uuid])
            delete_comparisons(connection, [uuid])
            for table in (RUN, STUDY):
                connection.execute(delete(table).where(table.c.uuid == uuid))

    # ------------------------------------------------------------------------------------ private

    @contextmanager
    def _read(self) -> Iterator[Connection]:
        with storage_errors(self.url), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def _write(self) -> Iterator[Connection]:
        with storage_errors(self.url), self._writing.begin() as connection:
            yield connection

    def _check(self, read_only: bool) -> None:
        check_version(self._version, self.url)
        newest = len(migrations.MIGRATIONS)
        if self._version < newest and (self._version or not read_only):
            raise SchemaError(
                f"storage {masked(self.url)} has schema {self._version}, older than {newest}; "
                "'qslm-opt study list' upgrades it and keeps a copy."
            )

    def _update(self, uuid: str, **changes: Any) -> None:
        with self._write() as connection:
            row = STUDY.c.uuid == uuid
            connection.execute(update(STUDY).where(row).values(revision=STUDY.c.revision + 1, **changes))

    def _places(self, connection: Connection) -> list[Place]:
        if not self._version:  # a file of Optuna alone, until a study of ours is created in it
            self._version = schema_version(connection)
        return find_places(connection) if self._version else []

    def _place(self, connection: Connection, name: str) -> Place:
        known = self._places(connection)
        found = [place for place in known if place.name == name]
        if not found:
            names = [place.name for place in known]
            hint = did_you_mean(name, names) or " 'qslm-opt study list' shows those there are."
            raise StudyNotFoundError(f"no study {name!r} in storage {masked(self.url)}.{hint}")
        return found[-1]


def _others(connection: Connection, uuid: str, own: tuple[int, str]) -> bool:
    """Return whether a living process other than ``own`` is registered on the study."""
    now = database_time(connection)
    runs = connection.execute(select(RUN.c.pid, RUN.c.host, RUN.c.heartbeat).where(RUN.c.uuid == uuid))
    return any((pid, host) != own and is_alive(pid, host, beat, now) for pid, host, beat in runs)
