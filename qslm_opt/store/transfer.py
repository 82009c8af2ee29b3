"""A whole study out of a database, row by row, as the records of a study file.

Optuna's tables are read as its own release made them, by their names. What is of the moment stays behind:
the processes that work on the study, and Optuna's heartbeats.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Any

from sqlalchemy import Connection, MetaData, RowMapping, Table, inspect, select

from qslm_opt import __version__
from qslm_opt.errors import StorageError, StudyNotFoundError
from qslm_opt.safe import masked
from qslm_opt.store.engine import open_engine
from qslm_opt.store.failures import storage_errors
from qslm_opt.store.prepare import schema_version
from qslm_opt.store.records import OTHERS
from qslm_opt.store.studies import find_places
from qslm_opt.store.tables import COMPARISON, POWER_DEVICE, STUDY
from qslm_opt.store.urls import is_sqlite, refuse_proxy

CHUNK = 500
"""Trials that are read and written together."""
STUDY_TABLES = ("studies", "study_directions", "study_user_attributes", "study_system_attributes")
TRIAL_TABLES = (
    "trials", "trial_values", "trial_intermediate_values", "trial_params", "trial_user_attributes",
    "trial_system_attributes",
)  # fmt: skip
"""Optuna's tables that hold a study."""


def read_study(url: str, name: str) -> Iterator[dict[str, Any]]:
    """Yield a study's records, as one moment had them; see ``records`` for what they are.

    Raises StudyNotFoundError, StorageError when Optuna has lost the study, or UsageError for a proxy.
    """
    refuse_proxy(url, "export from")
    engine = open_engine(url, "ro")
    try:
        with storage_errors(url), engine.connect() as connection:
            if not is_sqlite(url):
                connection = connection.execution_options(isolation_level="REPEATABLE READ")
            yield from _study_records(connection, url, name)
    finally:
        engine.dispose()


def _study_records(connection: Connection, url: str, name: str) -> Iterator[dict[str, Any]]:
    place = next((p for p in reversed(find_places(connection)) if p.name == name), None)
    if place is None:
        raise StudyNotFoundError(f"no study {name!r} in storage {masked(url)}.")
    if place.study_id is None:
        raise StorageError(f"study {name!r} in storage {masked(url)} has lost its trials; delete it.")
    theirs = reflected(connection)
    row = connection.execute(select(STUDY).where(STUDY.c.uuid == place.uuid)).mappings().one()
    yield {
        "kind": "study", "qslm_opt": __version__, "schema": schema_version(connection), "name": name,
        "row": {**row, "name": name}, "optuna": _optuna_study(connection, theirs, place.study_id),
    }  # fmt: skip
    yield from _trials(connection, theirs, place.study_id)
    for table in OTHERS.values():
        yield from _others(connection, table, place.uuid)


def reflected(connection: Connection) -> dict[str, Table]:
    """Return Optuna's tables of a study as the database has them."""
    metadata = MetaData()
    metadata.reflect(connection, only=[*STUDY_TABLES, *TRIAL_TABLES])
    return dict(metadata.tables)


def _optuna_study(connection: Connection, theirs: Mapping[str, Table], study_id: int) -> dict[str, Any]:
    def rows(name: str, *columns: str) -> Sequence[Any]:
        t = theirs[name].c
        query = select(*(t[column] for column in columns)).where(t.study_id == study_id)
        return connection.execute(query.order_by(t[columns[0]])).all()

    def attributes(name: str) -> dict[str, Any]:
        return {key: json.loads(text) for key, text in rows(name, "key", "value_json")}

    return {
        "directions": [direction for _, direction in rows("study_directions", "objective", "direction")],
        "user_attrs": attributes("study_user_attributes"),
        "system_attrs": attributes("study_system_attributes"),
    }


def _trials(connection: Connection, theirs: Mapping[str, Table], study_id: int) -> Iterator[dict[str, Any]]:
    t = theirs["trials"].c
    numbered = select(t.trial_id).where(t.study_id == study_id).order_by(t.number)
    ids = iter(connection.execute(numbered).scalars().all())
    while chunk := list(islice(ids, CHUNK)):
        yield from _some_trials(connection, theirs, chunk)


def _some_trials(
    connection: Connection, theirs: Mapping[str, Table], ids: Sequence[int]
) -> Iterator[dict[str, Any]]:
    parts: dict[str, dict[int, list[Any]]] = {}
    for name in TRIAL_TABLES[1:]:
        table = theirs[name]
        (key,) = table.primary_key.columns
        found: dict[int, list[Any]] = defaultdict(list)
        query = select(table).where(table.c.trial_id.in_(ids)).order_by(key)
        for row in connection.execute(query).mappings():
            found[row["trial_id"]].append(row)
        parts[name] = found
    t = theirs["trials"]
    for row in connection.execute(select(t).where(t.c.trial_id.in_(ids)).order_by(t.c.number)).mappings():
        yield _trial(row, {name: found[row["trial_id"]] for name, found in parts.items()})


def _trial(row: RowMapping, parts: Mapping[str, Sequence[RowMapping]]) -> dict[str, Any]:
    def attributes(name: str) -> dict[str, Any]:
        return {part["key"]: json.loads(part["value_json"]) for part in parts[name]}

    values = sorted(parts["trial_values"], key=lambda part: part["objective"])
    return {
        "kind": "trial",
        "number": row["number"],
        "state": row["state"],
        "start": _iso(row["datetime_start"]),
        "complete": _iso(row["datetime_complete"]),
        "values": [(part["value"], part["value_type"]) for part in values],
        "params": [
            (part["param_name"], part["param_value"], json.loads(part["distribution_json"]))
            for part in parts["trial_params"]
        ],
        "user_attrs": attributes("trial_user_attributes"),
        "system_attrs": attributes("trial_system_attributes"),
        "intermediate": [
            (part["step"], part["intermediate_value"], part["intermediate_value_type"])
            for part in parts["trial_intermediate_values"]
        ],
    }


def _others(connection: Connection, table: Table, uuid: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of one of our other tables that belong to a study, by id or by the lane of a device."""
    if not inspect(connection).has_table(table.name):
        return
    if "study_uuid" in table.columns:
        query = select(table).where(table.c.study_uuid == uuid)
    else:
        lanes = select(POWER_DEVICE.c.lane).where(POWER_DEVICE.c.study_uuid == uuid)
        query = select(table).where(table.c.lane.in_(lanes))
    columns = [column.name for column in table.columns]
    rows = connection.execute(query.order_by(*table.primary_key.columns))
    for part in rows.partitions(1 if table is COMPARISON else CHUNK):  # items make long lines
        yield {"kind": "rows", "table": table.name, "columns": columns, "rows": [list(row) for row in part]}


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
