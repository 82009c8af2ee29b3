"""What happened in a study, from its trials: tiers that began, new bests, prunings, failures. No Textual."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from tui.glyphs import glyphs
from tui.text import percent, significant

if TYPE_CHECKING:
    from qslm_opt.results import TrialRecord
    from tui.model import StudyView

STALE = "stale"
"""How the reason of a failed trial begins whose process was gone."""


class Event(NamedTuple):
    """A trial that ended; ``begins`` is its tier when it is the first of it."""

    trial: TrialRecord
    begins: str = ""
    before: TrialRecord | None = None
    """For a new best, the best before it."""


def events_of(view: StudyView) -> tuple[Event, ...]:
    """Return what happened, oldest first; a tier's begin comes before its first trial."""
    found: list[Event] = []
    seen: set[str] = set()
    best: TrialRecord | None = None
    improvements = view.improvements
    for trial in view.ended:
        if trial.tier and trial.tier not in seen:
            seen.add(trial.tier)
            found.append(Event(trial, begins=trial.tier))
        better = trial.number in improvements
        found.append(Event(trial, before=best if better else None))
        best = trial if better else best
    return tuple(found)


def gain_text(metric: str, record: TrialRecord, before: TrialRecord | None) -> str:
    """Return ``new best +0.18 pp −3.1 % mem`` against the best before, ``new best`` for the first."""
    if before is None or record.value is None or before.value is None:
        return "first feasible"
    change = record.value - before.value
    sign = "+" if change > 0 else glyphs().minus
    size = f"{abs(100 * change):.2f} pp" if metric == "accuracy" else significant(abs(change), 2)
    words = "new best" if not change else f"new best {sign}{size}"
    memory = record.bytes / before.bytes - 1 if before.bytes else 0.0
    if abs(memory) < 0.0005:
        return words
    return f"{words}, mem {'+' if memory > 0 else glyphs().minus}{percent(abs(memory))}"


def failed_text(record: TrialRecord) -> str:
    """Return why a trial failed: ``stale: its process is gone``, or the error."""
    reason = record.reason or "failed"
    return reason.partition(" (")[0] if reason.startswith(STALE) else reason


def why_text(metric: str, record: TrialRecord) -> str:
    """Return in a few words why a trial was pruned or violates; empty when it is feasible."""
    if record.state == "failed":
        return failed_text(record)
    if record.feasible or record.state not in ("complete", "pruned"):
        return ""
    if record.cheap:
        return record.share_text
    if record.tier == "sensitivity":
        return "sensitivity"
    over = {key: slack for key, slack in record.slack.items() if slack > 0}
    if not over:
        return "not run" if record.value is None else ""
    key = max(over, key=lambda k: over[k])
    share = f"{significant(100 * over[key], 2)} %" if over[key] < 10 else ">1000 %"
    words = f"{'memory' if key == 'memory' else metric_word(metric)} {share} past"
    return f"pruned, {words}" if record.state == "pruned" else words


def metric_word(metric: str) -> str:
    """Return ``acc`` or ``ppl``."""
    return "acc" if metric == "accuracy" else "ppl"
