"""A whole study into a database: the records of a study file in one transaction, all of them or none."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import NAMESPACE_OID, uuid4, uuid5

from sqlalchemy import Connection, Table, insert, select
from sqlalchemy.exc import IntegrityError

from qslm_opt.store.engine import open_engine
from qslm_opt.store.failures import storage_errors, study_exists
from qslm_opt.store.records import OTHERS, refuse
from qslm_opt.store.tables import POWER_DEVICE, STUDY
from qslm_opt.store.transfer import CHUNK, TRIAL_TABLES, reflected

STALE_REASON = "stale: it was running when the study was exported"
_IDS = ("uuid", "study_uuid", "trial_uuid", "id")
"""Columns of ours that hold ids unique in a storage."""


@dataclass(frozen=True)
class Imported:
    """What an import put into a storage."""

    name: str
    uuid: str
    trials: int
    stale: int
    """Trials that were running when the study was exported: they are failed now, a resume runs them again."""


def write_study(url: str, records: Iterable[Mapping[str, Any]], name: str | None = None) -> Imported:
    """Store ``checked`` records as a study, in one transaction: all of it, or nothing.

    Our tables and Optuna's must be there. The study keeps its ids, unless the storage has them: then all
    ids are new. Raises StudyExistsError when the name is taken.
    """
    engine = open_engine(url, "rw")
    try:
        with storage_errors(url), engine.execution_options(qslm_write=True).begin() as connection:
            return _Writer(connection, url, iter(records), name).write()
    finally:
        engine.dispose()


class _Writer:
    """Writes one study through one connection."""

    def __init__(
        self, connection: Connection, url: str, records: Iterator[Mapping[str, Any]], name: str | None
    ) -> None:
        self.connection, self.url, self.records = connection, url, records
        self.theirs = reflected(connection)
        self.study = next(records)
        self.name = name or self.study["name"]
        self.uuid = self.study["row"]["uuid"]
        self.trials = self.stale = 0
        self.new_id: Callable[[str], str] = str
        self.lanes: dict[int, int] = {}

    def write(self) -> Imported:
        self._choose_ids()
        study_id = self._study()
        trials: list[Mapping[str, Any]] = []
        for record in self.records:
            if record["kind"] == "rows":
                self._other(OTHERS[record["table"]], record)
                continue
            trials.append(record)
            if len(trials) >= CHUNK:
                self._some_trials(study_id, trials)
                trials = []
        self._some_trials(study_id, trials)
        return Imported(self.name, self.uuid, self.trials, self.stale)

    def _choose_ids(self) -> None:
        taken = select(STUDY.c.uuid).where(STUDY.c.uuid == self.uuid)
        if self.connection.execute(taken).first() is not None:
            self.uuid = str(uuid4())
            self.new_id = self._other_id

    def _other_id(self, old: str) -> str:
        own = self.study["row"]["uuid"]
        return self.uuid if old == own else str(uuid5(NAMESPACE_OID, f"{self.uuid}/{old}"))

    def _study(self) -> int:
        """Write our row and Optuna's of the study; return Optuna's id."""
        optuna, studies = self.study["optuna"], self.theirs["studies"]
        with _taken(self.name, self.url):
            self._insert("studies", [{"study_name": self.name}])
        found = select(studies.c.study_id).where(studies.c.study_name == self.name)
        study_id = int(self.connection.execute(found).scalar_one())
        directions = [{"study_id": study_id, "objective": 0, "direction": optuna["directions"][0]}]
        self._insert("study_directions", directions)
        user = {**optuna["user_attrs"], "qslm_uuid": self.uuid}
        for table, attributes in (
            ("study_user_attributes", user),
            ("study_system_attributes", optuna["system_attrs"]),
        ):
            self._insert(table, [{"study_id": study_id, **part} for part in _pairs(attributes)])
        self.connection.execute(insert(STUDY).values(self._row()))
        return study_id

    def _row(self) -> dict[str, Any]:
        row = {**self.study["row"], "uuid": self.uuid, "name": self.name}
        if row["state"] == "running":
            row |= {"state": "stopped", "reason": "it was running when it was exported"}
        return row

    def _some_trials(self, study_id: int, records: Sequence[Mapping[str, Any]]) -> None:
        if not records:
            return
        records = [self._at_rest(record) for record in records]
        rows = [
            {
                "number": record["number"], "study_id": study_id, "state": record["state"],
                "datetime_start": _moment(record["start"]), "datetime_complete": _moment(record["complete"]),
            }
            for record in records
        ]  # fmt: skip
        self._insert("trials", rows)
        t, first = self.theirs["trials"].c, records[0]["number"]
        written = select(t.number, t.trial_id).where(t.study_id == study_id, t.number >= first)
        ids: dict[int, int] = {row[0]: row[1] for row in self.connection.execute(written)}
        parts: dict[str, list[dict[str, Any]]] = {name: [] for name in TRIAL_TABLES[1:]}
        for record in records:
            for name, values in self._parts(record).items():
                parts[name] += [{"trial_id": ids[record["number"]], **value} for value in values]
        for name, values in parts.items():
            self._insert(name, values)
        self.trials += len(records)

    def _at_rest(self, record: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a trial that was running as a failed one whose setting is not to blame."""
        if record["state"] != "RUNNING":
            return record
        self.stale += 1
        attributes = {**record["user_attrs"], "reason": STALE_REASON}
        return {**record, "state": "FAIL", "user_attrs": attributes, "complete": record["start"]}

    def _parts(self, record: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
        user = dict(record["user_attrs"])
        if "uuid" in user:
            user["uuid"] = self.new_id(user["uuid"])
        return {
            "trial_values": [
                {"objective": place, "value": value, "value_type": kind}
                for place, (value, kind) in enumerate(record["values"])
            ],
            "trial_intermediate_values": [
                {"step": step, "intermediate_value": value, "intermediate_value_type": kind}
                for step, value, kind in record["intermediate"]
            ],
            "trial_params": [
                {"param_name": name, "param_value": value, "distribution_json": json.dumps(distribution)}
                for name, value, distribution in record["params"]
            ],
            "trial_user_attributes": _pairs(user),
            "trial_system_attributes": _pairs(record["system_attrs"]),
        }

    def _other(self, table: Table, record: Mapping[str, Any]) -> None:
        """Write rows of another table of ours: ids as chosen, and the lanes that this storage gives."""
        rows = [dict(zip(record["columns"], values, strict=True)) for values in record["rows"]]
        for row in rows:
            row.update({name: self.new_id(row[name]) for name in _IDS if name in row})
            if "study_uuid" in row and row["study_uuid"] != self.uuid:
                refuse(f"a row of {table.name} is of another study")
            if table.name == POWER_DEVICE.name:
                lane = row.pop("lane")
                inserted = self.connection.execute(insert(table).values(row)).inserted_primary_key
                self.lanes[lane] = inserted[0] if inserted else refuse("a device of it cannot be stored")
            elif "lane" in row:
                if row["lane"] not in self.lanes:
                    refuse(f"a row of {table.name} is of a device that the file does not have")
                row["lane"] = self.lanes[row["lane"]]
        if rows and table.name != POWER_DEVICE.name:
            self.connection.execute(insert(table), rows)

    def _insert(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        if rows:
            self.connection.execute(insert(self.theirs[name]), [dict(row) for row in rows])


@contextmanager
def _taken(name: str, url: str) -> Iterator[None]:
    try:
        yield
    except IntegrityError:
        raise study_exists(name, url) from None


def _pairs(attributes: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value_json": json.dumps(value)} for key, value in attributes.items()]


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
