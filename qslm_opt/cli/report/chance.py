"""How sure the candidates' metrics are, and what they are on data that the search did not see. Pure.

Both come with the rows of the candidates where the study has them, and are left out where it has not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Interval:
    """A confidence interval of a metric."""

    low: float
    high: float
    level: float
    """0.95 for 95 %."""


@dataclass(frozen=True)
class HeldBack:
    """A candidate's result on held-back data."""

    value: float | None
    """Metric; None when it could not be measured."""
    interval: Interval | None
    change: float | None
    """Against the baseline on the same data: accuracy as a difference, perplexity as a ratio − 1."""
    p: float | None
    """Two-sided p value of there being no change."""
    within: bool | None
    """Whether it meets the bound there, too."""
    n: int | None
    """Sentences or tokens."""
    reason: str
    """Why there is no value."""


def interval(row: Mapping[str, Any] | None) -> Interval | None:
    """Return the interval of a row's metric; None where none is known."""
    low, high = (row or {}).get("ci_low"), (row or {}).get("ci_high")
    if low is None or high is None:
        return None
    return Interval(low, high, (row or {}).get("confidence_level") or 0.95)


def held_back(row: Mapping[str, Any] | None) -> HeldBack | None:
    """Return a row's result on held-back data; None where there is none."""
    found = (row or {}).get("held_back")
    if not isinstance(found, Mapping):
        return None
    return HeldBack(
        found.get("value"), interval(found), found.get("change"), found.get("p_value"),
        found.get("within_bound"), found.get("n"), str(found.get("reason") or ""),
    )  # fmt: skip


def has_intervals(rows: Iterable[Mapping[str, Any]]) -> bool:
    """Return whether any row has an interval."""
    return any(interval(row) is not None for row in rows)


def has_held_back(rows: Iterable[Mapping[str, Any]]) -> bool:
    """Return whether any row was measured on held-back data."""
    return any(held_back(row) is not None for row in rows)
