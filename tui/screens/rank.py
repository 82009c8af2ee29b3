"""Screen 2: the candidates in the order of λ, while λ turns."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.widget import Widget
from textual.widgets import Static

from tui.glyphs import glyphs, plain
from tui.keys import LAM_KEYS, PIN_KEYS
from tui.noise import gap
from tui.power import PowerSpan
from tui.ranking import chosen_lines, columns, rank_row, top_rooms
from tui.screens.study import Pane
from tui.text import lam_text
from tui.widgets.paint import caption, text
from tui.widgets.ruler import Ruler
from tui.widgets.scatter import Scatter
from tui.widgets.table import Cell, WindowTable

if TYPE_CHECKING:
    from qslm_opt.rank import Ranked
    from qslm_opt.results import TrialRecord
    from tui.model import StudyView

_PLOT_FROM = 110
"""Below this width the plot folds away; the overview shows it too."""


class RankPane(Pane):
    """λ moves the ruler, the table and the plot's best together."""

    FOCUS = "#ranking"
    POWER: PowerSpan | None = PowerSpan(1.0, None, 1)  # for the windows of trials
    BINDINGS: ClassVar[list[BindingType]] = [
        *LAM_KEYS,
        Binding("f", "app.toggle_feasible", "all", id="rank.feasible",
                tooltip="Show feasible candidates only, or all"),
        *PIN_KEYS,
        Binding("w", "app.follow_winner", "winner", show=False, id="rank.winner",
                tooltip="Choose the winner, whatever λ is"),
    ]  # fmt: skip
    DEFAULT_CSS = """
    RankPane #ruler-panel { height: 5; }
    RankPane #middle { height: 1fr; }
    RankPane #table-panel { height: 1fr; width: 1fr; }
    RankPane #rank-plot { height: 1fr; width: 30%; min-width: 34; display: none; }
    RankPane.-plot #rank-plot { display: block; }
    RankPane #chosen-panel { height: 6; }
    RankPane #chosen { height: 4; }
    """

    def body(self) -> Iterable[Widget]:
        """Return ruler, table, plot and the chosen candidate."""
        with Vertical(classes="panel", id="ruler-panel"):
            yield Ruler()
        with Horizontal(id="middle"):
            with Vertical(classes="panel", id="table-panel"):
                yield WindowTable(columns("perplexity"), id="ranking")
            with Vertical(classes="panel", id="rank-plot"):
                yield Scatter()
        with Vertical(classes="panel", id="chosen-panel"):
            yield Static(id="chosen")

    def on_mount(self) -> None:
        """Name the ruler and the plot."""
        self._rows: list[Ranked] = []
        self._tops: dict[str, float] = {}
        self._measured: tuple[TrialRecord, ...] | None = None
        self.query_one("#ranking", WindowTable).on_moved = self._choose
        signs = glyphs()
        self.query_one("#ruler-panel").border_title = caption(f"Who wins for which {signs.lam}")
        self.query_one("#rank-plot").border_subtitle = caption(f"{signs.best} best at this {signs.lam}")

    def on_resize(self, event: events.Resize) -> None:
        """Show the plot where it does not crowd the table."""
        self.set_class(event.size.width >= _PLOT_FROM, "-plot")
        self.call_after_refresh(self.refresh_view)

    def show_view(self, view: StudyView) -> None:
        """Rank at the app's λ and show it."""
        dash, table = self.dash, self.query_one("#ranking", WindowTable)
        self._rows = view.ranked(dash.lam, dash.feasible_only)
        if self._measured is not view.feasible:
            self._measured, self._tops = view.feasible, top_rooms(view.feasible)
        self.query_one(Ruler).show(view.winners, dash.lam, view.row.spec.lam)
        table.set_columns(columns(view.metric))
        table.empty = self._empty(view)
        table.set_rows(len(self._rows), self._row, self._cursor())
        self._titles(view)
        self._show_chosen(view)
        if self.has_class("-plot"):
            word = "Accuracy, %" if view.metric == "accuracy" else "Perplexity"
            self.query_one("#rank-plot").border_title = caption(f"{word} over memory")
            self.query_one(Scatter).show(view, view.best(dash.lam))

    def shown_trials(self, view: StudyView) -> list[TrialRecord]:
        """Return the candidates in their order."""
        return [row.record for row in self._rows]

    def _row(self, index: int) -> list[Cell]:
        view, row, dash = self.dash.view, self._rows[index], self.dash
        assert view is not None
        tied = index > 0 and row.record.feasible and gap(view.metric, self._rows[0], row).tied
        won = view.places_won(row, dash.feasible_only)
        return rank_row(view, row, won, tied, row.record.number == dash.pinned, self._tops)

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
        panel.border_title = caption(f"{len(self._rows)} {what}")
        ties = f"   {signs.about}: ties with the first" if view.metric == "accuracy" else ""
        panel.border_subtitle = caption(
            f"{signs.delta}: places against {signs.lam} {own}   room: ! past a limit{ties}"
        )

    def _show_chosen(self, view: StudyView) -> None:
        dash, number = self.dash, self.dash.chosen_number
        record = view.by_number.get(number) if number is not None else None
        panel, shown = self.query_one("#chosen-panel"), self.query_one("#chosen", Static)
        if record is None:
            panel.border_title = "Chosen"
            shown.update(text(("no candidate to choose yet", "dim")), layout=False)
            return
        follows = "the winner" if dash.chosen is None else "chosen; w goes back to the winner"
        tried = f"{record.tier} tier, {record.unit} at {record.bits} bits"
        panel.border_title = caption(f"#{record.number}, {follows}: {tried}")
        panel.border_subtitle = caption(plain("enter: all numbers · 3: its bits on the model"))
        lines = chosen_lines(view, record, self._rows, dash.pinned_trial, self.app.size.width - 4)
        shown.update(text(*lines), layout=False)

    def _choose(self, index: int) -> None:
        """Choose the candidate under the cursor."""
        if index < len(self._rows):
            self.dash.choose(self._rows[index].record.number)

    def on_window_table_picked(self, event: WindowTable.Picked) -> None:
        """Open the candidate."""
        event.stop()
        if event.index < len(self._rows):
            self.dash.open_trial(self._rows[event.index].record.number)

    def on_ruler_turned(self, event: Ruler.Turned) -> None:
        """Set λ to where the ruler was clicked."""
        self.dash.set_lam(event.lam)
