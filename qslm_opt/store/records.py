"""What the lines of a study file may say: each is checked before any of it reaches a database.

``study`` comes first and once: our row, and what Optuna keeps of the study. ``trial`` is one of Optuna's
trials, in order. ``rows`` holds rows of another of our tables, such as power samples.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from math import isfinite
from typing import Any, NoReturn, get_args

from sqlalchemy import JSON, Double, Integer, String, Table, Text
from sqlalchemy.sql.sqltypes import BigInteger

from qslm_opt.errors import ArchiveError, QslmError
from qslm_opt.formats import WIDTHS
from qslm_opt.setting import QuantSetting
from qslm_opt.store import migrations
from qslm_opt.store.measured import comparison_fault, is_moment, window_fault
from qslm_opt.store.rows import StudyState, study_row
from qslm_opt.store.tables import COMPARISON, METADATA, POWER_WINDOW, RUN, SCHEMA, STUDY
from qslm_opt.store.trials import PARAMS, STATES

DIRECTIONS = ("MINIMIZE", "MAXIMIZE")
FLOATS = ("FINITE", "INF_POS", "INF_NEG", "NAN")
MOST_KEY = 512
"""Characters of the longest key that Optuna's tables hold."""
MOST_TEXT = 1 << 20
"""Characters of the longest text."""
OTHERS: dict[str, Table] = {
    name: table for name, table in METADATA.tables.items() if table not in (SCHEMA, STUDY, RUN)
}
"""Our tables that move with a study beside its own row; runs are of the moment and stay."""
_TEXTS = ("uuid", "digest")
_NUMBERS = (
    "value", "loss", "seconds", "power_w", "energy_j", "firing_rate"
)  # fmt: skip
_MOMENTS = ("created", "state_since", "stop_requested", "started", "ended")
_COUNTS = ("bytes", "fp32_bytes", "used")


def refuse(what: str) -> NoReturn:
    """Raise the ArchiveError that says what in the file cannot be."""
    raise ArchiveError(f"the study file cannot be used: {what}; export the study anew.")


def checked(records: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Yield the records, each after its check; raise ArchiveError at the first that cannot be.

    A database takes them in this order: the study, its trials numbered from 0 without a gap, the rows.
    """
    seen, trials = False, _Trials()
    checks = {"study": _study, "trial": trials.check, "rows": _rows}
    for record in records:
        kind = record.get("kind")
        if not isinstance(kind, str) or kind not in checks or (kind == "study") == seen:
            refuse(f"it has a line of kind {str(kind)[:40]!r} in the wrong place")
        with_words(checks[kind], record)
        seen = True
        yield record
    if not seen:
        refuse("it holds no study")


class _Trials:
    """Checks trials one after the other."""

    def __init__(self) -> None:
        self._due, self._choices = 0, dict[str, Any]()

    def check(self, record: Mapping[str, Any]) -> None:
        """Refuse a trial that is out of turn, or whose parameters of ours have other choices than before."""
        _trial(record)
        if type(record["number"]) is not int or record["number"] != self._due:
            refuse(f"trial {str(record['number'])[:20]} comes where {self._due} is due")
        self._due += 1
        for name, _, distribution in record["params"]:
            if name not in PARAMS:
                continue
            choices = distribution["attributes"].get("choices", [None])
            if not all(_is_choice(name, choice) for choice in choices):
                refuse(f"parameter {name!r} of trial {record['number']} has choices of another type")
            if self._choices.setdefault(name, choices) != choices:
                refuse(f"parameter {name!r} of trial {record['number']} has other choices than before")


def _is_choice(name: str, choice: Any) -> bool:
    """Return whether one of our parameters may have this choice: ``bits`` a width, the others a text."""
    if name == "bits":
        return type(choice) in (int, float) and choice in WIDTHS
    return type(choice) is str


def with_words(check: Callable[[Mapping[str, Any]], None], record: Mapping[str, Any]) -> None:
    """Run a check; whatever it stumbles over is an ArchiveError."""
    try:
        check(record)
    except ArchiveError:
        raise
    except QslmError as error:
        refuse(str(error).rstrip("."))
    except Exception as error:  # noqa: BLE001 - a value of another type can raise almost anything
        refuse(f"a {record.get('kind')} in it is not as it should be ({type(error).__name__}: {error})"[:300])


def _study(record: Mapping[str, Any]) -> None:
    newest = len(migrations.MIGRATIONS)
    if not isinstance(record["schema"], int) or record["schema"] > newest:
        refuse(f"it has schema {str(record['schema'])[:20]}, this qslm-opt knows up to {newest}: upgrade it")
    row, optuna = record["row"], record["optuna"]
    _row(STUDY, row)
    _text(record["name"], MOST_KEY)
    if row["state"] not in get_args(StudyState):
        refuse(f"its state {row['state']!r} is unknown")
    if optuna["directions"] not in ([name] for name in DIRECTIONS):
        refuse(f"its directions are {str(optuna['directions'])[:40]}")
    _attributes(optuna["user_attrs"])
    _attributes(optuna["system_attrs"])
    if optuna["user_attrs"]["qslm_uuid"] != row["uuid"]:
        refuse("its two parts have different ids")
    _decoded(row)


def _decoded(row: Mapping[str, Any]) -> None:
    """Read the row as the commands do, so that they can."""
    known: Any = {**{column.name: None for column in STUDY.columns}, **row}
    found = study_row(known, row["name"], (), {}, 0.0)
    if not found.hierarchy.fp32_bytes() > 0 < found.budget:
        refuse("its model has no weights, or its budget no bytes")
    if found.baseline is not None and not (isfinite(found.baseline.value) and found.baseline.n > 0):
        refuse("its baseline is not a number")
    texts = [*found.fingerprint, *found.fingerprint.values(), *found.order, *found.extra]
    if not all(isinstance(text, str) for text in texts) or not all("tier" in part for part in found.progress):
        refuse("its fingerprint, order or progress is not as it should be")


def _trial(record: Mapping[str, Any]) -> None:
    if record["state"] not in STATES:
        refuse(f"trial state {str(record['state'])[:20]!r} is unknown")
    for key in ("start", "complete"):
        if record[key] is not None and datetime.fromisoformat(record[key]).tzinfo is not None:
            refuse("a time in it has an offset")
    for value, kind in record["values"]:
        _stored_float(value, kind)
    for step, value, kind in record["intermediate"]:
        _whole(step, 31)
        _stored_float(value, kind)
    for name, value, distribution in record["params"]:
        _key(name)
        _finite(value)
        choices = distribution["attributes"].get("choices")
        if choices is not None and not 0 <= int(value) < len(choices):
            refuse(f"parameter {name!r} is none of its choices")
    _attributes(record["user_attrs"])
    _attributes(record["system_attrs"])
    _known_attributes(record["user_attrs"])
    for key, slack in record["system_attrs"].items():
        if key.startswith("constraints:"):
            _finite(slack)


def _known_attributes(attributes: Mapping[str, Any]) -> None:
    """Check the attributes that the commands read."""
    for key in _TEXTS:
        text = attributes.get(key, "")
        if not isinstance(text, str) or json.dumps(text)[1:-1] != text:
            refuse(f"attribute {key!r} of a trial is {str(text)[:40]!r}")
    for key in _NUMBERS:
        if attributes.get(key) is not None:
            _finite(attributes[key])
    for key in _COUNTS:
        _whole(attributes.get(key, 0), 63)
    if "setting" in attributes:
        QuantSetting.from_json(attributes["setting"])


def _rows(record: Mapping[str, Any]) -> None:
    if record["table"] not in OTHERS:
        refuse(f"it has rows of table {str(record['table'])[:40]!r}")
    table, columns = OTHERS[record["table"]], record["columns"]
    if len(set(columns)) != len(columns):
        refuse(f"rows of {table.name} name a column twice")
    for values in record["rows"]:
        if len(values) != len(columns):
            refuse(f"a row of {table.name} has {len(values)} values for {len(columns)} columns")
        row = dict(zip(columns, values, strict=True))
        _row(table, row)
        fault = window_fault(row["measured"]) if table is POWER_WINDOW else ""
        if table is COMPARISON:
            fault = comparison_fault(row["measured"], row.get("items"))
        if fault:
            refuse(fault)


def _row(table: Table, row: Mapping[Any, Any]) -> None:
    """Check names, types and lengths: not every database does."""
    for name in row:
        if not isinstance(name, str) or name not in table.columns:
            refuse(f"{table.name} has no column {str(name)[:40]!r}")
    for column in table.columns:
        value = row.get(column.name)
        if value is None:
            if not column.nullable:
                refuse(f"{table.name} has no {column.name}")
        elif isinstance(column.type, JSON):
            _valid_json(value)
        elif isinstance(column.type, (String, Text)):
            _text(value, column.type.length or MOST_TEXT)
        elif isinstance(column.type, Double):
            _finite(value)
        elif isinstance(column.type, Integer):
            _whole(value, 63 if isinstance(column.type, BigInteger) else 31)
        if value is not None and not _in_range(column.name, value):
            refuse(f"{column.name} of {table.name} is {value}, out of range")


def _in_range(column: str, value: Any) -> bool:
    """Return whether a moment is one that can be shown; other columns have no range of their own."""
    if column in _MOMENTS:
        return is_moment(value)
    return column != "at_ms" or is_moment(value / 1000)


def _attributes(found: Any) -> None:
    if not isinstance(found, dict):
        refuse(f"attributes in it are {str(found)[:40]!r}")
    for key in found:
        _key(key)


def _key(text: Any) -> None:
    _text(text, MOST_KEY)


def _text(text: Any, most: int) -> None:
    if not isinstance(text, str) or len(text) > most or "\0" in text:
        refuse(f"{str(text)[:40]!r} is no text of at most {most} characters")
    text.encode()  # lone surrogates cannot be stored


def _valid_json(value: Any) -> None:
    json.dumps(value, allow_nan=False, ensure_ascii=False).encode()


def _finite(value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not isfinite(value):
        refuse(f"{str(value)[:40]!r} is not a finite number")


def _whole(value: Any, bits: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not -(2**bits) <= value < 2**bits:
        refuse(f"{str(value)[:40]!r} is not a whole number of {bits + 1} bits")


def _stored_float(value: Any, kind: Any) -> None:
    if kind not in FLOATS or (value is None) == (kind == "FINITE"):
        refuse(f"a value in it is {str(value)[:40]!r} of kind {str(kind)[:20]!r}")
    if value is not None:
        _finite(value)
