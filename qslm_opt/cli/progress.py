"""What a running search says on stderr: one line a trial, or a live bar on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from qslm_opt.cli.output import console, metric_change, metric_value, narrate, size, total_text, watts
from qslm_opt.search.deadline import clock
from qslm_opt.search.verdicts import INTERRUPTED

if TYPE_CHECKING:
    from rich.progress import ProgressColumn, Task

    from qslm_opt.cli.options import ProgressKind
    from qslm_opt.results import Progress, TrialRecord
    from qslm_opt.search.deadline import Deadline


def make_listener(
    kind: ProgressKind, metric: str, baseline: Callable[[], float], deadline: Deadline | None = None
) -> SilentListener:
    """Return the listener of ``--progress``; ``auto`` is a bar on a terminal and lines elsewhere.

    ``baseline`` is asked only after a trial, when the unquantized model was measured.
    """
    if kind == "auto" and not sys.stderr.isatty():
        kind = "plain"
    kinds = {"none": SilentListener, "plain": LineListener, "auto": BarListener}
    return kinds[kind](metric, baseline, deadline)


class SilentListener:
    """Says nothing; the others say more."""

    def __init__(
        self, metric: str, baseline: Callable[[], float], deadline: Deadline | None = None
    ) -> None:
        self._metric, self._baseline, self._deadline = metric, baseline, deadline
        self._total = 0

    def calm(self, number: int, total: int | None) -> int:
        """Return about how many trials there will be, this one counted; 0 where that is not known.

        Estimates fall and rise while a search decides what it asks next. What is shown only falls, until more
        trials than that have been run.
        """
        if total is None:
            return 0
        estimate = max(total, number)
        self._total = min(self._total, estimate) if number <= self._total else estimate
        return self._total

    def left(self) -> str:
        """Return what is left until the deadline, such as ``12:34 left``; empty without one."""
        return "" if self._deadline is None else f"{clock(self._deadline.left())} left"

    def __enter__(self) -> SilentListener:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def on_narrate(self, text: str) -> None:
        """Something to tell."""

    def on_tier(self, tier: str) -> None:
        """A tier begins."""

    def on_trial_start(self, record: TrialRecord, done: int, total_estimate: int | None) -> None:
        """A trial starts."""

    def on_progress(self, progress: Progress) -> None:
        """The running evaluation came further."""

    def on_trial_end(self, record: TrialRecord) -> None:
        """A trial is stored."""


class LineListener(SilentListener):
    """One line a trial."""

    def __init__(
        self, metric: str, baseline: Callable[[], float], deadline: Deadline | None = None
    ) -> None:
        super().__init__(metric, baseline, deadline)
        self._done, self._about = 0, 0

    def on_narrate(self, text: str) -> None:
        """Print it."""
        narrate(text)

    def on_tier(self, tier: str) -> None:
        """Print a heading."""
        narrate(f"tier {tier}")

    def on_trial_start(self, record: TrialRecord, done: int, total_estimate: int | None) -> None:
        """Keep how far the search is for the line that ends the trial."""
        self._done, self._about = done, self.calm(done + 1, total_estimate)

    def on_trial_end(self, record: TrialRecord) -> None:
        """Print what came out."""
        of = f"/~{self._about}" if self._about else ""
        left = f", {self.left()}" if self._deadline is not None else ""
        narrate(f"[{self._done + 1}{of}{left}] {trial_line(record, self._metric, self._baseline())}")


class BarListener(SilentListener):
    """A live bar with the running trial; a line for each new candidate and each tier."""

    def __init__(
        self, metric: str, baseline: Callable[[], float], deadline: Deadline | None = None
    ) -> None:
        super().__init__(metric, baseline, deadline)
        from rich.progress import (
            BarColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=24), self._count(),
            TimeElapsedColumn(), TimeRemainingColumn(), *self._columns(),
            console=console(stderr=True), transient=True,
        )  # fmt: skip
        self._search = self._bar.add_task("search", total=None)
        self._trial = self._bar.add_task("", total=None, visible=False)

    @staticmethod
    def _count() -> ProgressColumn:
        """What is done and of how many: of the search about, of a trial exactly."""
        from rich.progress import ProgressColumn as Column
        from rich.text import Text

        class CountColumn(Column):
            def render(self, task: Task) -> Text:
                done, total = int(task.completed), None if task.total is None else int(task.total)
                return Text(f"{done}/{total_text(done, total, ended=task.id != 0)}")

        return CountColumn()

    def _columns(self) -> list[ProgressColumn]:
        """What is left until the deadline, renewed with the bar."""
        if self._deadline is None:
            return []
        from rich.progress import ProgressColumn as Column
        from rich.text import Text

        left = self.left

        class LeftColumn(Column):
            def render(self, task: Task) -> Text:
                return Text(f"deadline: {left()}" if task.id == 0 else "")

        return [LeftColumn()]

    def __enter__(self) -> BarListener:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def on_narrate(self, text: str) -> None:
        """Print it above the bar."""
        self._bar.console.print(text, soft_wrap=True)

    def on_tier(self, tier: str) -> None:
        """Name the tier before the bar."""
        self._bar.update(self._search, description=tier)

    def on_trial_start(self, record: TrialRecord, done: int, total_estimate: int | None) -> None:
        """Move the search's bar and begin the trial's."""
        self._bar.update(self._search, completed=done, total=self.calm(done + 1, total_estimate) or None)
        tried = f"{record.unit} {record.bits} bits"
        self._bar.reset(self._trial, total=None, visible=True, description=tried)

    def on_progress(self, progress: Progress) -> None:
        """Move the trial's bar."""
        self._bar.update(self._trial, completed=progress.used, total=progress.n)

    def on_trial_end(self, record: TrialRecord) -> None:
        """Print a candidate; hide the trial's bar."""
        self._bar.update(self._trial, visible=False)
        self._bar.advance(self._search)
        if record.feasible:
            self.on_narrate(trial_line(record, self._metric, self._baseline()))


def trial_line(record: TrialRecord, metric: str, baseline: float) -> str:
    """Return a finished trial in one line: what was tried, what it gave, the verdict."""
    tried = f"#{record.number} {record.tier} {record.unit} {record.bits} bits"
    memory = f"{size(record.bytes)} (−{100 * record.saving:.1f} %)"
    if record.cheap and record.loss is not None:
        change = f"loss {record.loss:.5g} nats over {record.share_text}"
        seconds = "" if record.seconds is None else f", {record.seconds:.1f} s"
        return f"{tried}: {change}, {memory}{seconds}"
    if record.value is None:
        return f"{tried}: {memory}, {verdict(record)}"
    judged = "" if record.tier == "sensitivity" and not record.feasible else f", {verdict(record)}"
    value = f"{metric} {metric_value(metric, record.value)}"
    change = metric_change(metric, record.value, baseline)
    seconds = "" if record.seconds is None else f", {record.seconds:.1f} s"
    power = "" if record.power_w is None else f", {watts(record.power_w)}"
    return f"{tried}: {value} ({change}), {memory}{judged}{seconds}{power}"


def verdict(record: TrialRecord) -> str:
    """Return what a finished trial means."""
    if record.state == "failed":
        return "interrupted, runs again" if (record.reason or "").startswith(INTERRUPTED) else "failed"
    if record.cheap:
        return "measured"
    metric, memory = record.slack.get("metric", 0.0) > 0, record.slack.get("memory", 0.0) > 0
    if metric and memory:
        return "both violated"
    if metric:
        return "metric violated"
    if memory:
        return "over the budget"
    return "candidate" if record.feasible else "measured"
