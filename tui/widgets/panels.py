"""The text panels of the overview: tier lanes and what is running now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.content import Content
from textual.widgets import Static

from qslm_opt.spec import STRATEGIES
from tui.glyphs import glyphs
from tui.text import clip, clip_unit, duration, metric_text, significant
from tui.times import moment
from tui.widgets.paint import line

if TYPE_CHECKING:
    from datetime import datetime

    from qslm_opt.results import TrialRecord
    from tui.lanes import Lane
    from tui.model import StudyView

Run = tuple[str, str]
_MOST_RUNNING = 3
_TIERS = frozenset(tier for tiers in STRATEGIES.values() for tier in tiers)


class Lanes(Static):
    """One line a tier: a bar of what is done, the counts, and the tier's best candidate."""

    view: StudyView | None = None

    def show(self, view: StudyView) -> None:
        """Show the lanes of ``view``."""
        changed = self.view is None or len(self.view.lanes) != len(view.lanes)
        self.view = view
        self.refresh(layout=changed)

    def render(self) -> Content:
        """Paint one line a lane and one of pace."""
        if self.view is None:
            return Content("")
        width, view = self.size.width, self.view
        lines = _lanes(view, width)
        return Content("\n").join([*(line(*runs) for runs in lines), line((clip(_pace(view), width), "dim"))])


def _lanes(view: StudyView, width: int) -> list[list[Run]]:
    """Return the lanes with counts and bests in columns as wide as their longest."""
    signs = glyphs()
    counts = [lane.count for lane in view.lanes]
    mark = f"{signs.best} " if width >= 44 else ""
    bests = [mark + metric_text(view.metric, lane.best.value) if lane.best else "" for lane in view.lanes]
    count_width, best_width = max(map(len, counts)), max(map(len, bests))
    room = max(3, width - 14 - count_width - best_width - (2 if best_width else 1))
    live = view.row.state == "running"
    return [
        [*_lane(lane, room, live), (f" {count:>{count_width}}", "dim" if lane.state == "waiting" else ""),
         (f" {best:>{best_width}}" if best_width else "", "best")]
        for lane, count, best in zip(view.lanes, counts, bests, strict=True)
    ]  # fmt: skip


def _lane(lane: Lane, room: int, live: bool) -> list[Run]:
    signs = glyphs()
    active = signs.running if live else signs.stopped
    mark, role = {
        "done": (signs.done, "best"),
        "active": (active, "running"),
        "waiting": (signs.waiting, "dim"),
    }[lane.state]
    full = room if lane.state == "done" else _share(lane, room)
    return [
        (f"{mark} ", role),
        (f"{lane.tier:<12}", "bold" if lane.state == "active" else ""),
        (signs.full * full, "bar"),
        (signs.rest * (room - full), "rest"),
    ]


def _share(lane: Lane, room: int) -> int:
    if not lane.total:
        return 0
    part = min(1.0, lane.done / lane.total)
    return min(room - 1, max(int(part * room), 1 if lane.done else 0))


def _pace(view: StudyView) -> str:
    signs, parts = glyphs(), []
    rate = view.trials_per_second
    if rate:
        parts.append(f"{significant(60 * rate, 2)} trials/min")
    if view.remaining and view.row.state == "running":
        parts.append(f"{signs.at_most}{view.remaining} to go")
    failed, pruned = view.ended_by_state["failed"], view.ended_by_state["pruned"]
    if view.ended:
        parts.append(f"{signs.pruned} {pruned} pruned")
    if failed:
        parts.append(f"{signs.failed} {failed} failed")
    return f" {signs.dot} ".join(parts)


def _between(phase: str | None) -> str:
    """Return what is done while no trial runs."""
    if phase == "baseline":
        return "measuring the unquantized baseline"
    return f"{phase} tier: choosing the next trial" if phase in _TIERS else phase or "no trial is running"


class Running(Static):
    """The trials that run now, with the time each has taken so far."""

    _shown: tuple[StudyView, datetime] | None = None

    def show(self, view: StudyView, now: datetime) -> None:
        """Show what runs at ``now``."""
        lines = len(self._lines(view, now)) != (len(self._lines(*self._shown)) if self._shown else 1)
        self._shown = view, now
        self.refresh(layout=lines)

    def render(self) -> Content:
        """Paint one line a trial."""
        if self._shown is None:
            return Content("")
        return Content("\n").join(line(*runs) for runs in self._lines(*self._shown))

    def _lines(self, view: StudyView, now: datetime) -> list[list[Run]]:
        width, live = self.size.width, view.row.state == "running"
        lines = [_running(trial, now, live, width) for trial in view.running[:_MOST_RUNNING]]
        more = len(view.running) - _MOST_RUNNING
        if more > 0:
            lines.append([(f"and {more} more", "dim")])
        return lines or [[(clip(_between(view.row.phase if live else None), width), "dim")]]


def _running(trial: TrialRecord, now: datetime, live: bool, width: int) -> list[Run]:
    signs, began = glyphs(), moment(trial.started)
    time = duration((now - began).total_seconds()) if began and live else "not finished"
    what = f"{trial.tier}, {trial.bits} bits" if trial.unit else "being chosen"
    room = max(0, width - len(time) - len(str(trial.number)) - 5)
    unit = clip_unit(trial.unit, room)
    return [
        (f"{signs.running if live else signs.stopped} #{trial.number} ", "running" if live else "dim"),
        (f"{time} ", ""),
        (unit, "bold"),
        (clip(f" {what}", max(0, room - len(unit))), "dim"),
    ]
