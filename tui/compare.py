"""What differs between two trials, as lines of text. No Textual."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qslm_opt.lineage import Change, changes
from tui.glyphs import glyphs, plain
from tui.lineage import trial_formats
from tui.noise import noise
from tui.text import bytes_text, change_text, metric_change, metric_text, number_text, percent

if TYPE_CHECKING:
    from qslm_opt.results import TrialRecord
    from tui.model import StudyView

Run = tuple[str, str]
_WORDS_BEFORE = 14


def diff_runs(view: StudyView, before: TrialRecord, after: TrialRecord) -> list[Run]:
    """Return the numbers of both trials side by side, then every unit whose format differs."""
    runs: list[Run] = [
        (
            f"{'':<{_WORDS_BEFORE}}{f'#{before.number} pinned':>16}{f'#{after.number}':>14}{'change':>16}\n",
            "head",
        )
    ]
    for name, old, new, change in _numbers(view, before, after):
        runs += [
            (f"{name:<{_WORDS_BEFORE}}", "dim"),
            (f"{old:>16}{new:>14}", ""),
            (f"{change:>16}\n", "bold"),
        ]
    runs += [("\n", ""), (_verdict(view, before, after) + "\n\n", "")]
    return [*runs, *change_runs(changes_between(view, before, after))]


def _numbers(view: StudyView, a: TrialRecord, b: TrialRecord) -> list[tuple[str, str, str, str]]:
    both_power = a.power_w is not None and b.power_w is not None
    both_energy = a.energy_j is not None and b.energy_j is not None
    power = change_text((b.power_w or 0.0) - (a.power_w or 0.0), " W") if both_power else glyphs().dash
    energy = change_text((b.energy_j or 0.0) - (a.energy_j or 0.0), " J") if both_energy else glyphs().dash
    metric = (metric_text(view.metric, a.value), metric_text(view.metric, b.value))
    return [
        (view.metric, *metric, metric_change(view.metric, a.value, b.value)),
        ("memory", bytes_text(a.bytes), bytes_text(b.bytes), bytes_change(a.bytes, b.bytes)),
        ("saving", percent(a.saving), percent(b.saving), change_text(100 * (b.saving - a.saving), " points")),
        ("power, W", number_text(a.power_w), number_text(b.power_w), power),
        ("energy, J", number_text(a.energy_j), number_text(b.energy_j), energy),
    ]


def bytes_change(before: int, after: int) -> str:
    """Return a change of bytes with its sign."""
    sign = glyphs().minus if after < before else "+"
    return "0 B" if after == before else f"{sign}{bytes_text(abs(after - before))}"


def _verdict(view: StudyView, a: TrialRecord, b: TrialRecord) -> str:
    """Say whether the metric's difference can be chance."""
    chance = noise(view.metric, a, b)
    if a.value is None or b.value is None:
        return f"One of them has no {view.metric}: it was not measured to its end."
    if chance is None:
        return f"Noise n/a: the spread of the {view.metric} over its data is not stored."
    within = abs(a.value - b.value) < chance
    size = f"{100 * abs(a.value - b.value):.2f} {glyphs().plus_minus} {100 * chance:.2f} points"
    return plain(f"{size}: {'within' if within else 'more than'} the noise of one standard error.")


def changes_between(view: StudyView, before: TrialRecord, after: TrialRecord) -> list[Change]:
    """Return the units whose format differs between two trials."""
    return changes(view.row.hierarchy, trial_formats(view, before), trial_formats(view, after))


def change_runs(found: list[Change], most: int = 400) -> list[Run]:
    """Return one line a changed unit."""
    if not found:
        return [("both settings do the same\n", "dim")]
    width = max(len(change.unit) for change in found)
    runs: list[Run] = []
    for change in found[:most]:
        runs += [
            (f"  {change.unit:<{width}}  ", ""),
            (f"{change.before} ", "dim"),
            (plain("→"), "dim"),
            (f" {change.after}\n", "bold"),
        ]
    if len(found) > most:
        runs.append((f"  and {len(found) - most} more\n", "dim"))
    return runs


def change_words(found: list[Change], most: int = 3) -> str:
    """Return the changes in one line: ``attention.0 int4→int3``, or ``6 units int6→int4``."""
    alike: dict[tuple[str, str], list[str]] = {}
    for change in found:
        pair = short_format(change.before), short_format(change.after)
        alike.setdefault(pair, []).append(change.unit)
    words = []
    for (before, after), units in list(alike.items())[:most]:
        who = units[0] if len(units) == 1 else f"{len(units)} units"
        words.append(plain(f"{who} {before}→{after}"))
    more = f" and {len(alike) - most} more kinds" if len(alike) > most else ""
    return ", ".join(words) + more if words else "nothing differs"


def short_format(text: str) -> str:
    """Return a format without its layout: ``int4``."""
    return text.partition("/")[0]
