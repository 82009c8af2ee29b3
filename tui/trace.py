"""Curves over time in character cells: a fixed range, one column a slice of time. No Textual.

A column shows the mean of its samples. One without any repeats the value before it while that is not older
than three intervals, so that a gap in the recording is seen as a gap.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tui.glyphs import Glyphs, glyphs

if TYPE_CHECKING:
    from tui.power import Mark

Run = tuple[str, str]
HIGH, HIGHEST = 0.75, 0.95
"""Shares of the limit from which a column is drawn as high, and as at the limit."""


@dataclass(frozen=True)
class Axis:
    """A stretch of time on so many columns."""

    since: float
    until: float
    width: int

    def column(self, at: float) -> int:
        """Return the column of a time; outside of the axis it lies outside of 0 … width - 1."""
        return int((at - self.since) / max(1e-9, self.until - self.since) * self.width // 1)

    def time(self, column: float) -> float:
        """Return the time at the left edge of a column."""
        return self.since + (self.until - self.since) * column / max(1, self.width)


def columns(
    points: Iterable[tuple[float, float | None]], axis: Axis, hold_seconds: float
) -> list[float | None]:
    """Return the mean of each column, None where nothing is known; ``points`` are (time, value)."""
    sums, counts = [0.0] * axis.width, [0] * axis.width
    last: dict[int, float] = {}
    for at, value in points:
        column = axis.width - 1 if at == axis.until else axis.column(at)
        if value is not None and 0 <= column < axis.width:
            sums[column] += value
            counts[column] += 1
            last[column] = at
    found: list[float | None] = []
    held: tuple[float, float] | None = None
    for column, count in enumerate(counts):
        if count:
            held = (sums[column] / count, last[column])
            found.append(held[0])
        elif held is not None and axis.time(column) - held[1] <= hold_seconds:
            found.append(held[0])
        else:
            found.append(None)
    return found


def trace(
    values: Sequence[float | None],
    top: float,
    height: int = 1,
    *,
    stale: bool = False,
    limited: bool = True,
    signs: Glyphs | None = None,
) -> list[list[Run]]:
    """Return ``height`` lines, the highest first, of bars over 0 … ``top``; never scaled to the data.

    With ``limited`` a column from 75 % of ``top`` on has another colour, from 95 % on a third.
    """
    signs = signs or glyphs()
    steps = len(signs.levels)
    lines: list[list[Run]] = []
    for line in range(height):
        floor = (height - 1 - line) * steps
        lines.append(
            _joined((_cell(v, top, height, floor, signs), _role(v, top, stale, limited)) for v in values)
        )
    return lines


def _cell(value: float | None, top: float, height: int, floor: int, signs: Glyphs) -> str:
    if value is None or top <= 0:
        return " "
    steps = len(signs.levels)
    share = min(1.0, max(0.0, value / top))
    level = max(1, round(share * steps * height)) - floor
    if level <= 0:
        return " "
    return (
        signs.levels[-1]
        if level >= steps and height == 1
        else signs.full
        if level >= steps
        else signs.levels[level - 1]
    )


def _role(value: float | None, top: float, stale: bool, limited: bool) -> str:
    if value is None or stale:
        return "dim"
    share = value / top if limited and top > 0 else 0.0
    return "limit" if share >= HIGHEST else "high" if share >= HIGH else "bar"


def _joined(cells: Iterable[Run]) -> list[Run]:
    runs: list[Run] = []
    for sign, role in cells:
        if runs and (runs[-1][1] == role or sign == " "):
            runs[-1] = (runs[-1][0] + sign, runs[-1][1])
        else:
            runs.append((sign, role))
    return runs


def mark_line(marks: Sequence[Mark], axis: Axis, signs: Glyphs | None = None) -> list[Run]:
    """Return one line with each trial's name between its begin and its end, or its sign where space is short.

    ``▏`` marks where a trial begins. Where several begin in one column, the last one's sign stays.
    """
    signs = signs or glyphs()
    cells: list[Run] = [(" ", "")] * axis.width
    spans = _spans(marks, axis)
    for position, (start, end, mark) in enumerate(spans):
        following = spans[position + 1][0] if position + 1 < len(spans) else axis.width
        room = min(end, following) - start
        name = f"#{mark.number}"
        if room >= len(name) + 3:
            _write(
                cells,
                start,
                signs.begin + name + (" " if room > len(name) + 3 else "") + mark.sign,
                mark.role,
            )
        elif room >= len(name) + 1:
            _write(cells, start, signs.begin + name, mark.role)
        else:
            _write(cells, start, mark.sign, mark.role)
    return _joined(cells)


def _spans(marks: Sequence[Mark], axis: Axis) -> list[tuple[int, int, Mark]]:
    """Return (first column, column after the last, trial) of those on the axis; one trial a first column."""
    found: dict[int, tuple[int, int, Mark]] = {}
    for mark in sorted(marks, key=lambda m: m.began):
        start = max(0, axis.column(mark.began))
        end = axis.width if mark.ended is None else min(axis.width, axis.column(mark.ended) + 1)
        if start < axis.width and end > 0:
            found[start] = (start, end, mark)
    return [found[start] for start in sorted(found)]


def _write(cells: list[Run], start: int, text: str, role: str) -> None:
    for offset, sign in enumerate(text):
        if start + offset < len(cells):
            cells[start + offset] = (sign, role if offset or len(text) == 1 else "axis")
