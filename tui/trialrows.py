"""The table of trials: its columns, its orders and its rows, as text and roles. No Textual."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tui.columns import Column
from tui.glyphs import glyphs
from tui.screens.cells import room_cell
from tui.text import bytes_text, metric_text, number_text, percent, state_role, state_sign, state_word

if TYPE_CHECKING:
    from qslm_opt.results import TrialRecord
    from tui.model import StudyView

Cell = tuple[str, str]
_INFINITY = float("inf")


def columns(metric: str) -> tuple[Column, ...]:
    """Return the columns; the highest ``drop`` leaves first where the table is narrow."""
    word = "acc" if metric == "accuracy" else "ppl"
    return (
        Column("trial", 6, right=True),
        Column("state", 10),
        Column("tier", 11, drop=2),
        Column("unit", 16, grow=True),
        Column("bits", 4, right=True),
        Column(word, 8, right=True),
        Column("memory", 8, right=True),
        Column("saving", 7, right=True, drop=5),
        Column(f"{word} room", 8, right=True),
        Column("mem room", 8, right=True),
        Column("seconds", 7, right=True, drop=6),
        Column("power W", 7, right=True, drop=8),
        Column("energy J", 8, right=True, drop=9),
        Column("ended", 8, drop=7),
    )


SORTS: Sequence[tuple[str, Callable[[TrialRecord, bool], Any]]] = (
    ("number", lambda t, _: t.number),
    ("metric, best first", lambda t, up: _INFINITY if t.value is None else -t.value if up else t.value),
    ("memory", lambda t, _: t.bytes),
    ("seconds, longest first", lambda t, _: -(t.seconds or 0.0)),
    ("energy, least first", lambda t, _: _INFINITY if t.energy_j is None else t.energy_j),
    ("room, least violation first", lambda t, _: max(t.slack.values(), default=_INFINITY)),
)
"""Orders of the table: name, and key from a trial and whether a higher metric is better."""


def trial_row(view: StudyView, record: TrialRecord, pinned: int | None) -> list[Cell]:
    """Return the cells of one trial."""
    role = state_role(record)
    best = view.best(view.row.spec.lam)
    mark = glyphs().best if best is not None and best.number == record.number else ""
    name = (f"{mark}#{record.number}", "best" if mark else "")
    return [
        (f"{glyphs().pin}#{record.number}", "key") if record.number == pinned else name,
        (f"{state_sign(record)} {state_word(record)}", role),
        (record.tier, "dim"),
        (record.unit, ""),
        (str(record.bits), ""),
        (metric_text(view.metric, record.value), role),
        (bytes_text(record.bytes), ""),
        (percent(record.saving), "dim"),
        room_cell(record, "metric"),
        room_cell(record, "memory"),
        (number_text(record.seconds) if record.seconds is not None else glyphs().dash, "dim"),
        (number_text(record.power_w), "dim"),
        (number_text(record.energy_j), "dim"),
        ((record.finished or "")[11:19], "dim"),
    ]
