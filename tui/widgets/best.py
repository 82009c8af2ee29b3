"""The best candidate in a few lines: numbers, bits by block, what holds them, what a larger λ takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.content import Content
from textual.widgets import Static

from qslm_opt.errors import QslmError
from tui.bitmap import bits_bar, bits_lines
from tui.glyphs import glyphs
from tui.held import held_line, interval_text
from tui.notices import closest_text
from tui.text import bytes_text, clip, metric_text, percent, room_text
from tui.why import next_choice, why_line
from tui.widgets.paint import line

if TYPE_CHECKING:
    from qslm_opt.results import TrialRecord
    from tui.model import StudyView

Run = tuple[str, str]


class Best(Static):
    """Shows the winner at the dashboard's λ."""

    _given: tuple[StudyView, float, bool] | None = None
    _lines: tuple[list[Run], ...] = ()

    def show(self, view: StudyView, lam: float, tall: bool) -> None:
        """Show the winner at ``lam``; with ``tall``, its bits by block in three lines."""
        self._given = view, lam, tall
        self._make()

    def on_resize(self) -> None:
        """Fit the lines anew."""
        self._make()

    def _make(self) -> None:
        if self._given is None or not self.size.width:
            return
        before, self._lines = self._lines, tuple(best_lines(*self._given, self.size.width))
        if before != self._lines:
            self.refresh(layout=len(before) != len(self._lines))

    def render(self) -> Content:
        """Paint the lines."""
        return Content("\n").join(line(*runs) for runs in self._lines)


def best_lines(view: StudyView, lam: float, tall: bool, width: int) -> list[list[Run]]:
    """Return the lines about the winner at ``lam``, or about what came closest."""
    best = view.best(lam)
    if best is None:
        words = closest_text(view).strip() or "no candidate yet"
        return [[(clip(words, width), "dim")]]
    lines = [_numbers(view, best, width)]
    if tall:
        lines += _bits(view, best, width)
        why = why_line(view, best, lam)
        if len(why) > width - 6:
            why = why_line(view, best, lam, short=True)
        lines += [[("why   ", "dim"), (clip(why, width - 6), "")]] if why else []
    else:
        lines.append([("bits ", "dim"), (clip(_bar(view, best), width - 5), "bar")])
        why = why_line(view, best, lam, short=True)
        lines += [[("why  ", "dim"), (clip(why, width - 5), "")]] if why else []
    held = held_line(view, best)
    lines += [[("held  " if tall else "held ", "dim"), (clip(held, width - 6), "")]] if held else []
    choice = next_choice(view, lam)
    lines.append([("next  " if tall else "next ", "dim"), (clip(choice, width - 6), "")])
    return lines


def _numbers(view: StudyView, best: TrialRecord, width: int) -> list[Run]:
    signs = glyphs()
    head = f"{signs.best} #{best.number} "
    value = metric_text(view.metric, best.value)
    chance = interval_text(view, best)
    rest = f"{chance}  {bytes_text(best.bytes)} {signs.minus}{percent(best.saving)}"
    word = "acc" if view.metric == "accuracy" else "ppl"
    room = f"  room: {word} {room_text(best, 'metric')}, mem {room_text(best, 'memory')}"
    left = width - len(head) - len(value)
    return [(head, "best"), (value, "bold"), (clip(rest, left), ""),
            (room if len(rest) + len(room) <= left else "", "dim")]  # fmt: skip


def _bits(view: StudyView, best: TrialRecord, width: int) -> list[list[Run]]:
    try:
        names, bars, numbers = bits_lines(view.row.hierarchy, view.setting(best), width - 6)
    except QslmError as error:
        return [[(clip(str(error), width), "failed")]]
    if not names:
        return [[("bits  ", "dim"), (clip(bars, width - 6), "bar")]]
    return [
        [("block ", "dim"), (names, "dim")],
        [("      ", ""), (bars, "bar")],
        [("bits  ", "dim"), (numbers, "")],
    ]


def _bar(view: StudyView, best: TrialRecord) -> str:
    try:
        return bits_bar(view.row.hierarchy, view.setting(best))
    except QslmError as error:
        return str(error)
