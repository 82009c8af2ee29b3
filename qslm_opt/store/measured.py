"""What a study file may say of moments, power windows and comparisons: else no command could read it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from math import isfinite
from typing import Any

from qslm_opt.results import Comparison, PowerWindow

LATEST = 1e11
"""Seconds since 1970 of the latest moment, in the year 5138: what every calendar can write."""
LARGEST = 1e15
"""Largest number of watts, joules, seconds, bytes or items: sums and products of such stay finite."""
_AT_LEAST = {
    "samples": 0, "repeats": 1, "items": 0, "run_items": 1, "memory_bytes": 0, "n": 1,
    "correct": 0, "windows": 1,
}  # fmt: skip


def is_moment(value: Any) -> bool:
    """Return whether ``value`` is seconds since 1970, from then to ``LATEST``."""
    return _is_float(value) and 0 <= value <= LATEST


def _is_float(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= LARGEST and isfinite(value)


def _is_int(value: Any) -> bool:
    return type(value) is int and abs(value) <= LARGEST


def _is_texts(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(type(part) is str for part in value)


KINDS: Mapping[str, Callable[[Any], bool]] = {
    "None": lambda value: value is None,
    "str": lambda value: type(value) is str,
    "bool": lambda value: type(value) is bool,
    "int": _is_int,
    "float": _is_float,
    "tuple[str, ...]": _is_texts,
}
"""Type of a field as PowerWindow writes it → whether a decoded value is one."""


def window_fault(measured: Any) -> str:
    """Return what is wrong with the JSON of a PowerWindow, in words; empty when it can be read and shown."""
    return _fault(measured, PowerWindow, "a power window")


def comparison_fault(measured: Any, items: Any) -> str:
    """Return what is wrong with the JSON of a Comparison and its Items, in words; empty when all is well."""
    fault = _fault(measured, Comparison, "a comparison")
    if fault or items is None:
        return fault
    from qslm_opt.items import Items

    try:
        Items.from_json(items)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"the items of a comparison cannot be read ({error})"
    return ""


def _fault(measured: Any, made: type[PowerWindow] | type[Comparison], what: str) -> str:
    """Return what is wrong with the JSON of one of ``made``, in words; empty when it can be shown."""
    if not isinstance(measured, dict):
        return f"{what} is no object"
    for field in fields(made):
        value = measured.get(field.name)
        if field.name not in measured:
            if field.default is MISSING:
                return f"{what} has no {field.name!r}"
        elif not any(KINDS[kind](value) for kind in str(field.type).split(" | ")):
            return f"{field.name!r} of {what} is {str(value)[:40]!r}"
        elif value is not None and not _in_range(field.name, value):
            return f"{field.name!r} of {what} is out of range at {value}"
    return ""


def _in_range(name: str, value: Any) -> bool:
    if name in ("began", "ended"):
        return is_moment(value)
    return name not in _AT_LEAST or value >= _AT_LEAST[name]
