"""What the dashboard can set going: a new study, resume, stop, delete. All of it by the command line.

The dashboard itself writes nothing to the storage, and a run that was started here outlives it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING

from textual.worker import Worker, WorkerState

from qslm_opt.safe import printable
from tui import runs
from tui.choosing import ChoosingApp
from tui.widgets.paint import one_line

if TYPE_CHECKING:
    from textual.notifications import SeverityLevel

    from qslm_opt.store import StudyRow
    from tui.reader import StudyLine

_PLAIN = ("--progress", "plain")
_START_SECONDS = 60.0
"""A process of which no more is known than that it was started is believed to be starting so long."""


class RunningApp(ChoosingApp):
    """Starts and stops studies; the answers of commands come as notifications."""

    url: str
    studies: list[StudyLine] | None

    def __init__(self) -> None:
        super().__init__()
        self.runs: list[runs.Run] = []
        """What was started from here and has not ended."""
        self.made: str | None = None
        """The study that was made here last, until the list has shown and selected it."""
        self.begun: str | None = None
        """The study whose process whoever opened the dashboard has just started; None once it runs."""
        self._opened_at = monotonic()

    def notify(
        self,
        message: str,
        *,
        title: str = "",
        severity: SeverityLevel = "information",
        timeout: float | None = None,
        markup: bool = True,
    ) -> None:
        """Show a notification; a name or a command's answer in it cannot steer the terminal."""
        super().notify(
            printable(message), title=one_line(title), severity=severity, timeout=timeout, markup=markup
        )

    def selected(self) -> StudyRow | None:
        """Return the study that an action is about: the one on screen, or under the list's cursor."""
        return self.view.row if self.view is not None else None

    def starting(self, row: StudyRow) -> str:
        """Return that a study's process is on its way, empty unless it was started from here and is."""
        live = row.state not in ("created", "stopped", "dead")
        own = [run for run in self.runs if run.name == row.name]
        for run in own:
            run.began = run.began or live
        if row.name == self.begun and (live or monotonic() - self._opened_at > _START_SECONDS):
            self.begun = None
        if live:
            return ""
        for run in own:
            if not run.began and run.process.poll() is None:
                return f"Starting (process {run.process.pid}): it loads the model and the data."
        if row.name != self.begun:
            return ""
        return f"Starting: its process loads the model and the data; its log is {runs.log_file(row.name)}"

    def offered(self, row: StudyRow) -> tuple[str, ...]:
        """Return the ids of the actions that start or stop the study as it is now."""
        if row.state == "running":
            return ("app.stop",)
        can_start = row.state in ("created", "stopped", "dead") and not self.starting(row)
        return ("app.resume",) if can_start else ()

    def drop_question(self) -> None:
        """Close a question about a running study that does not run any more, and say so."""
        from tui.screens.choice import ChoiceDialog

        asked = next(reversed(self.screen_stack), None)
        if not isinstance(asked, ChoiceDialog) or not asked.running:
            return
        rows = [self.view.row] if self.view is not None else [line.row for line in self.studies or ()]
        row = next((row for row in rows if row.name == asked.running), None)
        if row is not None and row.state != "running":
            asked.action_leave()
            self.notify(f"{row.name} is {row.state}; there is nothing left to stop.", markup=False)

    def follow_runs(self) -> None:
        """Say of runs that were started here and failed; forget those that ended."""
        for run in list(self.runs):
            if run.process.poll() is not None:
                self.runs.remove(run)
                self._work(partial(run.failure, self.url))

    def leave_runs(self) -> None:
        """Let what was started here go on without the dashboard."""
        for run in self.runs:
            runs.leave(run)

    def _start(self, words: list[str], name: str, what: str) -> None:
        try:
            run = runs.start(words, name, self.url)
        except OSError as error:
            self.notify(f"{runs.log_file(name)}: {error.strerror}.", severity="error", markup=False)
            return
        self.runs.append(run)
        self.notify(f"process {run.process.pid}; what it says is in {run.log}", title=what, markup=False)

    def action_new_study(self) -> None:
        """Ask for a new study, then create and run it."""
        from tui.screens.newstudy import Made, NewStudyDialog

        def made(answer: Made | None) -> None:
            if answer is not None:
                self.made = answer[0]
                self._start([*answer[1], *_PLAIN], answer[0], f"Creating {answer[0]}")

        self.push_screen(NewStudyDialog(self.url, [line.row.name for line in self.studies or ()]), made)

    def action_resume(self) -> None:
        """Go on with the selected study, in a process of its own."""
        row = self.selected()
        if row is None:
            return
        if row.state in ("finished", "infeasible"):
            self.notify(f"{row.name} has ended; nothing is left to run.", markup=False)
        elif self.starting(row):
            self.notify(f"{row.name} is starting already.", markup=False)
        elif row.state == "running":
            self.notify(f"{row.name} runs already (process {row.pid} on {row.host}).", markup=False)
        else:
            self._start(["study", "resume", *_PLAIN, "--", row.name], row.name, f"Resuming {row.name}")

    def action_stop(self) -> None:
        """Ask how the selected study shall stop."""
        from tui.screens.choice import stop_question

        row = self.selected()
        if row is None:
            return
        if self.starting(row):
            self.notify(f"{row.name} is starting; it can be stopped once it runs.", markup=False)
            return
        if row.state != "running":
            self.notify(f"{row.name} is not running, it is {row.state}.", markup=False)
            return

        def answered(answer: str | None) -> None:
            if answer == "after":
                self._ask(["study", "stop", "--", row.name])
            elif answer == "now":
                self._work(lambda: runs.stop_now(row, runs.processes(row, self.url)))

        self.push_screen(stop_question(row.name, runs.can_stop_now(row)), answered)

    def action_delete(self) -> None:
        """Ask whether the selected study shall be deleted."""
        from tui.screens.choice import delete_question

        row = self.selected()
        if row is None:
            return
        if row.state == "running":
            self.notify(f"{row.name} is running; stop it first.", severity="warning", markup=False)
            return

        def answered(answer: str | None) -> None:
            if answer == "delete":
                self._ask(["study", "delete", "--yes", "--", row.name])

        self.push_screen(delete_question(row.name, sum(row.counts.values())), answered)

    def _ask(self, words: list[str]) -> None:
        self._work(lambda: runs.ask(words, self.url))

    def _work(self, work: Callable[[], runs.Answer | None]) -> None:
        self.run_worker(work, thread=True, group="commands", exit_on_error=False)

    def on_worker_state_changed(self, event: Worker.StateChanged) -> None:
        """Show what a command said."""
        answer = event.worker.result if event.state is WorkerState.SUCCESS else None
        if isinstance(answer, runs.Answer):
            self.notify(
                answer.text or "done", title=answer.title, timeout=30 if answer.title else None,
                severity="error" if answer.code else "information", markup=False,
            )  # fmt: skip
        elif event.state is WorkerState.ERROR and event.worker.group == "commands":
            self.notify(str(event.worker.error), severity="error", markup=False)
