"""Screen 3: the model as a map of bits, or of how much each block minds losing them."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widget import Widget
from textual.widgets import Static

from qslm_opt.errors import QslmError
from qslm_opt.evaluate.memory import unit_bytes
from tui.bitmap import Grid, GridCell, bit_grid, sensitivity_grid
from tui.glyphs import glyphs, plain
from tui.keys import LAM_KEYS
from tui.screens.study import Pane
from tui.text import bytes_text, lam_text, metric_text, percent, significant, state_role, state_sign
from tui.widgets.gridmap import GridMap
from tui.widgets.paint import text

if TYPE_CHECKING:
    from qslm_opt.hierarchy.tree import Module
    from qslm_opt.results import TrialRecord
    from qslm_opt.setting import QuantSetting
    from tui.model import StudyView

Run = tuple[str, str]
_TRIED_SHOWN = 6


class ModelPane(Pane):
    """Follows the chosen candidate, or the winner while λ turns."""

    FOCUS = GridMap.__name__
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("m", "toggle_layer", "layer", id="model.layer", tooltip="Show bits, or sensitivity"),
        Binding("n", "app.next_candidate(1)", "next", id="model.next", tooltip="The next candidate by rank"),
        Binding("N", "app.next_candidate(-1)", "previous", show=False, id="model.previous",
                tooltip="The candidate before by rank"),
        *LAM_KEYS[:4],
        Binding("w", "app.follow_winner", "winner", id="model.winner",
                tooltip="Show the winner, whatever λ is"),
    ]  # fmt: skip
    DEFAULT_CSS = """
    ModelPane #map-panel { height: 1fr; }
    ModelPane #cell-panel { height: 5; }
    ModelPane #cell { height: 3; }
    """
    layer = "bits"

    def body(self) -> Iterable[Widget]:
        """Return the map and what is known of the cell under the cursor."""
        with Vertical(classes="panel", id="map-panel"):
            yield GridMap()
        with Vertical(classes="panel", id="cell-panel"):
            yield Static(id="cell")

    def action_toggle_layer(self) -> None:
        """Change the layer."""
        self.layer = "sensitivity" if self.layer == "bits" else "bits"
        self.refresh_view()

    def show_view(self, view: StudyView) -> None:
        """Show the layer for the chosen candidate."""
        grid = self.query_one(GridMap)
        if self.layer == "sensitivity":
            grid.show(sensitivity_grid(view), "the sensitivity tier has measured nothing yet")
        else:
            grid.show(*self._bits(view))
        self._titles(view)
        self._show_cell(view, grid.cell)

    def _record(self, view: StudyView) -> TrialRecord | None:
        number = self.dash.chosen_number
        return view.by_number.get(number) if number is not None else None

    def _bits(self, view: StudyView) -> tuple[Grid, str]:
        record = self._record(view)
        if record is None:
            return Grid((), ()), "no candidate yet; m shows the sensitivity of the blocks"
        try:
            return bit_grid(view.row.hierarchy, view.setting(record)), ""
        except QslmError as error:
            return Grid((), ()), str(error)

    def _titles(self, view: StudyView) -> None:
        panel, record, signs = self.query_one("#map-panel"), self._record(view), glyphs()
        if self.layer == "sensitivity":
            panel.border_title = "Sensitivity: rise of the mean loss (nats) with one block at so many bits"
            panel.border_subtitle = "stronger colour: more harm   m: bits"
            return
        if record is None:
            panel.border_title = "Bits"
            return
        who = "chosen" if self.dash.chosen is not None else f"winner at {signs.lam} {lam_text(self.dash.lam)}"
        who = who if record.feasible else "not feasible"
        numbers = f"{metric_text(view.metric, record.value)}, {bytes_text(record.bytes)}"
        panel.border_title = f"Bits of #{record.number}, {who}: {numbers}"
        panel.border_subtitle = "* the module's own, f float, s sign   m: sensitivity"

    def on_grid_map_moved(self, event: GridMap.Moved) -> None:
        """Tell about the cell."""
        if self.dash.view is not None:
            self._show_cell(self.dash.view, event.cell)

    def _show_cell(self, view: StudyView, cell: GridCell | None) -> None:
        panel = self.query_one("#cell-panel")
        if cell is None or not cell.unit:
            panel.border_title = ""
            self.query_one("#cell", Static).update("", layout=False)
            return
        panel.border_title = cell.unit
        lines = [self._facts(view, cell), tried_runs(view, cell.unit)]
        self.query_one("#cell", Static).update(text(*lines[0], ("\n", ""), *lines[1]), layout=False)

    def _facts(self, view: StudyView, cell: GridCell) -> list[Run]:
        record = self._record(view)
        modules = [m for m in view.row.hierarchy.modules() if cell.unit in (m.unit, m.unit.partition("/")[0])]
        full = sum(4 * t.numel for m in modules for t in m.tensors if t.counted)
        if record is None:
            return [(f"{bytes_text(full)} in fp32", "")]
        setting = view.setting(record)
        packed = _bytes_of(view, setting, modules)
        signs = glyphs()
        saved = f"{signs.minus}{percent(1 - packed / full)}" if full else ""
        formats = dict.fromkeys(str(setting.format_of(m.unit)) for m in modules if m.searched)
        return [
            (", ".join(formats), "bold"),
            (plain(f"  {bytes_text(packed)} of {bytes_text(full)} {saved}"), ""),
            (f"  in #{record.number}", "dim"),
        ]


def _bytes_of(view: StudyView, setting: QuantSetting, modules: list[Module]) -> int:
    sizes = _sizes(view.row.hierarchy, setting.to_json())
    return sum(sizes[m.unit] for m in modules)


@lru_cache(maxsize=4)
def _sizes(hierarchy: object, setting: str) -> dict[str, int]:
    from qslm_opt.setting import QuantSetting

    return unit_bytes(hierarchy, QuantSetting.from_json(setting))  # type: ignore[arg-type]


def tried_runs(view: StudyView, unit: str) -> list[Run]:
    """Return what the trials of this unit and of its block came to, newest first."""
    block = unit.partition("/")[0]
    found = [t for t in view.ended if t.unit in (unit, block) and t.tier in ("block", "module")]
    if not found:
        return [("not tried by itself yet", "dim")]
    runs: list[Run] = [("tried ", "dim")]
    for t in found[::-1][:_TRIED_SHOWN]:
        what = f"{t.bits} bits" if t.unit == unit else f"block {t.bits} bits"
        runs += [
            (f"{state_sign(t)} ", state_role(t)),
            (f"{what} {metric_text(view.metric, t.value)} ", "" if t.feasible else "dim"),
            (f"(#{t.number})  ", "dim"),
        ]
    if len(found) > _TRIED_SHOWN:
        runs.append((f"and {significant(len(found) - _TRIED_SHOWN)} more", "dim"))
    return runs
