"""What the power window of a trial says, as lines of text; and which trial is looked at. No Textual."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, pstdev
from typing import TYPE_CHECKING

from tui.glyphs import glyphs, plain
from tui.power import Mark, Power, watts
from tui.text import (
    change_text,
    clip_unit,
    metric_text,
    number_text,
    significant,
    state_role,
    state_sign,
    state_word,
)
from tui.times import seconds_of

if TYPE_CHECKING:
    from qslm_opt.results import PowerWindow, TrialRecord
    from tui.model import StudyView

Run = tuple[str, str]


def trial_at(
    view: StudyView, marks: Sequence[Mark], windows: Mapping[str, PowerWindow], at: float | None
) -> TrialRecord | None:
    """Return the trial that ran at a moment, one with a window first; without a moment the newest of them."""
    over = [m for m in marks if at is None or (m.began <= at and (m.ended is None or at <= m.ended))]
    trials = [view.by_number[m.number] for m in over if m.number in view.by_number]
    measured = [t for t in trials if t.uuid in windows]
    return next(reversed(measured or trials), None)


def window_lines(view: StudyView, record: TrialRecord | None, power: Power) -> list[list[Run]]:
    """Return what is known of the trial's energy, line by line; without a window what was recorded."""
    windows = power.windows
    if record is None:
        return [[("no trial ran at this moment", "dim")], *_others(windows)]
    lines = [_who(view, record)]
    window = windows.get(record.uuid)
    if window is None:
        return [*lines, [(_no_window(record), "dim")], *_recorded(record, power), *_others(windows)]
    return [*lines, *measured_lines(view, window), *_others(windows)]


def measured_lines(view: StudyView, window: PowerWindow) -> list[list[Run]]:
    """Return a window's mean and spread, joules, joules per item, and whether it is steady."""
    unit = "sentence" if view.metric == "accuracy" else "token"
    return [_mean(window), _energy(window), _items(window, unit), _steady(window)]


def _who(view: StudyView, record: TrialRecord) -> list[Run]:
    value = metric_text(view.metric, record.value)
    began, ended = seconds_of(record.started), seconds_of(record.finished)
    took = f", {number_text(ended - began)} s" if began and ended else ""
    return [
        (f"#{record.number} ", "bold"),
        (f"{state_sign(record)} {state_word(record)}", state_role(record)),
        (f"  {record.tier}: {clip_unit(record.unit, 20)} at {record.bits} bits, {value}{took}", ""),
    ]


def _no_window(record: TrialRecord) -> str:
    if record.state == "running":
        return "it still runs; its window follows"
    if record.state == "pruned" and not record.used:
        return "no window: the model was not run, its memory alone decided"
    return "no window was kept of this trial: only candidates are measured for long enough"


def _recorded(record: TrialRecord, power: Power) -> list[list[Run]]:
    """Return the mean of each device's samples on screen while the trial ran."""
    began, ended = seconds_of(record.started), seconds_of(record.finished)
    lines: list[list[Run]] = []
    for lane in power.lanes() if began is not None else ():
        known = [
            s.power_w for s in lane.samples
            if s.power_w is not None and s.at >= (began or 0.0) and (ended is None or s.at <= ended)
        ]  # fmt: skip
        if known:
            spread = pstdev(known) if len(known) > 1 else 0.0
            words = f"mean {watts(fmean(known))}  σ {number_text(spread)} W  n {len(known)} on screen"
            name = lane.device.device if len(power.lanes()) > 1 else "the recording"
            lines.append([(f"{name} while it ran: ", "dim"), (plain(words), "")])
    return lines


def _others(windows: Mapping[str, PowerWindow]) -> list[list[Run]]:
    """With one window there is nothing to compare it with."""
    if len(windows) == 1:
        return [[("the only window so far: two are needed to tell a difference from noise", "dim")]]
    return []


def _mean(window: PowerWindow) -> list[Run]:
    runs: list[Run] = [
        (f"mean {watts(window.mean_w)}", "bold"),
        (plain(f"  σ {number_text(window.std_w)} W  n {window.samples} at {hertz(window.rate_hz)}"), ""),
        (f"  idle {watts(window.idle_w)}", "dim"),
    ]
    if window.limit_w is not None:
        runs.append((f"  limit {watts(window.limit_w)}", "dim"))
    if window.temperature_c is not None:
        runs.append((f"  {window.temperature_c:.0f} {glyphs().degree}", "dim"))
    return runs


def hertz(value: float | None) -> str:
    """Return ``20.0 Hz``, or ``n/a``."""
    return "n/a" if value is None else f"{significant(value)} Hz"


def _energy(window: PowerWindow) -> list[Run]:
    if window.energy_j is None:
        return [("energy n/a", "bold"), ("  neither a counter nor samples of power cover this window", "dim")]
    by_counter = window.counter_j is not None and window.energy_j == window.counter_j
    name, other = ("integral", window.integral_j) if by_counter else ("counter", window.counter_j)
    difference = window.counter_difference
    words = f" by the {'counter' if by_counter else 'integral'}; the {name} says {joules(other)}"
    if difference is not None:
        words += f", difference {change_text(100 * difference, ' %', 2)}"
    return [(joules(window.energy_j), "bold"), (words, "")]


def joules(value: float | None) -> str:
    """Return an energy in J or kJ, or ``n/a``."""
    if value is None:
        return "n/a"
    return f"{significant(value / 1000)} kJ" if value >= 10_000 else f"{significant(value)} J"


def _items(window: PowerWindow, unit: str) -> list[Run]:
    each = "n/a" if window.item_j is None else f"{significant(window.item_j)} J"
    count = "" if window.items is None else f", {window.items:,} {unit}s"
    length = "" if window.seconds is None else f" in {significant(window.seconds)} s"
    runs = f", {window.repeats} run{'' if window.repeats == 1 else 's'}"
    domain = {
        "instant": "instant power",
        "average": "power averaged over 1 s",
        "counter": "a counter's steps",
    }
    return [
        (f"{each} per {unit}", "bold"),
        (f"{count}{length}{runs}", ""),
        (f"; {window.source}, {domain.get(window.domain, window.domain)}", "dim"),
    ]


def _steady(window: PowerWindow) -> list[Run]:
    word, role = {
        True: ("steady", "feasible"),
        False: ("not steady", "infeasible"),
        None: ("steady?", "dim"),
    }[window.steady]
    why = window.steady_reason or "nothing is said"
    runs: list[Run] = [(word, role), (f": {why}", "")]
    if window.throttle:
        runs.append((f"  ! {', '.join(window.throttle)}", "infeasible"))
    return runs
