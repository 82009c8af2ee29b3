"""Power lanes: what each device drew over time, on 0 … limit, with the trials on the same axis.

``lane_lines`` and ``power_lines`` give runs of text, so that they are tested without a screen; ``PowerLanes``
paints them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from textual.strip import Strip

from tui.glyphs import glyphs, plain
from tui.power import Mark, Power, PowerLane, watts
from tui.text import clip, duration, significant
from tui.trace import Axis, columns, mark_line, trace
from tui.widgets.paint import Painter

if TYPE_CHECKING:
    from qslm_opt.results import PowerDevice, PowerSample

Run = tuple[str, str]
_LABEL = 12
"""Cells of the words before a curve; the same for all lanes, so that all share one axis."""


@dataclass(frozen=True)
class Channel:
    """One quantity of a device."""

    name: str
    read: Callable[[PowerSample], float | None]
    top: Callable[[PowerDevice, Sequence[PowerSample]], float]
    """End of the scale: the device's limit, never the data's own maximum where a limit is known."""
    words: Callable[[float | None], str]
    limited: bool = True
    """Whether the top is a limit that should not be reached."""


def _gigabytes(value: float | None) -> str:
    return "n/a" if value is None else f"{significant(value / 1e9)} GB"


def _degrees(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.0f} {glyphs().degree}"


def _share(value: float | None) -> str:
    return "n/a" if value is None else f"{100 * value:.0f} %"


def _watt_top(device: PowerDevice, samples: Sequence[PowerSample]) -> float:
    if device.limit_w:
        return device.limit_w
    most = max((s.power_w for s in samples if s.power_w is not None), default=1.0)
    return next(top for m in range(12) for top in (10.0**m, 2 * 10.0**m, 5 * 10.0**m) if top >= most)


def _byte_top(device: PowerDevice, samples: Sequence[PowerSample]) -> float:
    most = max((s.memory_bytes for s in samples if s.memory_bytes is not None), default=1)
    return float(device.memory_bytes or most)


POWER = Channel("power", lambda s: s.power_w, _watt_top, watts)
MEMORY = Channel("memory", lambda s: s.memory_bytes, _byte_top, _gigabytes)
TEMPERATURE = Channel("temp", lambda s: s.temperature_c, lambda *_: 100.0, _degrees)
USE = Channel("SM busy", lambda s: s.utilization, lambda *_: 1.0, _share, limited=False)


def axis_of(power: Power, width: int) -> Axis:
    """Return the time axis that all lanes of ``width`` cells share."""
    return Axis(power.since, power.until, max(1, width - _LABEL - 1))


def lane_lines(
    lane: PowerLane, channel: Channel, axis: Axis, height: int, now: float | None, *, named: bool = False
) -> list[list[Run]]:
    """Return the lines of one quantity: words and value on the left, the curve on the right.

    ``now`` is None where the recording is over or scrubbed: then nothing is stale. ``named``: there is no
    line above that says which device it is, and whether it is stale.
    """
    device, last = lane.device, lane.last
    top = channel.top(device, lane.samples)
    stale = now is not None and lane.stale_seconds(now) is not None
    points = ((s.at, channel.read(s)) for s in lane.samples)
    values = columns(points, axis, 3 * lane.interval)
    value = channel.words(channel.read(last) if last else None)
    if named:
        value = _named(lane, value, now)
    lines = trace(values, top, height, stale=stale, limited=channel.limited)
    labels: list[Run] = [(f"{clip(value, _LABEL):>{_LABEL}} ", "dim" if stale else "bold")]
    if height > 1:
        labels.insert(0, (f"{clip(channel.words(top), _LABEL):>{_LABEL}} ", "dim"))
    while len(labels) < height - (1 if height > 2 else 0):
        labels.append((" " * (_LABEL + 1), ""))
    if height > 2:
        labels.append((f"{'0':>{_LABEL}} ", "dim"))
    return [[label, *line] for label, line in zip(labels, lines, strict=True)]


def _named(lane: PowerLane, value: str, now: float | None) -> str:
    """Return ``0 612 W``, or ``0 stale 12 s``."""
    index = "" if lane.device.index is None else f"{lane.device.index} "
    age = None if now is None else lane.stale_seconds(now)
    return f"{index}{value if age is None else f'stale {_age(age)}'}"


def _age(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{duration(seconds)}"


def head_runs(lane: PowerLane, now: float | None, width: int) -> list[Run]:
    """Return the line above a lane: what it is, its limit and rest, or for how long nothing came."""
    device, signs = lane.device, glyphs()
    stale = None if now is None else lane.stale_seconds(now)
    if stale is not None:
        note, role = f"stale {_age(stale)}", "infeasible"
    elif lane.last is not None and lane.last.throttle:
        note, role = f"! {', '.join(lane.last.throttle)}", "infeasible"
    else:
        note, role = "", ""
    facts = []
    if device.limit_w:
        facts.append(f"0{signs.ellipsis}{device.limit_w:.0f} W")
    if lane.mean_w() is not None:
        facts.append(f"mean {watts(lane.mean_w())}")
    if device.idle_w is not None:
        facts.append(f"idle {watts(device.idle_w)}")
    if device.rate_hz:
        facts.append(f"{significant(device.rate_hz, 2)} Hz")
    room = width - (len(note) + 2 if note else 0)
    words = clip(f"{plain(lane.title)}  {f' {signs.dot} '.join(facts)}", room)
    return [(words, "dim"), (f"  {note}" if note else "", role)]


def power_lines(
    power: Power,
    marks: Sequence[Mark],
    width: int,
    height: int,
    now: float | None,
    *,
    channels: Sequence[Channel] = (POWER,),
    cursor: float | None = None,
) -> list[list[Run]]:
    """Return all lanes in ``height`` lines or fewer: as tall as there is room for, with the trials below.

    Where not every lane fits with a line of its own, the last line says how many are left out.
    """
    lanes = power.lanes()
    if not lanes or not any(lane.samples for lane in lanes):
        return [[(clip(power.why_not() or "no sample yet", width), "dim")]]
    axis = axis_of(power, width)
    room = max(1, height - 1)
    heads = len(lanes) * (1 + len(channels)) <= room
    kept = lanes if len(lanes) <= room else lanes[: max(1, room - 1)]
    chosen = channels if len(kept) * (len(channels) + heads) <= room else channels[:1]
    tall = max(1, (room // len(kept) - heads) // len(chosen))
    lines: list[list[Run]] = []
    for lane in kept:
        if heads:
            lines.append(head_runs(lane, now, width))
        for channel in chosen:
            lines += lane_lines(lane, channel, axis, min(tall, 6), now, named=not heads)
    if len(kept) < len(lanes):
        lines.append([(f"and {len(lanes) - len(kept)} more devices", "dim")])
    lines.append([(f"{'trials':>{_LABEL}} ", "dim"), *mark_line(marks, axis)])
    if cursor is not None:
        lines = [with_cursor(line, _LABEL + 1 + axis.column(cursor), width) for line in lines]
    return lines


def with_cursor(line: list[Run], at: int, width: int) -> list[Run]:
    """Draw the moment that is looked at, at column ``at``, as a vertical line."""
    if not _LABEL < at < width:
        return line
    found: list[Run] = []
    start = 0
    for part, role in [*line, (" " * width, "")]:
        inside = at - start
        if 0 <= inside < len(part):
            found += [(part[:inside], role), (glyphs().cursor, "key"), (part[inside + 1 :], role)]
        else:
            found.append((part, role))
        start += len(part)
    return [run for run in found if run[0]]


class PowerLanes(Painter):
    """Paints lanes in the space it is given."""

    DEFAULT_CSS = "PowerLanes { width: 1fr; height: 1fr; }"

    def __init__(self, channels: Sequence[Channel] = (POWER,), *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._channels = tuple(channels)
        self._given: tuple[Power, Sequence[Mark], float | None, float | None] | None = None
        self._lines: list[list[Run]] | None = None

    def show(
        self, power: Power, marks: Sequence[Mark], now: float | None, cursor: float | None = None
    ) -> None:
        """Show ``power``; ``now`` None: the recording is over or looked back at, and nothing is stale."""
        self._given, self._lines = (power, marks, now, cursor), None
        self.refresh()

    def time_at(self, x: int) -> float | None:
        """Return the time at a column of the widget, None left of the curves."""
        if self._given is None or x <= _LABEL:
            return None
        return axis_of(self._given[0], self.size.width).time(x - _LABEL - 1)

    def on_resize(self) -> None:
        """Draw anew in the new size."""
        self._lines = None

    def render_line(self, y: int) -> Strip:
        """Paint one line."""
        width, height = self.size
        if self._given is None:
            return self.strip([], width)
        if self._lines is None:
            power, marks, now, cursor = self._given
            self._lines = power_lines(
                power, marks, width, height, now, channels=self._channels, cursor=cursor
            )
        return self.strip(self._lines[y] if y < len(self._lines) else [], width)
