"""The header: one line of facts about the study, one of tabs and the best so far."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.cells import cell_len
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.widgets import Static

from tui.glyphs import glyphs, plain
from tui.notices import state_parts
from tui.text import duration, metric_text, number_text, percent, significant
from tui.widgets.paint import one_line, text

if TYPE_CHECKING:
    from datetime import datetime

    from qslm_opt.results import TrialRecord
    from tui.model import StudyView

Piece = tuple[int, Sequence[tuple[str, str]]]
TABS = (("overview", "Overview"), ("rank", "Rank"), ("model", "Model"), ("trials", "Trials"),
        ("power", "Power"))  # fmt: skip
_WORDS_FROM = 90
"""Below this width the tabs leave no room for the word before the count of candidates."""


class Tab(Static):
    """A screen's name; a click shows it."""

    def __init__(self, mode: str, label: str) -> None:
        super().__init__(f" {label} ")
        self.mode, self._label = mode, label

    def mark(self, on: bool) -> None:
        """Show whether this is the screen in front: by caps around the name, not by colour alone."""
        signs = glyphs()
        caps = (signs.left_cap, signs.right_cap) if on else (" ", " ")
        self.update(text((self._label.join(caps), "bold" if on else "dim")), layout=False)
        self.set_class(on, "-on")

    async def on_click(self) -> None:
        """Show the screen."""
        await self.app.run_action(f"show({self.mode!r})")


class Spread(Static):
    """One line with pieces at both ends; pieces of low weight go when the line is too narrow."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._left: Sequence[Piece] = ()
        self._right: Sequence[Piece] = ()

    def spread(self, left: Sequence[Piece], right: Sequence[Piece]) -> None:
        """Show (weight, runs) pieces; the heaviest stay longest."""
        self._left, self._right = _clean(left), _clean(right)
        self.refresh()

    def render(self) -> Content:
        """Join what fits into the width."""
        width = self.size.width
        left, right = list(self._left), list(self._right)
        while _length(left) + _length(right) > width and len(left) + len(right) > 1:
            side = min((s for s in (left, right) if s), key=lambda s: min(weight for weight, _ in s))
            side.remove(min(side, key=lambda piece: piece[0]))
        gap = max(0, width - _length(left) - _length(right))
        runs = [run for _, piece in left for run in (*piece, ("  ", ""))]
        runs += [(" " * gap, "")] + [run for _, piece in right for run in (("  ", ""), *piece)]
        return text(*(run for run in runs if run[0]))


def _clean(pieces: Sequence[Piece]) -> list[Piece]:
    return [(weight, [(one_line(part), role) for part, role in runs]) for weight, runs in pieces]


def _length(pieces: Sequence[Piece]) -> int:
    return sum(2 + sum(cell_len(part) for part, _ in runs) for _, runs in pieces)


class StatusBar(Vertical):
    """Both header lines."""

    DEFAULT_CSS = """
    StatusBar { height: 2; dock: top; background: $panel; }
    StatusBar Spread { height: 1; width: 1fr; }
    StatusBar Horizontal { height: 1; }
    StatusBar Tab { width: auto; }
    StatusBar Tab.-on { background: $boost; }
    """

    def compose(self) -> ComposeResult:
        """Lay out the two lines."""
        yield Spread(id="facts")
        with Horizontal():
            for number, (mode, title) in enumerate(TABS, start=1):
                yield Tab(mode, f"{number} {title}")
            yield Spread(id="best")

    def mark(self, mode: str) -> None:
        """Mark the tab of the screen in front."""
        for tab in self.query(Tab):
            tab.mark(tab.mode == mode)

    def show(self, view: StudyView, best: TrialRecord | None, now: datetime) -> None:
        """Show the facts of ``view`` at ``now``."""
        self.query_one("#facts", Spread).spread(*_facts(view, best, now))
        self.query_one("#best", Spread).spread([], _best(view, best, self.app.size.width < _WORDS_FROM))


def _facts(view: StudyView, best: TrialRecord | None, now: datetime) -> tuple[list[Piece], list[Piece]]:
    signs, row = glyphs(), view.row
    left: list[Piece] = [(9, [(" " + row.name, "bold")]), (8, [state_parts(row.state)])]
    lane = next((lane for lane in view.lanes if lane.tier == view.tier), None)
    if lane is not None:
        left.append((4, [("tier ", "dim"), (f"{lane.tier} {lane.count}", "")]))
    if row.timesteps is not None:
        left.append((2, [("T ", "dim"), (str(row.timesteps), "")]))
    rates = _rates(view, best)
    if rates:
        left.append((1, [("firing ", "dim"), (rates, "")]))
    if view.trials:
        left.append((3, [("trial ", "dim"), (f"#{view.trials[-1].number}", "")]))
    right: list[Piece] = []
    elapsed = view.elapsed_seconds(now)
    if elapsed is not None:
        right.append((6, [("elapsed ", "dim"), (duration(elapsed), "")]))
    if view.eta_seconds is not None:
        right.append((5, [("ETA ", "dim"), (f"{signs.at_most}{duration(view.eta_seconds)}", "")]))
    return left, right


def _rates(view: StudyView, best: TrialRecord | None) -> str:
    """Return spikes per neuron and step of the unquantized model and of the best; empty where unknown."""
    before = view.row.baseline.firing_rate if view.row.baseline else None
    after = None if best is None else best.firing_rate
    if after is None:
        return "" if before is None else significant(before)
    return plain(f"{number_text(before)} → {significant(after)}")


def _best(view: StudyView, best: TrialRecord | None, narrow: bool) -> list[Piece]:
    signs = glyphs()
    share = f"{len(view.feasible)}/{len(view.candidates)}"
    share = f"{signs.feasible} {share}" if view.feasible else share
    word = "" if narrow and best is not None else "feasible "
    counts: Piece = (5, [(word, "dim"), (share, "feasible" if view.feasible else "")])
    if best is None:
        return [(4, [("best ", "dim"), ("none yet", "dim")]), counts]
    saving = f" {signs.minus}{percent(best.saving)}"
    found = [
        (f"{signs.best} #{best.number} ", "best"),
        (metric_text(view.metric, best.value), "bold"),
        (saving, ""),
    ]
    return [(7, [*found]), counts]
