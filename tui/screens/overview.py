"""Screen 1: how far the search is, what runs, what came out, and all candidates on one plot."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from textual.containers import Horizontal, Vertical
from textual.widget import Widget

from tui.glyphs import glyphs, plain
from tui.notices import pruned_why
from tui.screens.study import Pane
from tui.text import clip_unit, metric_text, percent, state_role, state_sign
from tui.widgets.panels import Lanes, Running
from tui.widgets.scatter import Scatter
from tui.widgets.table import Cell, Column, WindowTable

if TYPE_CHECKING:
    from qslm_opt.results import TrialRecord
    from tui.model import StudyView

_LOG = (
    Column("ended", 5, drop=2),
    Column("", 1),
    Column("trial", 5, right=True),
    Column("unit", 11, grow=True, short=clip_unit),
    Column("bits", 4, right=True),
    Column("metric", 8, right=True),
    Column("saving", 7, right=True, drop=4),
    Column("note", 14, drop=3),
)


class OverviewPane(Pane):
    """The default screen."""

    FOCUS = "#log"
    DEFAULT_CSS = """
    OverviewPane #left { width: 1fr; }
    OverviewPane #plot { width: 1fr; }
    OverviewPane Lanes, OverviewPane Running { height: auto; }
    OverviewPane .panel { height: auto; }
    OverviewPane #log-panel { height: 1fr; }
    OverviewPane #plot { height: 1fr; }
    """

    def body(self) -> Iterable[Widget]:
        """Return lanes, running trials and log on the left, the plot on the right."""
        with Horizontal():
            with Vertical(id="left"):
                with Vertical(classes="panel", id="lanes-panel"):
                    yield Lanes()
                with Vertical(classes="panel", id="running-panel"):
                    yield Running()
                with Vertical(classes="panel", id="log-panel"):
                    yield WindowTable(_LOG, empty="no trial has ended yet", id="log")
            with Vertical(classes="panel", id="plot"):
                yield Scatter()

    def on_mount(self) -> None:
        """Name the panels."""
        signs = glyphs()
        for panel, title in (("lanes", "Tiers"), ("running", "Running"), ("log", "Trials, newest first")):
            self.query_one(f"#{panel}-panel").border_title = title
        legend = f"{signs.feasible} feasible {signs.infeasible} not {signs.pruned} pruned {signs.best} best"
        self.query_one("#plot").border_subtitle = plain(legend)

    def show_view(self, view: StudyView) -> None:
        """Show ``view`` in all panels."""
        word = "Accuracy, %" if view.metric == "accuracy" else "Perplexity"
        self.query_one("#plot").border_title = f"{word} over memory"
        self.query_one(Lanes).show(view)
        self.query_one(Scatter).show(view, view.best(self.dash.lam))
        self._show_log(view)

    def tick(self) -> None:
        """Move the clocks."""
        if self.dash.view is not None:
            self.query_one(Running).show(self.dash.view, self.dash.clock())

    def _show_log(self, view: StudyView) -> None:
        ended = view.ended
        table = self.query_one("#log", WindowTable)
        seen = table.cursor
        if seen and table.count:
            seen += max(0, len(ended) - table.count)
        table.set_rows(len(ended), lambda i: _log_row(view, ended[len(ended) - 1 - i]), cursor=seen)

    def on_window_table_picked(self, event: WindowTable.Picked) -> None:
        """Open the trial."""
        view = self.dash.view
        if view is not None and event.index < len(view.ended):
            self.dash.open_trial(view.ended[len(view.ended) - 1 - event.index].number)


def _log_row(view: StudyView, record: TrialRecord) -> list[Cell]:
    role = state_role(record)
    new_best = record.number in view.improvements
    note = "new best" if new_best else pruned_why(record, view.metric)
    return [
        ((record.finished or "")[11:16], "dim"),
        (glyphs().best if new_best else state_sign(record), "best" if new_best else role),
        (f"#{record.number}", "bold" if new_best else ""),
        (record.unit, "" if record.feasible else "dim"),
        (str(record.bits), ""),
        (metric_text(view.metric, record.value), "best" if new_best else role),
        (percent(record.saving), "dim"),
        (plain(note), "best" if new_best else "dim"),
    ]
