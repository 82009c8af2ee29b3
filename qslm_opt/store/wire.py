"""What a proxy's wire carries of a storage: studies, trials and power as JSON, errors by their names."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, astuple, fields
from typing import Any

from qslm_opt import errors
from qslm_opt.hierarchy.tree import Hierarchy
from qslm_opt.results import Baseline, Comparison, PowerDevice, PowerSample, PowerWindow, TrialRecord
from qslm_opt.spec import StudySpec
from qslm_opt.store.rows import StudyRow

SERVICE, METHOD = "qslm.Store", "Call"
SCHEMA = 3
"""Version of what is said on the wire; both ends must have the same."""


def encode_study(row: StudyRow) -> dict[str, Any]:
    """Return a study as a JSON-ready object."""
    plain = {field.name: getattr(row, field.name) for field in fields(row)}
    baseline = None if row.baseline is None else row.baseline.to_json()
    return {
        **plain, "spec": row.spec.to_json(), "hierarchy": row.hierarchy.to_json(), "baseline": baseline,
        "held_back": encode_comparisons(row.held_back),
    }  # fmt: skip


def decode_study(value: Mapping[str, Any]) -> StudyRow:
    """Rebuild from ``encode_study``."""
    baseline = value["baseline"]
    made = {
        "spec": StudySpec.from_json(value["spec"]),
        "hierarchy": Hierarchy.from_json(value["hierarchy"]),
        "baseline": None if baseline is None else Baseline.from_json(baseline),
        "held_back": decode_comparisons(value["held_back"]),
    }
    return StudyRow(**{**value, **made})


def encode_comparisons(found: Mapping[str, Comparison]) -> dict[str, Any]:
    """Return digest → comparison as a JSON-ready object."""
    return {digest: comparison.to_json() for digest, comparison in found.items()}


def decode_comparisons(value: Mapping[str, Any]) -> dict[str, Comparison]:
    """Rebuild from ``encode_comparisons``."""
    return {digest: Comparison.from_json(measured) for digest, measured in value.items()}


def encode_trial(record: TrialRecord) -> dict[str, Any]:
    """Return a trial as a JSON-ready object."""
    return asdict(record)


def decode_trial(value: Mapping[str, Any]) -> TrialRecord:
    """Rebuild from ``encode_trial``."""
    return TrialRecord(**value)


def encode_device(device: PowerDevice) -> dict[str, Any]:
    """Return a device as a JSON-ready object."""
    return asdict(device)


def decode_device(value: Mapping[str, Any]) -> PowerDevice:
    """Rebuild from ``encode_device``."""
    return PowerDevice(**value)


def encode_sample(sample: PowerSample) -> list[Any]:
    """Return a sample as a list, in the order of its fields: there are many of them."""
    return list(astuple(sample))


def decode_sample(value: Sequence[Any]) -> PowerSample:
    """Rebuild from ``encode_sample``."""
    named = dict(zip((field.name for field in fields(PowerSample)), value, strict=True))
    return PowerSample(**{**named, "throttle": tuple(named["throttle"])})


def encode_window(window: PowerWindow) -> dict[str, Any]:
    """Return a window as a JSON-ready object."""
    return asdict(window)


def decode_window(value: Mapping[str, Any]) -> PowerWindow:
    """Rebuild from ``encode_window``."""
    return PowerWindow.from_json(value)


def request(method: str, arguments: Mapping[str, Any]) -> bytes:
    """Return the bytes that ask for ``method``."""
    return json.dumps({"schema": SCHEMA, "method": method, "arguments": arguments}).encode()


def answer(methods: Mapping[str, Callable[..., Any]], asked: bytes) -> bytes:
    """Carry out a request with one of ``methods``; return its result, or the error that it raised, as bytes.

    Errors of ours travel by their names; any other with its type and text, and is logged here.
    """
    try:
        value = json.loads(asked)
        _check(value, methods)
        return json.dumps({"value": methods[value["method"]](**value["arguments"])}).encode()
    except errors.QslmError as error:
        return _failure(error)
    except Exception as error:
        logging.getLogger(__name__).exception("a request to the proxy failed")
        return _failure(error)


def _check(value: Mapping[str, Any], methods: Mapping[str, Any]) -> None:
    if value["schema"] != SCHEMA or value["method"] not in methods:
        raise errors.SchemaError(
            f"the proxy speaks version {SCHEMA} and was asked for {value['method']!r} of version "
            f"{value['schema']}; run the same qslm-opt at both ends."
        )


def _failure(error: Exception) -> bytes:
    return json.dumps({"error": type(error).__name__, "text": " ".join(str(error).split())}).encode()


def result(said: bytes) -> Any:
    """Return the result that ``answer`` gave, or raise its error; StorageError for one not of ours."""
    value = json.loads(said)
    if "error" in value:
        kind, text = getattr(errors, value["error"], None), value["text"]
        if isinstance(kind, type) and issubclass(kind, errors.QslmError):
            raise kind(text)
        raise errors.StorageError(
            f"the proxy failed with {value['error']} ({text}); look at what it printed, and run the same "
            "qslm-opt at both ends."
        )
    return value["value"]
