"""What leaves the dashboard: the equal command line, pictures, exports, and the help about a screen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from textual.screen import Screen

from qslm_opt.safe import file_stem, printable
from tui.keys import key_lines
from tui.reading import reading_notes
from tui.running import RunningApp
from tui.screens.base import SizedScreen
from tui.screens.dialogs import HelpDialog
from tui.screens.study import Pane, StudyScreen
from tui.text import cli_command, exact_lam, study_command
from tui.widgets.paint import one_line

if TYPE_CHECKING:
    from datetime import datetime

    from qslm_opt.results import TrialRecord


class SharingApp(RunningApp):
    """Copies, saves and explains what is on screen; files go into the working directory."""

    study: str | None
    pane: str
    clock: Callable[[], datetime]

    @property
    def base_screen(self) -> Screen[object] | None:
        """The screen under any dialog; None while the app closes."""
        return next(iter(self.screen_stack), None)

    def action_export(self) -> None:
        """Ask in which form what is shown shall be written, and write it."""
        from tui.screens.choice import export_question

        if self.view is None:
            self.action_save_svg()
            return
        self.push_screen(export_question(f"what screen {self.pane} shows"), self._export)

    def _export(self, form: str | None) -> None:
        from tui.export import to_csv, to_json

        if form == "svg":
            self.call_after_refresh(self.action_save_svg)
        elif form is not None and self.view is not None:
            trials = self._shown_trials()
            whole = to_json(self.view, self.pane, self.lam, self.chosen_number, trials)
            self._write(form, to_csv(trials) if form == "csv" else whole)

    def _shown_trials(self) -> Sequence[TrialRecord]:
        screen = self.base_screen
        pane = screen.pane if isinstance(screen, StudyScreen) else None
        if self.view is None or pane is None:
            return ()
        return pane.shown_trials(self.view)

    def command(self) -> str:
        """Return the command line that says the same as this screen."""
        if self.study is None:
            return cli_command("study", "list", url=self.url)
        if self.pane == "rank":
            return study_command("candidates", self.study, "--lambda", exact_lam(self.lam), url=self.url)
        return study_command("show", self.study, url=self.url)

    def action_copy_command(self) -> None:
        """Copy the equal command line."""
        self.copy_to_clipboard(printable(self.command()))  # a terminal obeys what is pasted into it
        self.notify(self.command(), title="Copied", markup=False)

    def action_save_svg(self) -> None:
        """Save the screen as an SVG in the working directory."""
        self._write("svg", self.export_screenshot(title=self.picture_title()))

    def _write(self, form: str, content: str) -> None:
        stem = file_stem(self.study or "qslm-opt")
        path = Path(f"{stem}-{self.pane}-{self.clock():%Y%m%d-%H%M%S}.{form}")
        try:
            path.write_text(content, encoding="utf-8")
        except OSError as error:
            self.notify(f"{path} cannot be written: {error.strerror}.", severity="error", markup=False)
            return
        self.notify(str(path.absolute()), title="Saved", markup=False)

    def picture_title(self) -> str:
        """Return the title of an exported picture."""
        return one_line(f"qslm-opt {self.study or ''}").strip()

    def action_help(self) -> None:
        """Show what the study is, the keys of this screen and the signs."""
        screen = self.base_screen
        part = screen.pane if isinstance(screen, StudyScreen) else screen
        name = self.pane if isinstance(screen, StudyScreen) else "studies"
        notes = part.NOTES if isinstance(part, (Pane, SizedScreen)) else ()
        if self.view is not None:
            notes = (*reading_notes(self.view.row), *(("", *notes) if notes else ()))
        self.push_screen(HelpDialog(key_lines(self, self.screen), f"Help: {name}", notes))
