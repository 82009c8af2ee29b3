"""The rows of the ranking and the lines under it, as text and roles. No Textual."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from qslm_opt.errors import QslmError
from tui.bitmap import bits_lines
from tui.columns import Column
from tui.compare import bytes_change, change_words, changes_between
from tui.glyphs import glyphs, plain
from tui.held import held_line
from tui.noise import gap
from tui.screens.cells import change_cell, room_cell
from tui.text import (
    bytes_text,
    clip,
    clip_unit,
    metric_change,
    metric_text,
    number_text,
    percent,
    significant,
    state_role,
    state_sign,
)  # fmt: skip

if TYPE_CHECKING:
    from qslm_opt.rank import Ranked
    from qslm_opt.results import TrialRecord
    from tui.model import StudyView

Run = tuple[str, str]
_BAR = 4
CONSTRAINTS = ("metric", "memory")


def columns(metric: str) -> tuple[Column, ...]:
    """Return the columns of the ranking; each room stands beside what it is the room of."""
    word = "acc" if metric == "accuracy" else "ppl"
    return (
        Column("", 1),
        Column("rank", 4, right=True),
        Column(glyphs().delta, 3, right=True),
        Column("trial", 6, right=True),
        Column("", 1),
        Column(word, 7, right=True),
        Column("room", 6, right=True),
        Column(word, _BAR, drop=4),
        Column("memory", 8, right=True),
        Column("room", 6, right=True),
        Column("mem", _BAR, drop=3),
        Column("W", 4, right=True, drop=1),
        Column("J", 5, right=True, drop=2),
        Column("score", 7, right=True),
        Column("saving", 6, right=True, drop=5),
        Column("tier", 6, drop=6),
        Column("unit", 11, drop=7, grow=True, short=clip_unit),
    )


def top_rooms(feasible: Sequence[TrialRecord]) -> dict[str, float]:
    """Return constraint → the most room that any feasible candidate has; the bars are full there."""
    return {key: max((-t.slack.get(key, 0.0) for t in feasible), default=0.0) for key in CONSTRAINTS}


def room_bar(record: TrialRecord, key: str, top: float, width: int = _BAR) -> Run:
    """Return a bar of the room against the most room there is; ``!`` all along when it is past the limit."""
    signs, slack = glyphs(), record.slack.get(key)
    if slack is None or (record.value is None and key == "metric"):
        return "", "dim"
    if slack > 0:
        return "!" * width, "infeasible"
    full = round(width * -slack / top) if top > 0 else 0
    full = max(1, full) if slack < 0 else full
    return signs.full * full + signs.rest * (width - full), "bar"


def rank_row(
    view: StudyView, row: Ranked, won: int, tied: bool, pinned: bool, tops: Mapping[str, float]
) -> list[Run]:
    """Return the cells of one candidate."""
    signs, record, wins = glyphs(), row.record, row.interval is not None
    first = row.rank == 1 and record.feasible
    mark = signs.best if first else state_sign(record)
    role = "best" if first else state_role(record)
    return [
        (signs.pin if pinned else mark, "key" if pinned else role),
        (str(row.rank), "bold" if first else ""),
        change_cell(won),
        (f"#{record.number}", "bold" if wins else ""),
        (signs.about if tied else "", "best"),
        (metric_text(view.metric, record.value), role),
        room_cell(record, "metric"),
        room_bar(record, "metric", tops.get("metric", 0.0)),
        (bytes_text(record.bytes), ""),
        room_cell(record, "memory"),
        room_bar(record, "memory", tops.get("memory", 0.0)),
        (number_text(record.power_w), "dim" if record.power_w is None else ""),
        (number_text(record.energy_j), "dim" if record.energy_j is None else ""),
        (significant(row.score, 5), "bold"),
        (percent(record.saving), ""),
        (record.tier, "dim"),
        (record.unit, "dim"),
    ]


def chosen_lines(
    view: StudyView, record: TrialRecord, rows: Sequence[Ranked], pinned: TrialRecord | None, width: int
) -> list[Run]:
    """Return the chosen candidate's bits by block, and how it stands to the pinned one or to the winner."""
    last = _against_pinned(view, pinned, record) if pinned is not None else _against_first(view, rows, record)
    held = held_line(view, record)
    last = f"held back: {held} · {last}" if held else last
    return [*_bits(view, record, width), ("\n", ""), (clip(plain(last), width), "dim")]


def _bits(view: StudyView, record: TrialRecord, width: int) -> list[Run]:
    try:
        setting = view.setting(record)
        names, bars, numbers = bits_lines(view.row.hierarchy, setting, width - 7)
    except QslmError as error:
        return [(clip(str(error), width), "failed")]
    if not names:
        return [("bits  ", "dim"), (clip(bars, width - 6), "bar")]
    return [
        ("block ", "dim"), (names, "dim"), ("\n      ", ""), (bars, "bar"), ("\nbits  ", "dim"), (numbers, "")
    ]  # fmt: skip


def _against_pinned(view: StudyView, pinned: TrialRecord, record: TrialRecord) -> str:
    if pinned.number == record.number:
        return f"{glyphs().pin} pinned: move to another candidate, then d shows what differs"
    metric = metric_change(view.metric, pinned.value, record.value)
    size = bytes_change(pinned.bytes, record.bytes)
    what = change_words(changes_between(view, pinned, record))
    return f"against {glyphs().pin} #{pinned.number}: {view.metric} {metric}, memory {size}; {what}"


def _against_first(view: StudyView, rows: Sequence[Ranked], record: TrialRecord) -> str:
    """Compare with the winner; the winner itself with the second."""
    mine = next((row for row in rows if row.record.number == record.number), None)
    feasible = [row for row in rows[:2] if row.record.feasible]
    other = next((row for row in feasible if row is not mine), None)
    if mine is None or other is None or not record.feasible:
        return ""
    first, second = (mine, other) if mine.rank < other.rank else (other, mine)
    found = gap(view.metric, first, second)
    score = f"{glyphs().delta} score {significant(abs(found.score), 3)}"
    who = f"#{first.record.number} before #{second.record.number}: {score}"
    if found.noise is None:
        return f"{who}, noise n/a: the spread of a perplexity is not stored"
    verdict = "a tie: less than the noise" if found.tied else "more than the noise"
    return f"{who} {glyphs().plus_minus} {significant(found.noise, 2)}, {verdict} of {record.used} sentences"
