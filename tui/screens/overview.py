"""Screen 1: how far the search is, what runs, the best, power beside trials, and all candidates."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from textual import events
from textual.containers import Horizontal, Vertical
from textual.widget import Widget

from tui.events import Event, gain_text, why_text
from tui.glyphs import glyphs, plain
from tui.power import Power, PowerSpan, marks_of
from tui.screens.study import Pane
from tui.text import clip_unit, metric_text, state_role, state_sign
from tui.widgets.best import Best
from tui.widgets.paint import caption
from tui.widgets.panels import Lanes, Running
from tui.widgets.powerlane import MEMORY, POWER, PowerLanes
from tui.widgets.scatter import Scatter
from tui.widgets.table import Cell, Column, WindowTable
from tui.widgets.timebar import TimeBar

if TYPE_CHECKING:
    from tui.model import StudyView

_LOG = (
    Column("ended", 5, drop=4),
    Column("", 1),
    Column("trial", 6, right=True),
    Column("unit", 11, short=clip_unit),
    Column("b", 2, right=True, drop=2),
    Column("metric", 7, right=True, drop=3),
    Column("what", 14, grow=True),
)
SPAN = PowerSpan(seconds=120.0)
"""What of the power recording is shown: the last two minutes."""
_TALL = 32
_MOST_LANES = 9


class OverviewPane(Pane):
    """The default screen."""

    FOCUS = "#log"
    _lanes_height = 0
    POWER = SPAN
    NOTES = (
        "Where the time goes: eval runs the model; storage is the rest of a trial; sampler the time between;",
        "idle is a pause of more than 10 s in which no trial ran.",
        "why: the block that keeps the most bits, and the trial that was refused with fewer.",
        "next: from which λ another candidate wins. Power is drawn on 0 to the limit.",
    )
    DEFAULT_CSS = """
    OverviewPane #left, OverviewPane #right { width: 1fr; }
    OverviewPane Lanes, OverviewPane Running, OverviewPane Best, OverviewPane TimeBar { height: auto; }
    OverviewPane .panel { height: auto; }
    OverviewPane #log-panel, OverviewPane #plot { height: 1fr; }
    """

    def body(self) -> Iterable[Widget]:
        """Return tiers, time, what runs and the log on the left; power and the plot on the right."""
        with Horizontal():
            with Vertical(id="left"):
                with Vertical(classes="panel", id="lanes-panel"):
                    yield Lanes()
                with Vertical(classes="panel", id="time-panel"):
                    yield TimeBar()
                with Vertical(classes="panel", id="running-panel"):
                    yield Running()
                    yield Best()
                with Vertical(classes="panel", id="log-panel"):
                    yield WindowTable(_LOG, empty="no trial has ended yet", id="log")
            with Vertical(id="right"):
                with Vertical(classes="panel", id="power-panel"):
                    yield PowerLanes((POWER, MEMORY))
                with Vertical(classes="panel", id="plot"):
                    yield Scatter()

    def on_mount(self) -> None:
        """Name the panels."""
        signs = glyphs()
        titles = (
            ("lanes", "Tiers"), ("running", "Running, and the best so far"), ("log", "Log, newest first"),
            ("power", "Power"), ("time", "Where the time goes (last 20 trials)"),
        )  # fmt: skip
        for panel, title in titles:
            self.query_one(f"#{panel}-panel").border_title = caption(title)
        self.query_one("#running-panel").border_subtitle = "3: why every block"
        legend = f"{signs.feasible} feasible {signs.infeasible} not {signs.pruned} pruned {signs.best} best"
        self.query_one("#plot").border_subtitle = caption(plain(legend))

    def on_resize(self, event: events.Resize) -> None:
        """Leave out what a low terminal has no room for."""
        self.set_class(self.app.size.height < _TALL, "-low")

    def show_view(self, view: StudyView) -> None:
        """Show ``view`` in all panels."""
        word, lam = "Accuracy, %" if view.metric == "accuracy" else "Perplexity", self.dash.lam
        tall = self.app.size.height >= _TALL
        self.query_one("#plot").border_title = caption(f"{word} over memory")
        self.query_one(Lanes).show(view)
        self.query_one(TimeBar).show(view, tall)
        self.query_one(Best).show(view, lam, tall)
        self.query_one(Scatter).show(view, view.best(lam))
        self._show_log(view)
        self._show_power(view)

    def tick(self) -> None:
        """Move the clocks."""
        view = self.dash.view
        if view is not None:
            self.query_one(Running).show(view, self.dash.clock())
            if view.power is not None and view.power.lanes() and view.row.state == "running":
                self._show_power(view)

    def _show_power(self, view: StudyView) -> None:
        power, panel, lanes = (
            view.power or Power(),
            self.query_one("#power-panel"),
            self.query_one(PowerLanes),
        )
        now = self.dash.clock().timestamp() if view.row.state == "running" else None
        if now is not None and power.until:
            power = replace(power, since=now - SPAN.seconds, until=now)
        count = len(power.lanes())
        tall = self.app.size.height >= _TALL
        height = (1, 4 if tall else 2, 5 if tall else 3)[count] if count < 3 else min(count, _MOST_LANES) + 1
        if height != self._lanes_height:
            self._lanes_height = lanes.styles.height = height
        names = dict.fromkeys(lane.device.name for lane in power.lanes())
        panel.border_title = caption(f"Power: {' and '.join(names)}" if names else "Power")
        panel.border_subtitle = caption(_span_words(power, now) if names else "")
        lanes.show(power, marks_of(reversed(view.trials), power.since, power.until), now)

    def _show_log(self, view: StudyView) -> None:
        happened = view.events
        table = self.query_one("#log", WindowTable)
        seen = table.cursor
        if seen and table.count:
            seen += max(0, len(happened) - table.count)
        table.set_rows(len(happened), lambda i: _log_row(view, happened[-1 - i]), cursor=seen)

    def on_window_table_picked(self, event: WindowTable.Picked) -> None:
        """Open the trial."""
        view = self.dash.view
        if view is not None and event.index < len(view.events):
            self.dash.open_trial(view.events[-1 - event.index].trial.number)


def _span_words(power: Power, now: float | None) -> str:
    seconds = f"{power.until - power.since:.0f} s"
    return (
        f"last {seconds} on 0 to the limit" if now is not None else f"the last {seconds} that were recorded"
    )


def _log_row(view: StudyView, event: Event) -> list[Cell]:
    record = event.trial
    if event.begins:
        began = (record.started or "")[11:16]
        return [(began, "dim"), (glyphs().running, "running"), ("tier", "dim"), (event.begins, "bold"),
                ("", ""), ("", ""), ("begins", "")]  # fmt: skip
    role = state_role(record)
    new_best = record.number in view.improvements
    note = gain_text(view.metric, record, event.before) if new_best else why_text(view.metric, record)
    return [
        ((record.finished or "")[11:16], "dim"),
        (glyphs().best if new_best else state_sign(record), "best" if new_best else role),
        (f"#{record.number}", "bold" if new_best else ""),
        (record.unit, "" if record.feasible else "dim"),
        (str(record.bits), ""),
        (metric_text(view.metric, record.value), "best" if new_best else role),
        (plain(note), "best" if new_best else "dim"),
    ]
