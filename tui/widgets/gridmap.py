"""A heat map with a cursor: bits over blocks and modules, or loss over blocks and bits."""

from __future__ import annotations

from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from tui.bitmap import Grid, GridCell
from tui.text import clip
from tui.widgets.paint import Painter
from tui.widgets.scrollbar import fit_scrollbar

_LABEL = 14
_WIDEST = 14
_BESIDE_NOTES = 8
"""Cell width that is kept where notes stand beside the rows."""
_LEAST_NOTE = 22


class GridMap(ScrollView, Painter, can_focus=True):
    """Shows a Grid; the header stays in sight while the rows scroll."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1,0)", "Up", show=False, id="map.up"),
        Binding("down,j", "move(1,0)", "Down", show=False, id="map.down"),
        Binding("left,h", "move(0,-1)", "Left", show=False, id="map.left"),
        Binding("right,l", "move(0,1)", "Right", show=False, id="map.right"),
        Binding("home,g", "move(-100000,0)", "First block", show=False, id="map.first"),
        Binding("end,G", "move(100000,0)", "Last block", show=False, id="map.last"),
    ]
    DEFAULT_CSS = "GridMap { overflow-x: hidden; overflow-y: auto; scrollbar-size-vertical: 1; height: 1fr; }"

    class Moved(Message):
        """The cursor is on another cell."""

        def __init__(self, cell: GridCell) -> None:
            super().__init__()
            self.cell = cell

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.grid = Grid((), ())
        self.empty = ""
        self._at = (0, 0)
        self._wanted = ""
        """The unit that the user went to; grids of other layers are entered there."""

    def show(self, grid: Grid, empty: str) -> None:
        """Show a grid; ``empty`` is said when it has no row."""
        if grid == self.grid and empty == self.empty:
            return
        self.grid, self.empty = grid, empty
        self._place(*self._place_of(self._wanted))
        self.virtual_size = Size(self.size.width, len(grid.rows) + len(grid.header))
        self.refresh()

    def _place_of(self, unit: str) -> tuple[int, int]:
        """Return (row, column) of a unit, else of the first of its block, else where the cursor is."""
        if not unit or (self.cell is not None and self.cell.unit == unit):
            return self._at
        places = {(r, c): cell.unit for r, (_, cells) in enumerate(self.grid.rows)
                  for c, cell in enumerate(cells)}  # fmt: skip
        block = unit.partition("/")[0]
        exact = [place for place, found in places.items() if found == unit]
        near = [place for place, found in places.items() if found.partition("/")[0] == block]
        return next(iter(exact + near), self._at)

    @property
    def cell(self) -> GridCell | None:
        """The cell under the cursor."""
        row, column = self._at
        cells = self.grid.rows[row][1] if row < len(self.grid.rows) else ()
        return cells[column] if column < len(cells) else None

    def action_move(self, down: int, right: int) -> None:
        """Move the cursor."""
        before = self._at
        self._place(before[0] + down, before[1] + right)
        if self._at != before and self.cell is not None:
            self._wanted = self.cell.unit or self._wanted
            self.refresh()
            self.post_message(self.Moved(self.cell))

    def _place(self, row: int, column: int) -> None:
        row = max(0, min(row, len(self.grid.rows) - 1))
        cells = self.grid.rows[row][1] if self.grid.rows else ()
        self._at = (row, max(0, min(column, len(cells) - 1)))
        page, top = max(1, self.size.height - len(self.grid.header)), int(self.scroll_offset.y)
        if row < top or row >= top + page:
            self.scroll_to(y=row if row < top else row - page + 1, animate=False, immediate=True)

    def on_mount(self) -> None:
        """Fit the scroll bar to the terminal."""
        fit_scrollbar(self)

    def on_resize(self) -> None:
        """Fit the cells anew."""
        self.virtual_size = Size(self.size.width, len(self.grid.rows) + len(self.grid.header))

    def on_click(self, event: events.Click) -> None:
        """A click moves the cursor."""
        row = int(self.scroll_offset.y) + event.y - len(self.grid.header)
        column = (event.x - _LABEL) // self._cell_width()
        if event.y >= len(self.grid.header) and 0 <= row < len(self.grid.rows) and column >= 0:
            self.action_move(row - self._at[0], column - self._at[1])

    def _cell_width(self) -> int:
        columns = self._columns()
        room = self.size.width - _LABEL - (self._note_width() or 0)
        return max(5, min(_WIDEST, room // columns))

    def _columns(self) -> int:
        return max((len(line) for line in self.grid.header), default=1) or 1

    def _note_width(self) -> int:
        """Return the cells for notes, 0 where they find no room beside the map."""
        wanted = max((len(note) for note in self.grid.notes), default=0) + 2
        room = self.size.width - _LABEL - _BESIDE_NOTES * self._columns() - 1
        return min(wanted, room) if wanted > 2 and room >= min(wanted, _LEAST_NOTE) else 0

    def render_line(self, y: int) -> Strip:
        """Paint a header line, or the row that is scrolled to this line."""
        width, cell = self.size.width, self._cell_width()
        if not self.grid.rows:
            return self.strip([(clip(self.empty, width) if y == 1 else "", "dim")], width)
        if y < len(self.grid.header):
            why = "  why" if y == len(self.grid.header) - 1 and self._note_width() else ""
            heads = [(clip(head, cell - 1).center(cell), "head") for head in self.grid.header[y]]
            return self.strip([(" " * _LABEL, ""), *heads, (why, "head")], width)
        index = int(self.scroll_offset.y) + y - len(self.grid.header)
        if index >= len(self.grid.rows):
            return self.strip([], width)
        label, cells = self.grid.rows[index]
        strip = self.strip(
            [(f"{clip(label, _LABEL - 1):<{_LABEL}}", "bold" if index == self._at[0] else "")], _LABEL
        )
        parts = [strip]
        for column, item in enumerate(cells):
            here = (index, column) == self._at
            text = clip(item.text, cell - 1)
            text = f"[{text}]".center(cell) if here and len(text) < cell - 1 else text.center(cell)
            parts.append(self.strip([(text, item.role)], cell, "cursor" if here else None))
        note = self._note_width()
        if note and self.grid.notes[index]:
            used = _LABEL + cell * self._columns()
            parts.append(self.strip([], used - _LABEL - cell * len(cells)))
            parts.append(self.strip([("  " + clip(self.grid.notes[index], note - 2), "dim")], note))
        return Strip.join(parts).adjust_cell_length(width, self.role(""))
