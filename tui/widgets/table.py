"""A table that only ever formats the rows on screen, so that ten thousand trials cost what forty do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from rich.cells import cell_len
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip

from tui.columns import Column as Column
from tui.text import clip
from tui.widgets.paint import Painter, one_line
from tui.widgets.scrollbar import fit_scrollbar

Cell = tuple[str, str]
RowMaker = Callable[[int], Sequence[Cell]]


class WindowTable(ScrollView, Painter, can_focus=True):
    """A virtual table: ``set_rows`` takes a count and a function from index to cells."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Up", show=False, id="table.up"),
        Binding("down,j", "move(1)", "Down", show=False, id="table.down"),
        Binding("pageup", "page(-1)", "Page up", show=False, id="table.page_up"),
        Binding("pagedown", "page(1)", "Page down", show=False, id="table.page_down"),
        Binding("home,g", "first", "First", show=False, id="table.first"),
        Binding("end,G", "last", "Last", show=False, id="table.last"),
        Binding("enter", "pick", "open", id="table.pick", tooltip="Open what is under the cursor"),
    ]
    DEFAULT_CSS = """
    WindowTable { overflow-x: hidden; overflow-y: auto; scrollbar-size-vertical: 1; height: 1fr; }
    """
    cursor = reactive(0)

    class Moved(Message):
        """The user moved the cursor to row ``index``."""

        def __init__(self, table: WindowTable, index: int) -> None:
            super().__init__()
            self.table, self.index = table, index

        @property
        def control(self) -> WindowTable:
            """The table."""
            return self.table

    class Picked(Moved):
        """The user opened row ``index``."""

    def __init__(
        self, columns: Sequence[Column], *, empty: str = "nothing here yet", id: str | None = None
    ) -> None:
        super().__init__(id=id)
        self.columns = tuple(columns)
        self.empty = empty
        self.count = 0
        self._row: RowMaker = lambda _: ()
        self.on_moved: Callable[[int], None] | None = None
        """Called at once with the row that the user moved to, in place of a message.

        For keys that follow at once and act on that row: a message would come after them.
        """

    def set_rows(self, count: int, row: RowMaker, cursor: int | None = None) -> None:
        """Show ``count`` rows made by ``row``; ``cursor`` moves the cursor without a message."""
        self.count, self._row = count, row
        self.virtual_size = Size(self.size.width, count + 1)
        wanted = self.cursor if cursor is None else cursor
        self.set_reactive(WindowTable.cursor, max(0, min(wanted, count - 1)))
        self._reveal()
        self.refresh()

    def set_columns(self, columns: Sequence[Column]) -> None:
        """Replace the columns (their rows must follow by ``set_rows``)."""
        self.columns = tuple(columns)
        self.refresh()

    def watch_cursor(self) -> None:
        """Keep the cursor in sight."""
        self._reveal()
        self.refresh()

    def _reveal(self) -> None:
        page = max(1, self.size.height - 1)
        top = int(self.scroll_offset.y)
        if self.cursor < top:
            self.scroll_to(y=self.cursor, animate=False, immediate=True)
        elif self.cursor >= top + page:
            self.scroll_to(y=self.cursor - page + 1, animate=False, immediate=True)

    def on_mount(self) -> None:
        """Fit the scroll bar to the terminal."""
        fit_scrollbar(self)

    def on_resize(self) -> None:
        """Fit the columns anew."""
        self.virtual_size = Size(self.size.width, self.count + 1)
        self._reveal()

    def action_move(self, by: int) -> None:
        """Move the cursor by so many rows."""
        self._go(self.cursor + by)

    def action_page(self, by: int) -> None:
        """Move the cursor by so many pages."""
        self._go(self.cursor + by * max(1, self.size.height - 2))

    def action_first(self) -> None:
        """Move to the first row."""
        self._go(0)

    def action_last(self) -> None:
        """Move to the last row."""
        self._go(self.count - 1)

    def action_pick(self) -> None:
        """Open the row under the cursor."""
        if self.count:
            self.post_message(self.Picked(self, self.cursor))

    def _go(self, index: int) -> None:
        index = max(0, min(index, self.count - 1))
        if self.count and index != self.cursor:
            self.cursor = index
            if self.on_moved is None:
                self.post_message(self.Moved(self, index))
            else:
                self.on_moved(index)

    def on_click(self, event: events.Click) -> None:
        """One click moves the cursor, two open the row."""
        index = int(self.scroll_offset.y) + event.y - 1
        if event.y >= 1 and 0 <= index < self.count:
            self._go(index)
            if event.chain >= 2:
                self.action_pick()

    def _layout(self) -> list[tuple[int, Column, int]]:
        """Return (position, column, width) of the columns that fit."""
        width = self.scrollable_content_region.width
        kept = list(enumerate(self.columns))
        while sum(c.width + 1 for _, c in kept) > width + 1 and any(c.drop for _, c in kept):
            kept.remove(max(kept, key=lambda part: part[1].drop))
        left = max(0, width - sum(c.width + 1 for _, c in kept) + 1)
        return [(i, c, c.width + (left if c.grow else 0)) for i, c in kept]

    def render_line(self, y: int) -> Strip:
        """Paint the header (line 0) or the row that is scrolled to this line."""
        width, layout = self.size.width, self._layout()
        if y == 0:
            return self.strip(_line([(c.title, "head") for _, c, _ in layout], layout), width)
        index = int(self.scroll_offset.y) + y - 1
        if index >= self.count:
            note = self.empty if not self.count and y == 1 else ""
            return self.strip([(clip(note, width), "dim")], width)
        cells = self._row(index)
        over = None
        if index == self.cursor:
            over = "cursor" if self.has_focus else "cursor-idle"
        return self.strip(_line([cells[i] for i, _, _ in layout], layout), width, over)


def _line(cells: Sequence[Cell], layout: Sequence[tuple[int, Column, int]]) -> list[Cell]:
    runs: list[Cell] = []
    for position, ((text, role), (_, column, width)) in enumerate(zip(cells, layout, strict=True)):
        text = column.short(one_line(text), width)
        pad = " " * max(0, width - cell_len(text))
        gap = " " if position < len(layout) - 1 else ""
        runs.append((pad + text + gap if column.right else text + pad + gap, role))
    return runs
