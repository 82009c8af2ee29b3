"""The plot of every candidate: metric over memory, with both limits and the λ envelope."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.strip import Strip

from tui.glyphs import glyphs
from tui.plot import Canvas, Chart, Point, draw
from tui.widgets.paint import Painter

if TYPE_CHECKING:
    from qslm_opt.results import TrialRecord
    from tui.model import StudyView


class Scatter(Painter):
    """Plots a study; trials of the sensitivity tier stay out unless they meet both limits."""

    DEFAULT_CSS = "Scatter { width: 1fr; height: 1fr; }"

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._shown: tuple[object, ...] = ()
        self._held: tuple[object, ...] = ()
        self._chart: Chart | None = None
        self._canvas: Canvas | None = None

    def show(self, view: StudyView, winner: TrialRecord | None) -> None:
        """Plot ``view`` with ``winner`` as the best; the same trials and limits are not drawn again."""
        shown = (id(view.candidates), id(winner), view.row.bound, view.row.budget)
        if shown != self._shown:
            self._shown, self._chart, self._canvas = shown, chart_of(view, winner), None
            self._held = view.candidates, winner  # so that their ids are not given to others
            self.refresh()

    def on_resize(self) -> None:
        """Draw anew in the new size."""
        self._canvas = None

    def render_line(self, y: int) -> Strip:
        """Paint one row of the canvas."""
        width, height = self.size
        if self._chart is None or not self._chart.points:
            note = "no candidate yet" if y == height // 2 else ""
            return self.strip([(note[:width].center(width), "dim")], width)
        if self._canvas is None or (self._canvas.width, self._canvas.height) != (width, height):
            self._canvas = draw(self._chart, width, height)
        return self.strip(self._canvas.row(y), width)


def chart_of(view: StudyView, winner: TrialRecord | None) -> Chart:
    """Return what the plot of ``view`` shows."""
    signs = glyphs()
    kinds = {
        ("complete", True): (signs.feasible, "feasible", 2),
        ("complete", False): (signs.infeasible, "infeasible", 1),
        ("pruned", False): (signs.pruned, "pruned", 0),
    }
    points = [
        Point(t.bytes, t.value, *kinds[t.state, t.feasible])
        for t in view.candidates
        if (t.state, t.feasible) in kinds
    ]
    if winner is not None:
        points.append(Point(winner.bytes, winner.value, signs.best, "best", 9))
    path = [(t.bytes, t.value) for _, _, t in view.winners if t.value is not None]
    return Chart(
        points=points,
        path=sorted(path),
        bound=view.row.bound,
        budget=view.row.budget or None,
        higher_is_better=view.metric == "accuracy",
        percent=view.metric == "accuracy",
    )
