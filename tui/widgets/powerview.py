"""The power screen's lanes: limit line, idle baseline, throttle marks, trials and clock below.

Every lane has the same time axis; a quantity keeps its fixed range. ``tui.trace`` draws the curves.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from textual import events
from textual.message import Message
from textual.strip import Strip

from tui.glyphs import glyphs, plain
from tui.power import Mark, Power, PowerLane, watts
from tui.text import clip
from tui.trace import Axis, columns, mark_line, trace
from tui.widgets.paint import Painter
from tui.widgets.powerlane import (
    MEMORY,
    POWER,
    TEMPERATURE,
    USE,
    Channel,
    axis_of,
    head_runs,
    lane_lines,
    power_lines,
    with_cursor,
)  # fmt: skip

if TYPE_CHECKING:
    from qslm_opt.results import PowerSample

Run = tuple[str, str]
BESIDE = (MEMORY, TEMPERATURE, USE)
"""What is drawn under each lane's power."""
_FULL = 6
"""Lines from which a lane shows every quantity."""


def screen_lines(
    power: Power, marks: Sequence[Mark], width: int, height: int, now: float | None, cursor: float | None
) -> list[list[Run]]:
    """Return all lanes with the trials and the clock below them, in ``height`` lines or fewer."""
    lanes = power.lanes()
    axis = axis_of(power, width)
    clock = clock_line(axis, width)
    each = (height - 2) // max(1, len(lanes))
    if each < _FULL or not lanes:
        lines = power_lines(power, marks, width, height - 1, now, cursor=cursor)
        return [*lines, clock] if lanes else lines
    trials: list[Run] = [(_label("trials"), "dim"), *mark_line(marks, axis)]
    if cursor is None:
        return [line for lane in lanes for line in _lane(lane, axis, each, now, width)] + [trials, clock]
    at = len(_label("")) + axis.column(cursor)
    lines = []
    for lane in lanes:
        head, *curves = _lane(lane, axis, each, now, width, cursor)
        lines += [head[:1], *(with_cursor(line, at, width) for line in curves)]
    return [*lines, with_cursor(trials, at, width), clock]


def _label(words: str) -> str:
    return f"{clip(words, 12):>12} "


def _lane(
    lane: PowerLane, axis: Axis, height: int, now: float | None, width: int, cursor: float | None = None
) -> list[list[Run]]:
    """Return a head and every quantity; the words say the values at the cursor, without one the last."""
    said = lane.last if cursor is None else sample_at(lane, cursor)
    marks = throttle_line(lane, axis)
    beside = 2 if height >= 14 else 1
    tall = max(2, min(14, height - 1 - len(marks) - beside * len(BESIDE)))
    lines = [head_runs(lane, now, width), *_watts(lane, axis, tall, now, said), *marks]
    for channel in BESIDE:
        rows = lane_lines(lane, channel, axis, beside, now)
        value = channel.words(channel.read(said)) if said else "no sample"
        rows[beside - 1][0] = (_label(value), rows[beside - 1][0][1])
        lines += rows
    return lines


def _watts(
    lane: PowerLane, axis: Axis, height: int, now: float | None, said: PowerSample | None
) -> list[list[Run]]:
    """Return the power curve with the limit above it and the idle power on its left."""
    device, signs = lane.device, glyphs()
    top = POWER.top(device, lane.samples)
    stale = now is not None and lane.stale_seconds(now) is not None
    values = columns(((s.at, s.power_w) for s in lane.samples), axis, 3 * lane.interval)
    lines = trace(values, top, height, stale=stale, limited=device.limit_w is not None)
    lines = [_padded(line, axis.width) for line in lines]
    idle = device.idle_w
    rest = None if idle is None else height - 1 - min(height - 1, int(idle / top * height))
    if device.limit_w:
        lines[0] = _ruled(lines[0], signs.horizontal, "limit")
    if rest is not None:
        lines[rest] = _ruled(lines[rest], signs.dot, "dim")
    sides: list[Run] = [(_label("0" if i == height - 1 else ""), "dim") for i in range(height)]
    if rest is not None:
        sides[rest] = (_label(f"idle {watts(idle)}"), "dim")
    sides[1] = (_label(watts(said.power_w) if said else "no sample"), "bold")
    sides[0] = (_label(f"{'limit ' if device.limit_w else ''}{watts(top)}"), "limit")
    return [[side, *line] for side, line in zip(sides, lines, strict=True)]


def _padded(line: list[Run], width: int) -> list[Run]:
    used = sum(len(part) for part, _ in line)
    return [*line, (" " * (width - used), "")] if used < width else line


def _ruled(line: list[Run], sign: str, role: str) -> list[Run]:
    """Draw a rule through the empty cells of a line."""
    found: list[Run] = []
    for part, its in line:
        for cell in part:
            run = (sign, role) if cell == " " else (cell, its)
            if found and found[-1][1] == run[1]:
                found[-1] = (found[-1][0] + run[0], run[1])
            else:
                found.append(run)
    return found


def throttle_line(lane: PowerLane, axis: Axis) -> list[list[Run]]:
    """Return a line with ``!`` where the device held its clocks back, and why; none where it never did."""
    cells = [" "] * axis.width
    names: dict[str, None] = {}
    for sample in lane.samples:
        column = min(axis.width - 1, axis.column(sample.at))
        if sample.throttle and column >= 0:
            cells[column] = "!"
            names |= dict.fromkeys(sample.throttle)
    if not names:
        return []
    words, first = f" {', '.join(names)}", "".join(cells).rstrip()
    line = first + words if len(first) + len(words) <= axis.width else "".join(cells)
    return [[(_label("throttled"), "infeasible"), (line, "infeasible")]]


def clock_line(axis: Axis, width: int) -> list[Run]:
    """Return the times under the axis."""
    left = len(_label(""))
    seconds = axis.until - axis.since
    form = "%H:%M:%S" if seconds <= 7200 else "%H:%M" if seconds <= 86400 else "%m-%d %H:%M"
    cells = [" "] * max(0, width - left)
    count = max(1, min(6, axis.width // 14))
    free = 0
    for i in range(count + 1):
        column = round(i * axis.width / count)
        label = datetime.fromtimestamp(axis.time(column)).strftime(form)
        start = min(max(0, column - len(label) // 2), max(0, len(cells) - len(label)))
        if start >= free:
            cells[start : start + len(label)] = label
            free = start + len(label) + 1
    return [(" " * left + "".join(cells), "dim")]


def sample_at(lane: PowerLane, at: float) -> PowerSample | None:
    """Return the sample next to a moment; None when the nearest is more than three intervals away."""
    found = min(lane.samples, key=lambda sample: abs(sample.at - at), default=None)
    gap = max(3 * lane.interval, 2 * _spacing(lane.samples))
    return found if found is not None and abs(at - found.at) <= gap else None


def _spacing(samples: Sequence[PowerSample]) -> float:
    """Return the mean time between samples, which grows when a long span is thinned."""
    return (samples[-1].at - samples[0].at) / (len(samples) - 1) if len(samples) > 1 else 0.0


def moment_words(lanes: Sequence[PowerLane], at: float | None) -> str:
    """Return what each device said at a moment (None: last): ``612 W 41.2 GB 64 °C 98 % SM 1980 MHz``.

    Beside others there is no room for a device's clocks.
    """
    words = []
    for lane in lanes:
        sample = lane.last if at is None else sample_at(lane, at)
        name = "" if lane.device.index is None else f"{lane.device.index}: "
        if sample is None:
            words.append(f"{name}no sample")
            continue
        parts = [channel.words(channel.read(sample)) for channel in _told(sample)]
        if sample.sm_clock_mhz is not None and len(lanes) == 1:
            parts.append(f"SM {sample.sm_clock_mhz} MHz")
        if sample.memory_clock_mhz is not None and len(lanes) == 1:
            parts.append(f"memory {sample.memory_clock_mhz} MHz")
        words.append(name + " ".join(parts))
    return plain("   ".join(words))


def _told(sample: PowerSample) -> list[Channel]:
    return [POWER, *(c for c in BESIDE if c.read(sample) is not None)]


class PowerView(Painter, can_focus=True):
    """Paints the lanes of the power screen; a click puts the cursor on a moment."""

    DEFAULT_CSS = "PowerView { width: 1fr; height: 1fr; }"

    class Picked(Message):
        """The user clicked a moment (seconds since 1970)."""

        def __init__(self, at: float) -> None:
            super().__init__()
            self.at = at

    _given: tuple[Power, Sequence[Mark], float | None, float | None] | None = None
    _lines: list[list[Run]] | None = None

    def show(
        self, power: Power, marks: Sequence[Mark], now: float | None, cursor: float | None = None
    ) -> None:
        """Show ``power``; ``now`` None: the recording is over or looked back at, and nothing is stale."""
        self._given, self._lines = (power, marks, now, cursor), None
        self.refresh()

    def on_resize(self) -> None:
        """Draw anew in the new size."""
        self._lines = None

    def on_click(self, event: events.Click) -> None:
        """Tell the moment under the pointer."""
        if self._given is not None and event.x >= len(_label("")):
            axis = axis_of(self._given[0], self.size.width)
            self.post_message(self.Picked(axis.time(event.x - len(_label("")) + 0.5)))

    def render_line(self, y: int) -> Strip:
        """Paint one line."""
        width, height = self.size
        if self._given is None:
            return self.strip([], width)
        if self._lines is None:
            power, marks, now, cursor = self._given
            self._lines = screen_lines(power, marks, width, height, now, cursor)
        return self.strip(self._lines[y] if y < len(self._lines) else [], width)
