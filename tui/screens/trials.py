"""Screen 4: every trial, filtered and sorted, a screenful at a time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.widget import Widget
from textual.widgets import Input, Static

from qslm_opt.errors import UsageError
from tui.filters import HELP, parse_filter
from tui.glyphs import plain
from tui.power import PowerSpan
from tui.report import trial_runs
from tui.screens.study import Pane
from tui.trialrows import SORTS, columns, trial_row
from tui.widgets.paint import caption, text
from tui.widgets.scrollbar import fit_scrollbar
from tui.widgets.table import WindowTable

if TYPE_CHECKING:
    from qslm_opt.results import TrialRecord
    from tui.model import StudyView

_HINT = "tier:block (state:pruned or mem<2.1MB) unit:attention.3 not fmt:int3"
_DETAIL_FROM = 150
"""From this width on the trial under the cursor is shown beside the table."""


class TrialsPane(Pane):
    """The table of all trials."""

    FOCUS = "#trial-table"
    POWER: PowerSpan | None = PowerSpan(1.0, None, 1)  # for the windows of trials
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("/", "filter", "filter", id="trials.filter", tooltip="Filter the trials"),
        Binding("s", "sort", "sort", id="trials.sort", tooltip="Sort by the next thing"),
        Binding("r", "follow", "follow", id="trials.follow", tooltip="Stay on the newest trial"),
        Binding("p", "pin", "pin", id="trials.pin", tooltip="Pin the trial under the cursor, or let it go"),
        Binding("d", "diff", "diff", id="trials.diff", tooltip="Show what differs from the pinned trial"),
        Binding("escape", "clear", "clear", id="trials.clear", tooltip="Leave and empty the filter"),
    ]
    DEFAULT_CSS = """
    TrialsPane #trials-panel { height: 1fr; width: 1fr; }
    TrialsPane #trial-detail { height: 1fr; width: 64; display: none; }
    TrialsPane.-wide #trial-detail { display: block; }
    TrialsPane #trial-detail Static { height: auto; }
    TrialsPane #filter-help { height: auto; max-height: 3; padding: 0 1; display: none; }
    TrialsPane #filter-help.-on { display: block; }
    TrialsPane Input { display: none; border: none; height: 1; padding: 0 1; background: $boost; }
    TrialsPane Input.-on { display: block; }
    """
    follow = False
    sort = 0

    def body(self) -> Iterable[Widget]:
        """Return the filter line and the table."""
        yield Input(placeholder=_HINT, id="filter", compact=True)
        yield Static(id="filter-help")
        with Horizontal():
            with Vertical(classes="panel", id="trials-panel"):
                yield WindowTable(columns("perplexity"), empty="no trial yet", id="trial-table")
            with VerticalScroll(classes="panel", id="trial-detail", can_focus=False):
                yield Static(id="trial-facts")

    def on_mount(self) -> None:
        """Start without a filter."""
        self._rows: list[TrialRecord] = []
        self._problem = ""
        fit_scrollbar(self.query_one("#trial-detail"))

    def on_resize(self, event: events.Resize) -> None:
        """Show the trial beside the table where there is room."""
        self.set_class(event.size.width >= _DETAIL_FROM, "-wide")
        self.call_after_refresh(self.refresh_view)

    def show_view(self, view: StudyView) -> None:
        """Filter, sort and show the trials."""
        table = self.query_one("#trial-table", WindowTable)
        here = self._rows[table.cursor].number if table.cursor < len(self._rows) else None
        written = self.query_one(Input).value
        try:
            wanted, self._problem = parse_filter(written, view.row.hierarchy), ""
            self._rows = [t for t in view.trials if wanted(t)]
        except UsageError as error:
            self._problem = str(error)
        up = view.metric == "accuracy"
        self._rows.sort(key=lambda t: (SORTS[self.sort][1](t, up), t.number))
        newest = max(range(len(self._rows)), key=lambda i: self._rows[i].number, default=0)
        kept = next((i for i, t in enumerate(self._rows) if t.number == here), 0)
        table.set_columns(columns(view.metric))
        table.empty = "no trial matches the filter; escape empties it" if written else "no trial yet"
        pinned = self.dash.pinned
        table.set_rows(
            len(self._rows), lambda i: trial_row(view, self._rows[i], pinned), newest if self.follow else kept
        )
        self._titles(view, written)
        self._show_detail(view)

    def _show_detail(self, view: StudyView) -> None:
        record = self._under_cursor
        panel = self.query_one("#trial-detail")
        if not self.has_class("-wide"):
            return
        panel.border_title = caption(f"Trial #{record.number}" if record else "Trial")
        self.query_one("#trial-facts", Static).update(text(*trial_runs(view, record)) if record else "")

    @property
    def _under_cursor(self) -> TrialRecord | None:
        at = self.query_one("#trial-table", WindowTable).cursor
        return self._rows[at] if at < len(self._rows) else None

    def shown_trials(self, view: StudyView) -> list[TrialRecord]:
        """Return the trials that the filter leaves, in their order."""
        return self._rows

    def _titles(self, view: StudyView, written: str) -> None:
        panel = self.query_one("#trials-panel")
        count = f"{len(self._rows)} of {len(view.trials)}" if written else f"{len(view.trials)}"
        panel.border_title = caption(f"{count} trials by {SORTS[self.sort][0]}")
        follow = "following the newest, r stops" if self.follow else "enter: all numbers of a trial"
        panel.border_subtitle = caption(plain(follow))
        words = (f"{self._problem} The last filter that could be read stays.", "infeasible")
        self.query_one("#filter-help", Static).update(text(words if self._problem else (plain(HELP), "dim")))

    def action_filter(self) -> None:
        """Write a filter."""
        line = self.query_one(Input)
        line.add_class("-on")
        self.query_one("#filter-help").add_class("-on")
        line.focus()

    def action_clear(self) -> None:
        """Empty the filter and go back to the table."""
        line = self.query_one(Input)
        line.value = ""
        line.remove_class("-on")
        self.query_one("#filter-help").remove_class("-on")
        self.query_one("#trial-table").focus()
        self.refresh_view()

    def action_sort(self) -> None:
        """Sort by the next of the orders."""
        self.sort = (self.sort + 1) % len(SORTS)
        self.refresh_view()

    def action_follow(self) -> None:
        """Follow the newest trial, or stop."""
        self.follow = not self.follow
        self.refresh_view()

    def on_input_changed(self) -> None:
        """Filter as it is typed."""
        self.refresh_view()

    def on_input_submitted(self) -> None:
        """Keep the filter and go to the table; a problem stays in sight."""
        if not self._problem:
            self.query_one("#filter-help").remove_class("-on")
            self.query_one("#trial-table").focus()

    def action_pin(self) -> None:
        """Pin the trial under the cursor."""
        if self._under_cursor is not None:
            self.dash.pin(self._under_cursor.number)

    def action_diff(self) -> None:
        """Compare the trial under the cursor with the pinned one."""
        if self._under_cursor is not None:
            self.dash.compare(self._under_cursor.number)

    def on_window_table_moved(self, event: WindowTable.Moved) -> None:
        """Moving by hand stops following."""
        event.stop()
        if self.follow:
            self.action_follow()
        elif self.dash.view is not None:
            self._show_detail(self.dash.view)

    def on_window_table_picked(self, event: WindowTable.Picked) -> None:
        """Open the trial."""
        event.stop()
        if event.index < len(self._rows):
            self.dash.open_trial(self._rows[event.index].number)
