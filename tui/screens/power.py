"""Screen 5: what every device drew, beside the trials, now and at any past moment; windows of the trials."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widget import Widget
from textual.widgets import Static

from tui.glyphs import glyphs, plain
from tui.power import Mark, Power, PowerSpan, marks_of
from tui.screens.study import Pane
from tui.scrub import COARSE, Bounds, Scrub, span_words
from tui.text import clip
from tui.times import seconds_of
from tui.widgets.paint import caption, text
from tui.widgets.powerview import PowerView, moment_words
from tui.windows import trial_at, window_lines

if TYPE_CHECKING:
    from tui.model import StudyView

_POINTS = 400
"""Samples a device on screen: two a column and more."""
_LAST_ENDED = 64
"""Trials of several workers end out of order; the last to end is among so many."""


class PowerPane(Pane):
    """Lanes over one stretch of time, and the window of the trial that is looked at."""

    FOCUS = PowerView.__name__
    POWER: PowerSpan | None = PowerSpan(120.0, None, _POINTS)
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("comma,left,h", "scrub(-1)", "back", id="power.back", key_display=",",
                tooltip="Look at the moment before"),
        Binding("full_stop,right,l", "scrub(1)", "on", id="power.on", key_display=".",
                tooltip="Look at the moment after; past the newest it follows again"),
        Binding("less_than_sign,pageup", f"scrub({-COARSE})", "far back", show=False, id="power.far_back",
                key_display="<", tooltip="Look a quarter of the stretch back"),
        Binding("greater_than_sign,pagedown", f"scrub({COARSE})", "far on", show=False, id="power.far_on",
                key_display=">", tooltip="Look a quarter of the stretch on"),
        Binding("plus,equals_sign", "zoom(True)", "closer", id="power.closer", key_display="+",
                tooltip="Show a shorter stretch of time"),
        Binding("minus", "zoom(False)", "wider", id="power.wider", key_display="-",
                tooltip="Show a longer stretch of time"),
        Binding("n", "trial(1)", "next trial", id="power.next", tooltip="Look at the next trial"),
        Binding("N", "trial(-1)", "trial before", show=False, id="power.previous",
                tooltip="Look at the trial before"),
        Binding("home,g", "edge", "first", show=False, id="power.first",
                tooltip="Look at the begin of the recording"),
        Binding("r,end,G,escape", "follow", "follow", id="power.follow", key_display="r",
                tooltip="Follow the newest sample"),
        Binding("enter", "open", "open", id="power.open", tooltip="Show all numbers of the trial looked at"),
    ]  # fmt: skip
    DEFAULT_CSS = """
    PowerPane #lanes-panel { height: 1fr; }
    PowerPane #window-panel { height: 8; }
    PowerPane #window { height: 6; }
    PowerPane #no-meter { height: 1fr; display: none; }
    PowerPane.-none #no-meter { display: block; }
    PowerPane.-none #power-view, PowerPane.-none #window-panel { display: none; }
    """

    def body(self) -> Iterable[Widget]:
        """Return lanes and the window's numbers."""
        with Vertical(classes="panel", id="lanes-panel"):
            yield PowerView(id="power-view")
            yield Static(id="no-meter")
        with Vertical(classes="panel", id="window-panel"):
            yield Static(id="window")

    def on_mount(self) -> None:
        """Follow at first."""
        self._scrub = Scrub()
        self._number: int | None = None
        self._study = ""

    def on_resize(self, event: events.Resize) -> None:
        """Fit the words anew."""
        self.call_after_refresh(self.refresh_view)

    def _bounds(self, view: StudyView) -> Bounds:
        """Return from when to when the study ran."""
        starts = [seconds_of(t.started) for t in view.trials[:1]]
        starts += [d.started for d in (view.power or Power()).devices if d.started]
        newest = self.dash.clock().timestamp()
        if view.row.state != "running":
            ends = (seconds_of(t.finished) for t in view.ended[-_LAST_ENDED:])
            newest = max((end for end in ends if end), default=newest)
        return Bounds(min((s for s in starts if s), default=newest), newest)

    def show_view(self, view: StudyView) -> None:
        """Show the stretch, and the trial that is looked at."""
        if view.row.uuid != self._study:
            self._study = view.row.uuid
            self._move(Scrub())
        power, scrub, bounds = view.power or Power(), self._scrub, self._bounds(view)
        why = power.why_not() if view.power is not None else "reading the recording"
        self.set_class(bool(why), "-none")
        if why:
            self._say_why(why.rstrip(".") if view.power is not None else "")
            return
        shown = replace(power, since=scrub.since(bounds), until=scrub.until(bounds))
        marks = marks_of(reversed(view.trials), shown.since, shown.until)
        now = bounds.newest if scrub.live and view.row.state == "running" else None
        self.query_one(PowerView).show(shown, marks, now, scrub.at)
        self._titles(view, shown, bounds)
        self._show_window(view, shown, marks)

    def tick(self) -> None:
        """Move the stretch while it follows a search that runs."""
        view = self.dash.view
        if view is not None and view.power is not None and self._scrub.live and view.row.state == "running":
            self.show_view(view)

    def _say_why(self, why: str) -> None:
        """Say why there is nothing to draw, and what to do."""
        self.query_one("#lanes-panel").border_title = "Power"
        self.query_one("#lanes-panel").border_subtitle = ""
        runs = [(f"{why}.\n\n" if why else "Reading the recording.", "")]
        if why:
            runs += [
                ("Energy is never estimated: without a meter it is n/a, here and for every trial.\n", "dim"),
                ("What this machine can measure, and why not more:\n\n", "dim"),
                ("qslm-opt doctor", "bold"),
            ]
        self.query_one("#no-meter", Static).update(text(*((plain(part), role) for part, role in runs)))

    def _titles(self, view: StudyView, shown: Power, bounds: Bounds) -> None:
        panel, scrub, signs = self.query_one("#lanes-panel"), self._scrub, glyphs()
        begin, end = (datetime.fromtimestamp(at).strftime("%H:%M:%S") for at in (shown.since, shown.until))
        if not scrub.live:
            state = f"{signs.cursor} looking back; r follows"
        elif view.row.state == "running":
            state = f"{signs.feasible} live"
        else:
            state = f"{signs.stopped} the recording's end; the study is {view.row.state}"
        panel.border_title = caption(plain(f"{begin} to {end} ({span_words(scrub.seconds)})  {state}"))
        at = "" if scrub.at is None else f"{datetime.fromtimestamp(scrub.at).strftime('%H:%M:%S')}  "
        empty = not any(shown.since <= s.at <= shown.until for kept in shown.samples.values() for s in kept)
        words = self._nothing(bounds) if empty else at + moment_words(shown.lanes(), scrub.at)
        panel.border_subtitle = caption(clip(words, self.app.size.width - 8))

    def _nothing(self, bounds: Bounds) -> str:
        oldest = datetime.fromtimestamp(bounds.oldest).strftime("%Y-%m-%d %H:%M:%S")
        return "no sample yet" if self._scrub.live else f"no sample in this stretch; it begins {oldest}"

    def _show_window(self, view: StudyView, shown: Power, marks: list[Mark]) -> None:
        panel = self.query_one("#window-panel")
        record = trial_at(view, marks, shown.windows, self._scrub.at)
        newest = next((t for t in reversed(view.ended) if t.uuid in shown.windows), None)
        if self._scrub.at is None and newest is not None:
            record = newest
        self._number = None if record is None else record.number
        over = "the newest" if self._scrub.at is None else f"under {glyphs().cursor}"
        panel.border_title = caption(f"Window of #{record.number}, {over}" if record else "Window")
        count = len(shown.windows)
        panel.border_subtitle = caption(f"{count} window{'' if count == 1 else 's'} in this study")
        lines = window_lines(view, record, shown)
        runs = [run for line in lines for run in (*line, ("\n", ""))]
        self.query_one("#window", Static).update(text(*((plain(p), r) for p, r in runs[:-1])), layout=False)

    def _move(self, scrub: Scrub) -> None:
        """Look somewhere else; what is not read yet is asked for."""
        view = self.dash.view
        if scrub == self._scrub or view is None:
            return
        before, self._scrub = self._scrub, scrub
        if scrub.span(_POINTS) != before.span(_POINTS):
            self.POWER = scrub.span(_POINTS)
            self.dash.want_power(self.POWER)
        self.show_view(view)

    def action_scrub(self, steps: int) -> None:
        """Move the cursor by fine steps."""
        if self.dash.view is not None:
            self._move(self._scrub.step(steps, self._bounds(self.dash.view)))

    def action_zoom(self, closer: bool) -> None:
        """Show a shorter or longer stretch."""
        if self.dash.view is not None:
            self._move(self._scrub.zoom(closer, self._bounds(self.dash.view)))

    def action_follow(self) -> None:
        """Follow the newest sample."""
        self._move(self._scrub.follow())

    def action_edge(self) -> None:
        """Look at the begin of the recording."""
        if self.dash.view is not None:
            bounds = self._bounds(self.dash.view)
            self._move(self._scrub.look_at(bounds.oldest, bounds))

    def action_trial(self, by: int) -> None:
        """Look at the middle of the next trial that ran, or of the one before."""
        view = self.dash.view
        if view is None:
            return
        bounds = self._bounds(view)
        here = bounds.newest if self._scrub.at is None else self._scrub.at
        places = [place for t in view.trials if (place := _middle(t.started, t.finished)) is not None]
        ahead = [p for p in places if (p > here + 1e-6 if by > 0 else p < here - 1e-6)]
        if ahead:
            self._move(self._scrub.look_at(min(ahead) if by > 0 else max(ahead), bounds))

    def action_open(self) -> None:
        """Show all numbers of the trial that is looked at."""
        if self._number is not None:
            self.dash.open_trial(self._number)

    def on_power_view_picked(self, event: PowerView.Picked) -> None:
        """Look at the moment that was clicked."""
        if self.dash.view is not None:
            self._move(self._scrub.look_at(event.at, self._bounds(self.dash.view)))


def _middle(began: str | None, ended: str | None) -> float | None:
    start, end = seconds_of(began), seconds_of(ended)
    return None if start is None else start if end is None else (start + end) / 2
