"""Table cells that several screens share: text and colour role. No Textual."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tui.glyphs import glyphs
from tui.text import room_text

if TYPE_CHECKING:
    from qslm_opt.results import TrialRecord

Cell = tuple[str, str]


def change_cell(places: int) -> Cell:
    """Return how many places a candidate won or lost."""
    signs = glyphs()
    if places == 0:
        return signs.same, "dim"
    return (f"{signs.up}{places}", "feasible") if places > 0 else (f"{signs.down}{-places}", "infeasible")


def room_cell(record: TrialRecord, key: str) -> Cell:
    """Return how much of a limit is left, in the colour of whether it is passed.

    The sensitivity tier is not judged: nothing is amiss when it is past a limit, and no budget is asked. What
    meets both limits all the same is a candidate like any other.
    """
    if record.cheap:
        return glyphs().dash, "dim"
    if record.tier == "sensitivity" and not record.feasible:
        return glyphs().dash if key == "memory" else room_text(record, key), "dim"
    return room_text(record, key), "infeasible" if record.slack.get(key, 0.0) > 0 else ""
