"""Settings along one axis: each block alone at each precision, all units at one precision. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING

from qslm_opt.hierarchy.tree import NETWORK

if TYPE_CHECKING:
    from qslm_opt.cli.facts import StudyFacts
    from qslm_opt.results import TrialRecord


@dataclass(frozen=True)
class Heat:
    """Metric loss of each block quantized alone (the paper's Fig. 7)."""

    blocks: tuple[str, ...]
    """In the order of the model."""
    levels: tuple[float, ...]
    """Bits, falling."""
    loss: tuple[tuple[float | None, ...], ...]
    """Blocks × levels: points of accuracy or percent of perplexity, positive is worse; None: not measured."""

    def cells(self) -> list[tuple[str, float, float]]:
        """Return (block, bits, loss) of what was measured, the greatest loss first."""
        found = [
            (block, bits, loss)
            for block, row in zip(self.blocks, self.loss, strict=True)
            for bits, loss in zip(self.levels, row, strict=True)
            if loss is not None
        ]
        return sorted(found, key=lambda cell: -cell[2])


@dataclass(frozen=True)
class UniformPoint:
    """All searched units at one width (the paper's Fig. 2)."""

    bits: float
    trial: int
    value: float | None
    """Metric; None when the model was not run to the end."""
    bytes: int
    verdict: str
    """``meets both limits``, or which it violates."""


def is_measured(trial: TrialRecord) -> bool:
    """Return whether a trial was measured to its end, and to a number."""
    return trial.state == "complete" and trial.value is not None and isfinite(trial.value)


def metric_loss(metric: str, value: float, baseline: float) -> float:
    """Return how much worse than the baseline: points of accuracy, or percent of perplexity."""
    return 100 * (baseline - value) if metric == "accuracy" else 100 * (value / baseline - 1)


def loss_unit(metric: str) -> str:
    """Return the unit of ``metric_loss``."""
    return "points of accuracy" if metric == "accuracy" else "% of perplexity"


def sensitivity(facts: StudyFacts) -> Heat | None:
    """Return what the sensitivity tier measured; None before it has a number."""
    base = facts.baseline
    measured = {
        (t.unit, t.bits): t.value
        for t in facts.trials
        if t.tier == "sensitivity" and is_measured(t) and t.value is not None
    }
    if not base or not measured:
        return None
    levels = sorted({bits for _, bits in measured}, reverse=True)
    blocks = [b.unit for b in facts.row.hierarchy.blocks if any(unit == b.unit for unit, _ in measured)]
    rows = []
    for block in blocks:
        values = [measured.get((block, bits)) for bits in levels]
        rows.append(tuple(None if v is None else metric_loss(facts.metric, v, base) for v in values))
    return Heat(tuple(blocks), tuple(levels), tuple(rows)) if blocks else None


def uniform(facts: StudyFacts) -> list[UniformPoint]:
    """Return the uniform settings that were tried, by falling bits; a measured trial goes before others."""
    found: dict[float, TrialRecord] = {}
    for trial in facts.trials:
        if trial.tier != "global" or trial.unit != NETWORK or trial.state not in ("complete", "pruned"):
            continue
        if trial.bits not in found or found[trial.bits].value is None:
            found[trial.bits] = trial
    ordered = sorted(found.values(), key=lambda t: -t.bits)
    return [
        UniformPoint(t.bits, t.number, t.value if is_measured(t) else None, t.bytes, verdict(t, facts.metric))
        for t in ordered
    ]


def verdict(trial: TrialRecord, metric: str) -> str:
    """Return in words how an ended trial stands to both limits."""
    past = [metric if key == "metric" else key for key, slack in trial.slack.items() if slack > 0]
    if not past:
        return "meets both limits" if trial.value is not None else "not measured to the end"
    how = "" if trial.value is not None else ", stopped when certain" if trial.used else ", model not run"
    return f"violates {' and '.join(past)}{how}"
