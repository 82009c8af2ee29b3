"""The first screen when no study was named: the studies of the storage."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from textual.containers import Vertical
from textual.widget import Widget
from textual.widgets import Static

from tui.glyphs import glyphs
from tui.notices import state_parts, trouble_page
from tui.screens.base import SizedScreen
from tui.text import cli_command, safe_url
from tui.widgets.keybar import KeyBar
from tui.widgets.paint import text
from tui.widgets.table import Cell, Column, WindowTable

if TYPE_CHECKING:
    from qslm_opt.store import StudyRow
    from tui.reader import Trouble

_COLUMNS = (
    Column("state", 13),
    Column("study", 16, grow=True),
    Column("task", 14),
    Column("model", 16, drop=2),
    Column("trials", 7, right=True),
    Column("pruned", 11, drop=3),
    Column("created", 16, drop=1),
)


class StartScreen(SizedScreen):
    """A list to pick a study from; it keeps itself up to date."""

    DEFAULT_CSS = """
    StartScreen #title { height: 2; padding: 0 1; background: $panel; dock: top; }
    StartScreen #studies-panel { height: 1fr; }
    StartScreen #hint { height: auto; }
    """

    def content(self) -> Iterable[Widget]:
        """Return title, table and footer."""
        yield Static(id="title")
        with Vertical(classes="panel", id="studies-panel"):
            yield WindowTable(_COLUMNS, empty="reading the storage", id="studies")
            yield Static(id="hint")
        yield KeyBar()

    def on_mount(self) -> None:
        """Say where the studies are from."""
        super().on_mount()
        self._studies: list[StudyRow] = []
        where = safe_url(self.dash.url)
        self.query_one("#title", Static).update(
            text(
                (" qslm-opt", "bold"),
                ("  studies of ", "dim"),
                (where, ""),
                ("\n enter opens one, q quits", "dim"),
            )
        )
        self.query_one("#studies").focus()
        self.refresh_view()

    def refresh_view(self) -> None:
        """Show the studies as last read, or why there are none."""
        if not self.is_mounted:
            return
        table, panel = self.query_one("#studies", WindowTable), self.query_one("#studies-panel")
        studies = self.dash.studies
        trouble = self.dash.trouble
        hint: list[Cell] = []
        panel.border_title = (
            "Studies" if studies is None else f"{len(studies)} studies" if len(studies) != 1 else "1 study"
        )
        if trouble is not None:
            panel.border_title, words, then = trouble_page(trouble, self.dash.url, None)
            hint = [(words, "infeasible"), ("\n\n" + then, "dim")]
        elif studies is not None and not studies:
            first = cli_command("demo", url=self.dash.url)
            hint = [("No study yet. Make a first one in a minute with", ""), ("\n\n" + first, "bold")]
        table.display = not hint
        self.query_one("#hint", Static).update(text(*hint))
        self._studies = studies or []
        table.set_rows(len(self._studies), lambda i: _row(self._studies[i]))

    def on_window_table_picked(self, event: WindowTable.Picked) -> None:
        """Open the study."""
        if event.index < len(self._studies):
            self.dash.open_study(self._studies[event.index].name)


def _row(row: StudyRow) -> list[Cell]:
    word, role = state_parts(row.state)
    counts = row.counts or {}
    pruned = counts.get("pruned", 0)
    return [
        (word, role),
        (row.name, "bold"),
        (row.spec.task, ""),
        (row.spec.model, "dim"),
        (str(sum(counts.values())), ""),
        (f"{glyphs().pruned} {pruned} pruned", "dim"),
        (row.created[:16].replace("T", " "), "dim"),
    ]


class TroubleScreen(SizedScreen):
    """Shown when nothing of the study could be read at all."""

    DEFAULT_CSS = """
    TroubleScreen { align: center middle; }
    TroubleScreen #trouble { width: 72; height: auto; padding: 1 2; border: round $warning; }
    """

    def content(self) -> Iterable[Widget]:
        """Return the box and the footer."""
        yield Static(id="trouble")
        yield KeyBar()

    def on_mount(self) -> None:
        """Show what there is to say."""
        super().on_mount()
        self.refresh_view()

    def refresh_view(self) -> None:
        """Show the trouble."""
        if self.is_mounted and self.dash.trouble is not None:
            self.query_one("#trouble", Static).update(
                text(*_words(self.dash.trouble, self.dash.url, self.dash.study))
            )


def _words(trouble: Trouble, url: str, name: str | None) -> list[Cell]:
    title, words, then = trouble_page(trouble, url, name)
    return [(title, "infeasible"), ("\n\n", ""), (words, ""), ("\n\n", ""), (then, "dim")]
