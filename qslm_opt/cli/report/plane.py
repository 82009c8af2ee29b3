"""The plane of metric and memory: all that was measured, both limits, the front, the winners by λ. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from qslm_opt import rank
from qslm_opt.cli.report.sweeps import is_measured
from qslm_opt.hierarchy.tree import NETWORK

if TYPE_CHECKING:
    from qslm_opt.cli.facts import StudyFacts
    from qslm_opt.results import TrialRecord

Kind = Literal["candidate", "violates", "block alone", "not needed"]


@dataclass(frozen=True)
class Point:
    """One measured setting."""

    trial: int
    bytes: int
    value: float
    kind: Kind
    bits: float | None
    """Width of a uniform setting; None for others."""


@dataclass(frozen=True)
class Winner:
    """The choice over one interval of λ."""

    low: float
    high: float | None
    """None: for every λ from ``low`` on."""
    point: Point


@dataclass(frozen=True)
class Plane:
    """What the paper's Fig. 9 shows."""

    points: tuple[Point, ...]
    """By trial number."""
    front: tuple[Point, ...]
    """Pareto front of the candidates, by rising bytes."""
    winners: tuple[Winner, ...]
    """By rising λ."""
    chosen: Point | None
    """The winner at the report's λ."""
    closest: Point | None
    """Where nothing meets both limits: what came closest, if it was measured to the end."""
    baseline: float | None
    fp32_bytes: int
    bound: float | None
    """What the metric must reach; None before the baseline is known."""
    budget: int
    unmeasured: int
    """Trials that ended without a number: their violation was certain before the end. No cheap ones."""

    def of(self, *kinds: Kind) -> list[Point]:
        """Return the points of some kinds."""
        return [point for point in self.points if point.kind in kinds]


def plane(facts: StudyFacts) -> Plane | None:
    """Return the plane; None where nothing was measured."""
    measured = [t for t in facts.trials if is_measured(t)]
    if not measured:
        return None
    points = {t.number: _point(t) for t in measured}
    near = None if facts.ranked else rank.closest(facts.trials)
    winners = [
        Winner(low, None if high == float("inf") else high, points[t.number])
        for low, high, t in rank.envelope(facts.trials, facts.metric)
    ]
    return Plane(
        tuple(points.values()),
        tuple(points[t.number] for t in rank.pareto(facts.trials, facts.metric)),
        tuple(winners),
        None if facts.best is None else points[facts.best.record.number],
        None if near is None else points.get(near.number),
        facts.baseline, facts.fp32_bytes, facts.row.bound, facts.row.budget,
        sum(t.state == "pruned" and not t.cheap for t in facts.trials),
    )  # fmt: skip


def _point(trial: TrialRecord) -> Point:
    assert trial.value is not None
    bits = trial.bits if trial.tier == "global" and trial.unit == NETWORK else None
    return Point(trial.number, trial.bytes, trial.value, _kind(trial), bits)


def _kind(trial: TrialRecord) -> Kind:
    if trial.feasible:
        return "candidate"
    if trial.tier == "sensitivity":
        return "block alone"
    return "not needed" if trial.extra else "violates"
