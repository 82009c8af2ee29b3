"""The studies of the storage: what each is, how far, its best; new, resume, stop, delete."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widget import Widget
from textual.widgets import Static

from tui.glyphs import glyphs
from tui.lanes import done_of
from tui.notices import state_parts, trouble_page
from tui.screens.base import SizedScreen
from tui.text import age_text, cli_command, metric_text, percent, safe_url
from tui.times import moment
from tui.widgets.keybar import KeyBar
from tui.widgets.paint import caption, text
from tui.widgets.table import Cell, Column, WindowTable

if TYPE_CHECKING:
    from qslm_opt.store import StudyRow
    from tui.reader import StudyLine, Trouble

_BAR = 4
_COLUMNS = (
    Column("state", 12),
    Column("study", 12, grow=True),
    Column("task", 13),
    Column("model", 14, drop=2),
    Column("progress", 14),
    Column("best", 16),
    Column("pruned", 8, right=True, drop=3),
    Column("age", 4, right=True, drop=1),
)


class StartScreen(SizedScreen):
    """A list to pick a study from; it keeps itself up to date."""

    NOTES: ClassVar[tuple[str, ...]] = (
        "Every search runs in a process of its own and goes on when the dashboard is closed.",
        "progress: trials that are done, of about so many (~) in all; best: at the study's own λ.",
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n", "app.new_study", "new", id="studies.new", tooltip="Create a study and run it"),
        Binding("r", "app.resume", "resume", id="studies.resume", tooltip="Go on with the study"),
        Binding("x", "app.stop", "stop", id="studies.stop", tooltip="Stop the study, after asking when"),
        Binding("D", "app.delete", "delete", id="studies.delete", tooltip="Delete the study, after asking"),
    ]
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
        self._lines: list[StudyLine] = []
        where = safe_url(self.dash.url)
        self.query_one("#title", Static).update(
            text(
                (" qslm-opt", "bold"),
                ("  studies of ", "dim"),
                (where, ""),
                ("\n enter opens one, n makes one, q quits", "dim"),
            )
        )
        self.query_one("#studies").focus()
        self.refresh_view()

    @property
    def selected(self) -> StudyRow | None:
        """The study under the cursor."""
        at = self.query_one("#studies", WindowTable).cursor
        return self._lines[at].row if at < len(self._lines) else None

    def refresh_view(self) -> None:
        """Show the studies as last read, or why there are none."""
        if not self.is_mounted:
            return
        table, panel = self.query_one("#studies", WindowTable), self.query_one("#studies-panel")
        lines, trouble = self.dash.studies, self.dash.trouble
        hint: list[Cell] = []
        count = len(lines or ())
        panel.border_title = "Studies" if lines is None else f"{count} studies" if count != 1 else "1 study"
        if trouble is not None:
            title, words, then = trouble_page(trouble, self.dash.url, None)
            panel.border_title = caption(title)
            hint = [(words, "infeasible"), ("\n\n" + then, "dim")]
        elif lines is not None and not lines:
            first = cli_command("demo", url=self.dash.url)
            hint = [("No study yet. Press n for a new one, or make a first one in a minute with", "")]
            hint.append(("\n\n" + first, "bold"))
        table.display = not hint
        self.query_one("#hint", Static).update(text(*hint))
        here = self.selected
        self._lines = lines or []
        kept = next((i for i, line in enumerate(self._lines) if here and line.row.uuid == here.uuid), None)
        made = next((i for i, line in enumerate(self._lines) if line.row.name == self.dash.made), None)
        if made is not None:
            kept, self.dash.made = made, None
        now = self.dash.clock()
        table.set_rows(count, lambda i: _row(self._lines[i], now), cursor=kept)

    def on_window_table_picked(self, event: WindowTable.Picked) -> None:
        """Open the study."""
        if event.index < len(self._lines):
            self.dash.open_study(self._lines[event.index].row.name)


def _row(line: StudyLine, now: datetime) -> list[Cell]:
    row, best, signs = line.row, line.best, glyphs()
    word, role = state_parts(row.state)
    metric = "accuracy" if row.spec.metric == "accuracy" else "perplexity"
    found = f"{metric_text(metric, best.value)} {signs.minus}{percent(best.saving)}" if best else "none yet"
    created = moment(row.created)
    return [
        (word, role),
        (row.name, "bold"),
        (row.spec.task, ""),
        (row.spec.model, "dim"),
        _progress(row),
        (f"{signs.best} {found}" if best else found, "best" if best else "dim"),
        (f"{signs.pruned} {(row.counts or {}).get('pruned', 0)}", "dim"),
        (age_text((now - created).total_seconds()) if created else signs.dash, "dim"),
    ]


def _progress(row: StudyRow) -> Cell:
    """Return a bar and the counts of trials, or the count alone where the total is not known."""
    signs = glyphs()
    done = sum(int(part.get("done") or 0) for part in row.progress)
    totals = [part.get("total") for part in row.progress]
    if not totals or any(total is None for total in totals):
        return f"{sum((row.counts or {}).values())} trials", ""
    total = sum(int(total or 0) for total in totals)
    over = row.state in ("finished", "infeasible")
    share = 1.0 if over else min(1.0, done / total) if total else 0.0
    full = int(share * _BAR)
    return f"{signs.full * full}{signs.rest * (_BAR - full)} {done_of(done, total, ended=over)}", ""


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
