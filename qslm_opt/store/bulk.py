"""Many finished trials written at once, as Optuna and the search would have written them one by one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, func, insert, select

from qslm_opt.store.tables import (
    OPTUNA_PARAMS,
    OPTUNA_SYSTEM_ATTRIBUTES,
    OPTUNA_TRIALS,
    OPTUNA_USER_ATTRIBUTES,
    OPTUNA_VALUES,
)
from qslm_opt.store.trials import STATES

if TYPE_CHECKING:
    from qslm_opt.results import TrialRecord

_THEIRS = {ours: theirs for theirs, ours in STATES.items()}
_ATTRIBUTES = (
    "uuid", "setting", "digest", "bytes", "fp32_bytes", "value", "loss", "used", "seconds", "power_w",
    "energy_j", "firing_rate",
)  # fmt: skip
_PARAMS = ("tier", "unit", "bits")


def write_trials(
    connection: Connection,
    study_id: int,
    records: Sequence[TrialRecord],
    choices: Mapping[str, Sequence[Any]],
    scores: Sequence[float | None],
) -> None:
    """Insert trials into a study that has none; ``choices`` are those of tier, unit and bits.

    ``records`` are ended and numbered from 0; their times are UTC; ``scores`` are Optuna's values of them.
    """
    first = (connection.execute(select(func.max(OPTUNA_TRIALS.c.trial_id))).scalar() or 0) + 1
    rows: dict[Any, list[dict[str, Any]]] = {
        OPTUNA_TRIALS: [_trial(record, first, study_id) for record in records],
        OPTUNA_USER_ATTRIBUTES: [row for record in records for row in _user(record, first)],
        OPTUNA_SYSTEM_ATTRIBUTES: [row for record in records for row in _system(record, first)],
        OPTUNA_PARAMS: [row for record in records for row in _params(record, first, choices)],
        OPTUNA_VALUES: [
            {"trial_id": first + record.number, "objective": 0, "value": score, "value_type": "FINITE"}
            for record, score in zip(records, scores, strict=True)
            if score is not None
        ],
    }
    for table, found in rows.items():
        if found:
            connection.execute(insert(table), found)


def _trial(record: TrialRecord, first: int, study_id: int) -> dict[str, Any]:
    return {
        "trial_id": first + record.number, "number": record.number, "study_id": study_id,
        "state": _THEIRS[record.state], "datetime_start": _time(record.started),
        "datetime_complete": _time(record.finished),
    }  # fmt: skip


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _user(record: TrialRecord, first: int) -> Iterator[dict[str, Any]]:
    for key in _ATTRIBUTES:
        value = getattr(record, key)
        if value is not None:
            yield {"trial_id": first + record.number, "key": key, "value_json": json.dumps(value)}


def _system(record: TrialRecord, first: int) -> Iterator[dict[str, Any]]:
    for key, slack in record.slack.items():
        yield {
            "trial_id": first + record.number, "key": f"constraints:{key}", "value_json": json.dumps(slack)
        }  # fmt: skip


def _params(
    record: TrialRecord, first: int, choices: Mapping[str, Sequence[Any]]
) -> Iterator[dict[str, Any]]:
    for name in _PARAMS:
        known = choices[name]
        text = json.dumps({"name": "CategoricalDistribution", "attributes": {"choices": list(known)}})
        place = float(known.index(getattr(record, name)))
        yield {
            "trial_id": first + record.number, "param_name": name, "param_value": place,
            "distribution_json": text,
        }  # fmt: skip
