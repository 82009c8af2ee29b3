"""Screen 3: the model as a map of bits, of how much each block minds losing them, or of what differs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widget import Widget
from textual.widgets import Static

from qslm_opt.errors import QslmError
from tui.bitmap import Grid, GridCell, bit_grid, diff_grid, sensitivity_grid
from tui.glyphs import glyphs, plain
from tui.keys import LAM_KEYS, PIN_KEYS
from tui.reading import reading_line
from tui.reasons import block_notes
from tui.screens.study import Pane
from tui.text import bytes_text, lam_text, metric_text
from tui.unitfacts import cell_lines
from tui.widgets.gridmap import GridMap
from tui.widgets.paint import caption, text

if TYPE_CHECKING:
    from qslm_opt.results import TrialRecord
    from tui.model import StudyView

_LEAST_LINES, _MOST_LINES = 6, 11
"""For what is known of the cell: on a low terminal, and where there is room."""
_TALL = 28
_BORDER = 2
LAYERS = ("bits", "sensitivity", "difference")


class ModelPane(Pane):
    """Follows the chosen candidate, or the winner while λ turns."""

    FOCUS = GridMap.__name__
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("m", "next_layer", "layer", id="model.layer",
                tooltip="Show bits, sensitivity, or what differs from the pinned one"),
        Binding("n", "app.next_candidate(1)", "next", id="model.next", tooltip="The next candidate by rank"),
        Binding("N", "app.next_candidate(-1)", "previous", show=False, id="model.previous",
                tooltip="The candidate before by rank"),
        *LAM_KEYS[:4],
        *PIN_KEYS,
        Binding("w", "app.follow_winner", "winner", id="model.winner",
                tooltip="Show the winner, whatever λ is"),
    ]  # fmt: skip
    DEFAULT_CSS = """
    ModelPane #reading { height: 1; padding: 0 2; color: $text-muted; }
    ModelPane.-low #reading { display: none; }
    ModelPane #map-panel { height: 1fr; }
    ModelPane #cell { height: 1fr; }
    """
    layer = "bits"
    _room = 0
    """Lines for what is known of the cell."""

    def body(self) -> Iterable[Widget]:
        """Return how the model was read, the map, and what is known of the cell under the cursor."""
        yield Static(id="reading")
        with Vertical(classes="panel", id="map-panel"):
            yield GridMap()
        with Vertical(classes="panel", id="cell-panel"):
            yield Static(id="cell")

    def on_resize(self, event: events.Resize) -> None:
        """Share the lines anew; a low terminal leaves out how the model was read, which the help has too."""
        self.set_class(self.size.height < _TALL, "-low")
        self.call_after_refresh(self.refresh_view)

    def action_next_layer(self) -> None:
        """Change the layer; without a pinned candidate there is no difference to show."""
        layers = LAYERS if self.dash.pinned_trial is not None else LAYERS[:2]
        at = layers.index(self.layer) if self.layer in layers else -1
        self.layer = layers[(at + 1) % len(layers)]
        self.refresh_view()

    def show_view(self, view: StudyView) -> None:
        """Show the layer for the chosen candidate."""
        if self.layer == "difference" and self.dash.pinned_trial is None:
            self.layer = "bits"
        grid = self.query_one(GridMap)
        if self.layer == "sensitivity":
            grid.show(sensitivity_grid(view), "the sensitivity tier has measured nothing yet")
        else:
            grid.show(*self._bits(view))
        self.query_one("#reading", Static).update(
            text((reading_line(view.row, self.size.width - 4), "")), layout=False
        )
        self._titles(view)
        self._share_lines(grid.grid)
        self._show_cell(view, grid.cell)

    def _share_lines(self, grid: Grid) -> None:
        """Give the reasons the lines that the map leaves free, and some in any case."""
        least = _MOST_LINES if self.size.height >= _TALL else _LEAST_LINES
        above = int(self.size.height >= _TALL)  # how the model was read
        free = self.size.height - above - len(grid.rows) - len(grid.header) - 2 * _BORDER
        room = max(least, min(_MOST_LINES, free))
        if room != self._room:
            self._room = room
            self.query_one("#cell-panel").styles.height = room + _BORDER

    def _record(self, view: StudyView) -> TrialRecord | None:
        number = self.dash.chosen_number
        return view.by_number.get(number) if number is not None else None

    def _bits(self, view: StudyView) -> tuple[Grid, str]:
        record, pinned = self._record(view), self.dash.pinned_trial
        if record is None:
            return Grid((), ()), "no candidate yet; m shows the sensitivity of the blocks"
        try:
            setting = view.setting(record)
            if self.layer == "difference" and pinned is not None:
                return diff_grid(view.row.hierarchy, view.setting(pinned), setting), ""
            notes = block_notes(view, record, setting, self.dash.lam)
            return bit_grid(view.row.hierarchy, setting, notes), ""
        except QslmError as error:
            return Grid((), ()), str(error)

    def _titles(self, view: StudyView) -> None:
        panel, record, signs = self.query_one("#map-panel"), self._record(view), glyphs()
        pinned = self.dash.pinned_trial
        if self.layer == "sensitivity":
            panel.border_title = "Sensitivity: rise of the mean loss (nats) with one block at so many bits"
            panel.border_subtitle = "stronger colour: more harm   m: next layer"
            return
        if record is None:
            panel.border_title = "Bits"
            return
        if self.layer == "difference" and pinned is not None:
            against = f"{signs.pin}#{pinned.number} pinned, against #{record.number}"
            panel.border_title = caption(f"Difference: {against}")
            panel.border_subtitle = caption(plain(f"{signs.same} the same   d: numbers   m: next layer"))
            return
        who = "chosen" if self.dash.chosen is not None else f"winner at {signs.lam} {lam_text(self.dash.lam)}"
        who = who if record.feasible else "not feasible"
        numbers = f"{metric_text(view.metric, record.value)}, {bytes_text(record.bytes)}"
        panel.border_title = caption(f"Bits of #{record.number}, {who}: {numbers}")
        panel.border_subtitle = "* the module's own, f float, s sign   m: next layer"

    def on_grid_map_moved(self, event: GridMap.Moved) -> None:
        """Tell about the cell."""
        if self.dash.view is not None:
            self._show_cell(self.dash.view, event.cell)

    def _show_cell(self, view: StudyView, cell: GridCell | None) -> None:
        panel, shown = self.query_one("#cell-panel"), self.query_one("#cell", Static)
        if cell is None or not cell.unit:
            panel.border_title = ""
            shown.update("", layout=False)
            return
        title, lines = cell_lines(view, self._record(view), cell.unit, self.dash.lam)
        panel.border_title = caption(title)
        runs = [run for line in lines[: self._room] for run in (*line, ("\n", ""))]
        shown.update(text(*runs[:-1]), layout=False)
