"""How a study was searched: trials and model runs by tier, and the way to the choice. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from qslm_opt.cli.facts import ran
from qslm_opt.cli.report.sweeps import metric_loss
from qslm_opt.lineage import ancestors, changes, read_setting, trial_formats

if TYPE_CHECKING:
    from qslm_opt.cli.facts import StudyFacts
    from qslm_opt.results import TrialRecord

_ENDED = ("complete", "pruned", "failed")
_COUNTS = ("trials", "complete", "unrun", "stopped", "cheap", "failed", "open", "unneeded", "evaluations")


@dataclass(frozen=True)
class TierRow:
    """What one tier of the search took."""

    tier: str
    trials: int
    complete: int
    unrun: int
    """Pruned by arithmetic: the model never ran."""
    stopped: int
    """Pruned in the run, as soon as the violation was certain."""
    cheap: int
    """Computed over a share of the data only: nothing about the bound."""
    failed: int
    open: int
    """Running or waiting."""
    unneeded: int
    """Measured ahead by a worker and not needed."""
    evaluations: int
    """Trials that ran the model."""
    shares: float | None
    """Sum of the shares of the data that they computed, in whole evaluations; None without a baseline."""
    seconds: float
    """Summed wall time of the model runs."""


@dataclass(frozen=True)
class Step:
    """One step on the way from the unquantized model to the choice."""

    trial: int | None
    """None: the unquantized model."""
    tier: str
    what: str
    """What it changed."""
    value: float | None
    loss: float | None
    """Metric loss against the baseline; see ``metric_loss``."""
    bytes: int


@dataclass(frozen=True)
class Limit:
    """One constraint and how the choice stands to it."""

    name: str
    limit: float | None
    chosen: float | None
    slack: float | None
    """Relative; 0 or below: met."""


def tiers(facts: StudyFacts) -> list[TierRow]:
    """Return a row for each tier that has trials, in the order of the search."""
    names = dict.fromkeys((*facts.row.spec.tiers, *(t.tier for t in facts.trials)))
    groups = {name: [t for t in facts.trials if t.tier == name] for name in names}
    return [_tier(facts, name, trials) for name, trials in groups.items() if trials]


def total(rows: list[TierRow]) -> TierRow:
    """Return the sum of all tiers."""
    shares = [row.shares for row in rows if row.shares is not None]
    counts = {key: sum(getattr(row, key) for row in rows) for key in _COUNTS}
    seconds = sum(row.seconds for row in rows)
    return TierRow("all", **counts, shares=sum(shares) if shares else None, seconds=seconds)


def _tier(facts: StudyFacts, name: str, trials: list[TrialRecord]) -> TierRow:
    pruned = [t for t in trials if t.state == "pruned"]
    n = facts.row.baseline.n if facts.row.baseline else 0
    return TierRow(
        name or "not said yet",
        len(trials),
        sum(t.state == "complete" for t in trials),
        sum(not ran(t) for t in pruned),
        sum(ran(t) and not t.cheap for t in pruned),
        sum(ran(t) and t.cheap for t in pruned),
        sum(t.state == "failed" for t in trials),
        sum(t.state not in _ENDED for t in trials),
        sum(t.extra for t in trials),
        sum(ran(t) for t in trials),
        sum(t.used for t in trials) / n if n else None,
        sum(t.seconds or 0.0 for t in trials),
    )


def lineage(facts: StudyFacts) -> list[Step]:
    """Return the steps from the unquantized model to the choice; empty without one."""
    if facts.best is None:
        return []
    hierarchy, base = facts.row.hierarchy, facts.baseline
    ended = [t for t in facts.trials if t.state in _ENDED]
    line = ancestors(hierarchy, ended, facts.best.record)
    first = line[0]
    steps = [
        Step(None, "", "the unquantized model", base, None, facts.fp32_bytes),
        _step(facts, first, f"{first.unit} at {first.bits} bits" if first.tier == "global" else _made(first)),
    ]
    for before, after in pairwise(line):
        found = changes(hierarchy, trial_formats(hierarchy, before), trial_formats(hierarchy, after))
        words = ", ".join(f"{c.unit} {c.before} → {c.after}" for c in found[:3])
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        steps.append(_step(facts, after, words + more))
    return steps


def _made(trial: TrialRecord) -> str:
    setting = read_setting(trial.setting)
    tuned = f", tuned by {setting.tune:,} steps" if setting is not None and setting.tune else ""
    return f"its whole setting, proposed in the {trial.tier} tier ({trial.unit} at {trial.bits} bits){tuned}"


def _step(facts: StudyFacts, trial: TrialRecord, what: str) -> Step:
    base = facts.baseline
    known = trial.value is not None and base
    loss = metric_loss(facts.metric, trial.value or 0.0, base) if known and base else None
    return Step(trial.number, trial.tier, what, trial.value, loss, trial.bytes)


def limits(facts: StudyFacts) -> list[Limit]:
    """Return both constraints with what the choice reached."""
    best = facts.best.record if facts.best else None
    slack = best.slack if best else {}
    value, size = (best.value, best.bytes) if best else (None, None)
    return [
        Limit(facts.metric, facts.row.bound, value, slack.get("metric")),
        Limit("memory", facts.row.budget, size, slack.get("memory")),
    ]
