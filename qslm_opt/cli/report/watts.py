"""Power and energy of the candidates, as a meter read them; nothing is estimated. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qslm_opt.cli.facts import StudyFacts
    from qslm_opt.rank import Ranked
    from qslm_opt.results import PowerDevice, PowerWindow

MOST_ROWS = 20
"""Candidates that are shown: the first so many of the ranking that have a measurement."""


@dataclass(frozen=True)
class PowerRow:
    """One measured setting."""

    trial: int | None
    """None: the unquantized baseline."""
    rank: int | None
    mean_w: float
    std_w: float | None
    """Standard deviation of the samples in the window; None where only the mean was kept."""
    idle_w: float | None
    item_j: float | None
    """Joules per token or sentence."""
    samples: int | None
    steady: bool | None

    @property
    def name(self) -> str:
        """How the figure and the table call it."""
        return "baseline" if self.trial is None else f"trial {self.trial}"


@dataclass(frozen=True)
class Power:
    """What the paper's Fig. 10 shows, and why where it cannot."""

    rows: tuple[PowerRow, ...]
    """The baseline where it was measured, then candidates, best first."""
    measured: int
    """Candidates with a measurement, those that are not shown included."""
    sources: tuple[str, ...]
    """Names of the meters."""
    why_not: str
    """Why nothing was measured; empty where something was."""

    @property
    def baseline(self) -> PowerRow | None:
        """The unquantized model's row."""
        return next((row for row in self.rows if row.trial is None), None)


def power(
    facts: StudyFacts, windows: Mapping[str, PowerWindow], devices: Sequence[PowerDevice]
) -> Power:
    """Return what was measured; the baseline's window goes by the study's own uuid."""
    found = [row for entry in facts.ranked if (row := _row(entry, windows.get(entry.record.uuid)))]
    own = windows.get(facts.row.uuid)
    rows = [*([_of_window(None, None, own)] if own else []), *found[:MOST_ROWS]]
    meters = dict.fromkeys(f"{d.name or d.device} by {d.source}" for d in devices if d.source != "null")
    return Power(tuple(rows), len(found), tuple(meters), "" if rows else _why_not(facts, devices))


def _row(entry: Ranked, window: PowerWindow | None) -> PowerRow | None:
    t = entry.record
    if window is not None:
        return _of_window(t.number, entry.rank, window)
    if t.power_w is None:
        return None
    item = t.energy_j / t.used if t.energy_j is not None and t.used else None
    return PowerRow(t.number, entry.rank, t.power_w, None, None, item, None, None)


def _of_window(trial: int | None, place: int | None, window: PowerWindow) -> PowerRow:
    return PowerRow(
        trial, place, window.mean_w, window.std_w, window.idle_w, window.item_j, window.samples, window.steady
    )


def _why_not(facts: StudyFacts, devices: Sequence[PowerDevice]) -> str:
    reasons = dict.fromkeys(d.reason for d in devices if d.reason)
    if reasons:
        return "; ".join(reasons)
    if not devices:
        return "no run of this study looked for a meter"
    return "no candidate was measured" if facts.ranked else "there is no candidate to measure"
