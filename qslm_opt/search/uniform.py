"""Both constraints against each other: what the uniform settings say after the global tier. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qslm_opt.results import TrialRecord


def uniform_gap(trials: Sequence[TrialRecord]) -> str:
    """Return what comes closest when no uniform setting meets both constraints, else an empty string.

    The lowest that keeps the metric with what it is over the budget, and of those that fit the one with the
    least violation: what is to be found, if anything is, lies between them.
    """
    judged = [t for t in trials if t.tier == "global" and t.slack]
    if not judged or any(trial.feasible for trial in judged):
        return ""
    kept = [t for t in judged if t.value is not None and t.slack["metric"] <= 0]
    fit = [t for t in judged if t.used and t.slack["memory"] <= 0]
    said = []
    if kept:
        low = min(kept, key=lambda trial: trial.bytes)
        over = _percent(low.slack["memory"])
        said.append(f"{low.bits} bits keep the metric and are {over} over the budget")
    else:
        said.append("none that was measured keeps the metric")
    if fit:
        near = min(fit, key=lambda trial: (trial.value is None, trial.slack["metric"]))
        least = "" if near.value is not None else "at least "
        said.append(f"{near.bits} bits fit and miss the metric by {least}{_percent(near.slack['metric'])}")
    return f"no uniform setting meets both constraints: {', '.join(said)}; blocks and modules come next"


def _percent(slack: float) -> str:
    return f"{100 * slack:.2g} %"
