"""The window that compares the pinned trial with another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.widgets import Static

from tui.compare import diff_runs
from tui.screens.dialogs import Dialog
from tui.widgets.paint import caption, text

if TYPE_CHECKING:
    from qslm_opt.results import TrialRecord
    from tui.model import StudyView


class DiffDialog(Dialog):
    """Numbers side by side, then every unit whose format differs."""

    def __init__(self, view: StudyView, before: TrialRecord, after: TrialRecord) -> None:
        super().__init__()
        self._view, self._before, self._after = view, before, after

    def compose(self) -> ComposeResult:
        """Yield the comparison."""
        with VerticalScroll(classes="box") as box:
            box.border_title = caption(f"#{self._before.number} (pinned) against #{self._after.number}")
            box.border_subtitle = "escape closes"
            yield Static(text(*diff_runs(self._view, self._before, self._after)))
