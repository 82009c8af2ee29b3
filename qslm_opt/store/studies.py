"""Studies read from our tables and Optuna's, and a mark that moves with every write."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import Connection, func, inspect, select, text

from qslm_opt.store.held_back import read_comparisons
from qslm_opt.store.rows import StudyRow, study_row
from qslm_opt.store.tables import (
    COMPARISON,
    OPTUNA_STUDIES,
    OPTUNA_STUDY_ATTRIBUTES,
    OPTUNA_SYSTEM_ATTRIBUTES,
    OPTUNA_TRIALS,
    OPTUNA_USER_ATTRIBUTES,
    RUN,
    STUDY,
)
from qslm_opt.store.trials import STATES

if TYPE_CHECKING:
    from sqlalchemy import RowMapping


_CLOCKS = {
    "postgresql": "SELECT extract(epoch FROM clock_timestamp())",
    "mysql": "SELECT unix_timestamp(now(6))",
    "mariadb": "SELECT unix_timestamp(now(6))",
}


class Place(NamedTuple):
    """Where a study is."""

    uuid: str
    name: str
    """Optuna's name, which its dashboard can change; ours while Optuna has no study."""
    study_id: int | None
    """Optuna's id, None while it has no study."""


def find_places(connection: Connection) -> list[Place]:
    """Return all our studies in order of creation."""
    ours = select(STUDY.c.uuid, STUDY.c.name).order_by(STUDY.c.created, STUDY.c.name)
    theirs: dict[str, list[Place]] = defaultdict(list)
    if inspect(connection).has_table(OPTUNA_STUDY_ATTRIBUTES.name):  # which Optuna creates after the studies
        s, a = OPTUNA_STUDIES.c, OPTUNA_STUDY_ATTRIBUTES.c
        joined = OPTUNA_STUDIES.join(OPTUNA_STUDY_ATTRIBUTES, a.study_id == s.study_id)
        query = select(s.study_id, s.study_name, a.value_json).select_from(joined)
        for study_id, name, quoted in connection.execute(query.where(a.key == "qslm_uuid")):
            uuid = json.loads(quoted)
            theirs[uuid].append(Place(uuid, name, study_id))
    return [
        place
        for uuid, name in connection.execute(ours).all()
        for place in theirs.get(uuid, [Place(uuid, name, None)])
    ]


def read_studies(connection: Connection, places: Sequence[Place]) -> list[StudyRow]:
    """Return the studies at ``places`` with their trial counts and the state of their processes."""
    if not places:
        return []
    wanted = [place.uuid for place in places]
    rows = connection.execute(select(STUDY).where(STUDY.c.uuid.in_(wanted))).mappings()
    by_uuid = {row["uuid"]: row for row in rows}
    runs: dict[str, list[RowMapping]] = defaultdict(list)
    for run in connection.execute(select(RUN).where(RUN.c.uuid.in_(wanted))).mappings():
        runs[run["uuid"]].append(run)
    counts = _counts(connection, [place.study_id for place in places if place.study_id is not None])
    held = read_comparisons(connection, wanted, "held back")
    now = database_time(connection)
    return [
        study_row(by_uuid[p.uuid], p.name, runs[p.uuid], counts[p.study_id], now, held[p.uuid])
        for p in places
    ]


def database_time(connection: Connection) -> float:
    """Return seconds since 1970 by the clock that all processes of a storage share: its server's."""
    query = _CLOCKS.get(connection.dialect.name)
    return time.time() if query is None else float(connection.execute(text(query)).scalar_one())


def write_mark(connection: Connection) -> int:
    """Return a number that changes with every write, for databases without a change counter."""
    return hash(tuple(_highest(connection)))


def _counts(connection: Connection, study_ids: Sequence[int]) -> dict[int | None, dict[str, int]]:
    """Return Optuna's study id → our trial state → number of trials."""
    found: dict[int | None, dict[str, int]] = defaultdict(dict)
    if study_ids:
        t = OPTUNA_TRIALS.c
        query = select(t.study_id, t.state, func.count()).where(t.study_id.in_(study_ids))
        for study_id, state, count in connection.execute(query.group_by(t.study_id, t.state)):
            if STATES[state] != "waiting":
                found[study_id][STATES[state]] = count
    return found


def _highest(connection: Connection) -> Iterator[int]:
    queries: list[Any] = [
        select(func.coalesce(func.sum(STUDY.c.revision), 0)),
        select(func.count()).select_from(STUDY),
        select(func.count()).select_from(RUN),
        select(func.max(RUN.c.heartbeat)),
        select(func.count()).select_from(COMPARISON),
    ]
    if inspect(connection).has_table(OPTUNA_TRIALS.name):
        growing = (
            OPTUNA_TRIALS.c.trial_id,
            OPTUNA_TRIALS.c.datetime_complete,
            OPTUNA_USER_ATTRIBUTES.c.trial_user_attribute_id,
            OPTUNA_SYSTEM_ATTRIBUTES.c.trial_system_attribute_id,
        )
        queries += [select(func.max(column)) for column in growing]
    for query in queries:
        value = connection.execute(query).scalar()
        yield int(value.timestamp() * 1e6) if isinstance(value, datetime) else int(value or 0)
