"""A character canvas and the scatter drawn on it: metric over memory. No Textual, so it is tested as text.

A cell is a sign and a colour role; where marks fall on one cell the more important one stays. Trials whose
metric is unknown (pruned) or far off the scale lie on a rail at the worse edge, so that none is hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import log10
from typing import NamedTuple

from tui.glyphs import Glyphs, glyphs
from tui.text import byte_unit, significant
from tui.ticks import byte_ticks, linear_ticks, tick_label

Cell = tuple[str, str]
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))


class Point(NamedTuple):
    """One trial on the plot."""

    x: float
    """Bytes."""
    y: float | None
    """Metric; None puts it on the rail of the unmeasured."""
    sign: str
    role: str
    weight: int
    """Which of two marks on one cell stays: the higher."""


@dataclass(frozen=True)
class Chart:
    """What is drawn."""

    points: Sequence[Point]
    path: Sequence[tuple[float, float]] = ()
    """Corners of the λ envelope: (bytes, metric)."""
    bound: float | None = None
    """The metric's limit: a horizontal line."""
    budget: float | None = None
    """The memory limit in bytes: a vertical line."""
    higher_is_better: bool = True
    percent: bool = False


class Canvas:
    """A grid of cells with priorities; braille dots form a layer of their own."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self._cells: list[list[Cell]] = [[(" ", "")] * width for _ in range(height)]
        self._weights = [[-1] * width for _ in range(height)]
        self._dots: dict[tuple[int, int], int] = {}

    def put(self, x: int, y: int, sign: str, role: str, weight: int = 0) -> None:
        """Draw one sign unless something of a higher weight is there; outside is ignored."""
        if 0 <= x < self.width and 0 <= y < self.height and weight >= self._weights[y][x]:
            self._cells[y][x] = (sign, role)
            self._weights[y][x] = weight

    def text(self, x: int, y: int, text: str, role: str, weight: int = 50) -> None:
        """Write a text to the right of (x, y)."""
        for offset, sign in enumerate(text):
            self.put(x + offset, y, sign, role, weight)

    def line(self, start: tuple[float, float], end: tuple[float, float], role: str) -> None:
        """Draw a braille line between two points in cells (fractions allowed), under every other mark."""
        steps = max(1, int(max(abs(end[0] - start[0]) * 2, abs(end[1] - start[1]) * 4)))
        for i in range(steps + 1):
            x = start[0] + (end[0] - start[0]) * i / steps
            y = start[1] + (end[1] - start[1]) * i / steps
            cell = (int(x), int(y))
            bit = _DOTS[int((y - cell[1]) * 4)][int((x - cell[0]) * 2)]
            self._dots[cell] = self._dots.get(cell, 0) | bit
            self.put(*cell, chr(0x2800 + self._dots[cell]), role, 2)

    def row(self, y: int) -> list[Cell]:
        """Return the runs of one row: neighbouring cells of one role are joined."""
        runs: list[Cell] = []
        for sign, role in self._cells[y]:
            if runs and runs[-1][1] == role:
                runs[-1] = (runs[-1][0] + sign, role)
            else:
                runs.append((sign, role))
        return runs

    def rows(self) -> list[str]:
        """Return the rows as plain text."""
        return ["".join(sign for sign, _ in row) for row in self._cells]


@dataclass(frozen=True)
class _Frame:
    """Where the data area lies, and the ranges it shows."""

    left: int
    top: int
    width: int
    height: int
    x_range: tuple[float, float]
    y_range: tuple[float, float]

    def column(self, x: float) -> float:
        low, high = (log10(v) for v in self.x_range)
        return self.left + (log10(max(x, 1.0)) - low) / (high - low) * (self.width - 1)

    def line(self, y: float) -> float:
        low, high = self.y_range
        share = (y - low) / (high - low)
        return self.top + (1 - share) * (self.height - 1)


def draw(chart: Chart, width: int, height: int, signs: Glyphs | None = None) -> Canvas:
    """Return the scatter on a canvas of ``width`` × ``height`` cells."""
    signs = signs or glyphs()
    canvas = Canvas(width, height)
    if not chart.points or width < 24 or height < 6:
        return canvas
    y_range = _y_range(chart)
    ticks = linear_ticks(*y_range, max(2, (height - 3) // 3))
    labels = [tick_label(tick, ticks, chart.percent) for tick in ticks]
    left = max(len(label) for label in labels) + 1
    rail = 0 if not chart.higher_is_better else height - 3
    top = 1 if rail == 0 else 0
    frame = _Frame(left + 1, top, width - left - 2, height - 3, _x_range(chart), y_range)
    _axes(canvas, frame, signs, dict(zip(ticks, labels, strict=True)), rail)
    _limits(canvas, chart, frame, signs, rail)
    if signs.braille:
        _path(canvas, chart, frame)
    for point in chart.points:
        _mark(canvas, frame, point, rail)
    return canvas


def _x_range(chart: Chart) -> tuple[float, float]:
    known = [p.x for p in chart.points if p.x > 0] + ([chart.budget] if chart.budget else [])
    low, high = min(known, default=1.0), max(known, default=10.0)
    pad = max((high / low) ** 0.04, 1.03)
    return low / pad, high * pad


def _y_range(chart: Chart) -> tuple[float, float]:
    """Show what meets the bound in full, and as much again beyond it."""
    values = [p.y for p in chart.points if p.y is not None]
    sign = 1 if chart.higher_is_better else -1
    if chart.bound is None:
        low, high = min(values, default=0.0), max(values, default=1.0)
    else:
        good = [v for v in values if sign * v >= sign * chart.bound]
        bad = [v for v in values if sign * v < sign * chart.bound]
        best = max([*good, chart.bound], key=lambda v: sign * v)
        span = abs(best - chart.bound) or 0.05 * abs(chart.bound) or 1.0
        reach = max(
            (abs(v - chart.bound) for v in bad if abs(v - chart.bound) <= 1.5 * span), default=0.25 * span
        )
        low, high = sorted((best, chart.bound - sign * reach))
    pad = 0.06 * (high - low) or 0.01 * abs(high) or 0.5
    return low - pad, high + pad


def _axes(canvas: Canvas, frame: _Frame, signs: Glyphs, labels: dict[float, str], rail: int) -> None:
    axis, bottom = frame.left - 1, canvas.height - 2
    for y in range(bottom):
        canvas.put(axis, y, signs.bar, "axis")
    for value, label in labels.items():
        y = round(frame.line(value))
        canvas.text(axis - len(label), y, label, "dim")
        canvas.put(axis, y, signs.axis_y, "axis", 1)
    canvas.text(max(0, axis - 4), rail, "off", "dim")
    canvas.put(axis, rail, signs.axis_y, "axis", 1)
    for x in range(axis, canvas.width):
        canvas.put(x, bottom, signs.corner if x == axis else signs.rule, "axis")
    _x_labels(canvas, frame, signs, bottom)


def _x_labels(canvas: Canvas, frame: _Frame, signs: Glyphs, bottom: int) -> None:
    low, high = frame.x_range
    unit, factor = byte_unit((low * high) ** 0.5)
    edge = canvas.width - len(unit) - 1
    canvas.text(edge + 1, bottom + 1, unit, "dim")
    free = frame.left - 2
    for value in byte_ticks(low, high, max(2, frame.width // 12)):
        label, column = (
            significant(value / factor, 2 if value / factor < 100 else 3),
            round(frame.column(value)),
        )
        start = column - len(label) // 2
        if start > free and start + len(label) <= edge:
            canvas.text(start, bottom + 1, label, "dim")
            canvas.put(column, bottom, signs.axis_x, "axis", 1)
            free = start + len(label) + 1


def _limits(canvas: Canvas, chart: Chart, frame: _Frame, signs: Glyphs, rail: int) -> None:
    if chart.bound is not None:
        y = round(frame.line(chart.bound))
        for x in range(frame.left, canvas.width):
            canvas.put(x, y, signs.horizontal, "limit", 3)
        canvas.text(canvas.width - 6, y, " bound", "limit", 4)
    if chart.budget is not None:
        x = round(frame.column(chart.budget))
        for y in range(canvas.height - 2):
            canvas.put(x, y, signs.vertical, "limit", 3)
        text = "budget"
        row = canvas.height - 3 if rail == 0 else 0
        fits = x + 1 + len(text) < canvas.width
        canvas.text(x + 1 if fits else x - len(text), row, text, "limit", 4)


def _path(canvas: Canvas, chart: Chart, frame: _Frame) -> None:
    corners = [(frame.column(x) + 0.5, frame.line(y) + 0.5) for x, y in chart.path]
    for start, end in pairwise(corners):
        canvas.line(start, end, "path")


def _mark(canvas: Canvas, frame: _Frame, point: Point, rail: int) -> None:
    low, high = frame.y_range
    y = rail
    if point.y is not None and low <= point.y <= high:
        y = round(frame.line(point.y))
    elif point.y is not None and (point.y > high) is not (rail == 0):
        y = round(frame.line(high if point.y > high else low))
    canvas.put(round(frame.column(point.x)), y, point.sign, point.role, 10 + point.weight)
