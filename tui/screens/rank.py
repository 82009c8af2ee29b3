"""Screen 2: the candidates in the order of λ, while λ turns."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widget import Widget
from textual.widgets import Static

from qslm_opt.errors import QslmError
from tui.bitmap import bits_lines
from tui.glyphs import glyphs, plain
from tui.keys import LAM_KEYS
from tui.screens.cells import change_cell, room_cell
from tui.screens.study import Pane
from tui.text import (
    bytes_text,
    clip,
    clip_unit,
    lam_text,
    metric_text,
    number_text,
    percent,
    significant,
    state_role,
    state_sign,
)  # fmt: skip
from tui.widgets.paint import text
from tui.widgets.ruler import Ruler
from tui.widgets.table import Cell, Column, WindowTable

if TYPE_CHECKING:
    from qslm_opt.rank import Ranked
    from qslm_opt.results import TrialRecord
    from tui.model import StudyView


def _columns(metric: str) -> tuple[Column, ...]:
    word = "acc" if metric == "accuracy" else "ppl"
    return (
        Column("", 1),
        Column("rank", 4, right=True),
        Column(glyphs().delta, 4, right=True),
        Column("trial", 6, right=True),
        Column(word, 8, right=True),
        Column("memory", 8, right=True),
        Column("saving", 6, right=True),
        Column(f"{word} room", 8, right=True),
        Column("mem room", 8, right=True),
        Column("W", 4, right=True, drop=2),
        Column("tier", 11, drop=3),
        Column("score", 8, right=True),
        Column("unit", 8, drop=4, grow=True, short=clip_unit),
    )


class RankPane(Pane):
    """λ moves the ruler, the table and the plot's best together."""

    FOCUS = "#ranking"
    BINDINGS: ClassVar[list[BindingType]] = [
        *LAM_KEYS,
        Binding(
            "f",
            "app.toggle_feasible",
            "all",
            id="rank.feasible",
            tooltip="Show feasible candidates only, or all",
        ),
        Binding(
            "w",
            "app.follow_winner",
            "winner",
            show=False,
            id="rank.winner",
            tooltip="Choose the winner, whatever λ is",
        ),
    ]
    DEFAULT_CSS = """
    RankPane #ruler-panel { height: 5; }
    RankPane #table-panel { height: 1fr; }
    RankPane #chosen-panel { height: 5; }
    RankPane #chosen { height: 3; }
    """

    def body(self) -> Iterable[Widget]:
        """Return ruler, table and the chosen candidate."""
        with Vertical(classes="panel", id="ruler-panel"):
            yield Ruler()
        with Vertical(classes="panel", id="table-panel"):
            yield WindowTable(_columns("perplexity"), id="ranking")
        with Vertical(classes="panel", id="chosen-panel"):
            yield Static(id="chosen")

    def on_mount(self) -> None:
        """Name the ruler."""
        self._rows: list[Ranked] = []
        self.query_one("#ruler-panel").border_title = f"Who wins for which {glyphs().lam}"

    def show_view(self, view: StudyView) -> None:
        """Rank at the app's λ and show it."""
        dash, table = self.dash, self.query_one("#ranking", WindowTable)
        self._rows = view.ranked(dash.lam, dash.feasible_only)
        self.query_one(Ruler).show(view.winners, dash.lam, view.row.spec.lam)
        table.set_columns(_columns(view.metric))
        table.empty = self._empty(view)
        table.set_rows(len(self._rows), self._row, self._cursor())
        self._titles(view)
        self._show_chosen(view)

    def _row(self, index: int) -> list[Cell]:
        view, row = self.dash.view, self._rows[index]
        assert view is not None
        return _row(view, row, view.places_won(row, self.dash.feasible_only))

    def _empty(self, view: StudyView) -> str:
        if self.dash.feasible_only and view.ended:
            return "nothing feasible yet; f shows all that was measured"
        return "nothing was measured yet"

    def _cursor(self) -> int:
        chosen = self.dash.chosen
        if chosen is None:
            return 0
        return next((i for i, row in enumerate(self._rows) if row.record.number == chosen), 0)

    def _titles(self, view: StudyView) -> None:
        what = "feasible candidates" if self.dash.feasible_only else "measured settings, feasible ones first"
        panel, own = self.query_one("#table-panel"), lam_text(view.row.spec.lam)
        signs = glyphs()
        panel.border_title = f"{len(self._rows)} {what}"
        panel.border_subtitle = (
            f"{signs.delta}: places against {signs.lam} {own}   room: left of the limit, ! past it"
        )

    def _show_chosen(self, view: StudyView) -> None:
        number = self.dash.chosen_number
        record = view.by_number.get(number) if number is not None else None
        panel = self.query_one("#chosen-panel")
        if record is None:
            panel.border_title = "Chosen"
            self.query_one("#chosen", Static).update(
                text(("no candidate to choose yet", "dim")), layout=False
            )
            return
        follows = "the winner" if self.dash.chosen is None else "chosen; w goes back to the winner"
        tried = f"{record.tier} tier, {record.unit} at {record.bits} bits"
        panel.border_title = f"#{record.number}, {follows}: {tried}"
        panel.border_subtitle = plain("enter: all numbers · 3: its bits on the model")
        self.query_one("#chosen", Static).update(
            text(*chosen_runs(view, record, self.app.size.width - 4)), layout=False
        )

    def on_window_table_moved(self, event: WindowTable.Moved) -> None:
        """Choose the candidate under the cursor."""
        event.stop()
        if event.index < len(self._rows):
            self.dash.choose(self._rows[event.index].record.number)

    def on_window_table_picked(self, event: WindowTable.Picked) -> None:
        """Open the candidate."""
        event.stop()
        if event.index < len(self._rows):
            self.dash.open_trial(self._rows[event.index].record.number)

    def on_ruler_turned(self, event: Ruler.Turned) -> None:
        """Set λ to where the ruler was clicked."""
        self.dash.set_lam(event.lam)


def _row(view: StudyView, row: Ranked, won: int) -> list[Cell]:
    record, wins = row.record, row.interval is not None
    first = row.rank == 1 and record.feasible
    mark = glyphs().best if first else state_sign(record)
    role = "best" if first else state_role(record)
    return [
        (mark, role),
        (str(row.rank), "bold" if first else ""),
        change_cell(won),
        (f"#{record.number}", "bold" if wins else ""),
        (metric_text(view.metric, record.value), role),
        (bytes_text(record.bytes), ""),
        (percent(record.saving), ""),
        room_cell(record, "metric"),
        room_cell(record, "memory"),
        (number_text(record.power_w), "dim" if record.power_w is None else ""),
        (record.tier, "dim"),
        (significant(row.score, 5), "bold"),
        (record.unit, "dim"),
    ]


def chosen_runs(view: StudyView, record: TrialRecord, width: int) -> list[Cell]:
    """Return the chosen candidate's bits by block in lines of ``width`` cells."""
    try:
        setting = view.setting(record)
        names, bars, numbers = bits_lines(view.row.hierarchy, setting, width - 7)
    except QslmError as error:
        return [(clip(str(error), width), "failed")]
    if not names:
        return [("bits  ", "dim"), (clip(bars, width - 6), "bar")]
    return [
        ("block ", "dim"),
        (names, "dim"),
        ("\n      ", ""),
        (bars, "bar"),
        ("\nbits  ", "dim"),
        (numbers, ""),
    ]
