"""Strategies side by side: what one search spent and what it found, and the mean over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from qslm_opt.rank import hypervolume, rank
from qslm_opt.search.summary import CUT_OFF
from qslm_opt.spec import SAMPLERS

if TYPE_CHECKING:
    from qslm_opt.results import TrialRecord
    from qslm_opt.store import StudyRow

MEASURES = (
    "full", "cheap", "equivalents", "wall_s", "model_s", "bytes", "value", "saving", "hypervolume", "score"
)  # fmt: skip
"""Numbers of an entry that a mean over seeds makes sense of."""


@dataclass(frozen=True)
class Entry:
    """One strategy with one seed."""

    strategy: str
    seed: int | None
    """None for strategies without randomness."""
    study: str
    state: str
    full: int
    """Full evaluations, those stopped early included."""
    cheap: int
    """Evaluations over a share of the data."""
    equivalents: float
    """Full evaluations that both come to."""
    wall_s: float | None
    """Wall time of the search; None when it was not run in one go here."""
    model_s: float
    """Wall time of the model runs alone."""
    bytes: int | None
    """Fewest packed bytes of a candidate; None without one."""
    value: float | None
    """Its metric."""
    saving: float | None
    hypervolume: float
    """Share of the box below both bounds that the candidates dominate in metric and bytes."""
    score: float | None
    """S of Eq. 1 of the best at the study's λ."""
    best: int | None
    """Number of that trial."""
    cut_off: bool = False
    """Whether its evaluations were spent before the search had come to its own end."""

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready object."""
        return dict(self.__dict__)


def searches(strategies: Sequence[str], seeds: int) -> list[tuple[str, int | None]]:
    """Return (strategy, seed) for every search of a comparison: seeds only where there is randomness.

    Ours come first, so that what they need is known when Optuna's samplers get as much.
    """
    found: list[tuple[str, int | None]] = [(name, None) for name in strategies if name not in SAMPLERS]
    return found + [(name, seed) for name in strategies if name in SAMPLERS for seed in range(seeds)]


def entry_of(row: StudyRow, trials: Sequence[TrialRecord], wall_s: float | None) -> Entry:
    """Return what a study came to."""
    spec, ran = row.spec, [t for t in trials if t.used]
    good = [t for t in trials if t.feasible]
    smallest = min(good, key=lambda t: (t.bytes, t.number), default=None)
    ranked = rank(trials, spec.metric, spec.lam)
    return Entry(
        spec.strategy,
        spec.seed if spec.strategy in SAMPLERS else None,
        row.name,
        row.state,
        full=sum(not t.cheap for t in ran),
        cheap=sum(t.cheap for t in ran),
        equivalents=round(sum(t.share for t in ran), 3),
        wall_s=None if wall_s is None else round(wall_s, 3),
        model_s=round(sum(t.seconds or 0.0 for t in trials), 3),
        bytes=smallest.bytes if smallest else None,
        value=smallest.value if smallest else None,
        saving=smallest.saving if smallest else None,
        hypervolume=dominated(row, good),
        score=ranked[0].score if ranked else None,
        best=ranked[0].record.number if ranked else None,
        cut_off=CUT_OFF in row.reason,
    )


def dominated(row: StudyRow, good: Sequence[TrialRecord]) -> float:
    """Return the hypervolume of candidates below the study's two bounds, as a share of that box.

    The axes are packed bytes, and perplexity or the error rate.
    """
    if row.bound is None:
        return 0.0
    accuracy = row.spec.metric == "accuracy"
    bound = 1 - row.bound if accuracy else row.bound
    points = [((1 - (t.value or 0.0)) if accuracy else (t.value or 0.0), t.bytes) for t in good]
    # A candidate may stand on a bound exactly: it dominates the corner, which has no area.
    return hypervolume(points, (bound, row.budget)) if bound > 0 else 0.0


def means(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Return for each strategy the mean and the standard deviation over its seeds (None for one seed)."""
    rows = []
    for name in dict.fromkeys(entry.strategy for entry in entries):
        mine = [entry for entry in entries if entry.strategy == name]
        feasible = sum(entry.bytes is not None for entry in mine)
        row: dict[str, Any] = {
            "strategy": name, "runs": len(mine), "feasible": feasible,
            "cut_off": sum(entry.cut_off for entry in mine),
        }  # fmt: skip
        for measure in MEASURES:
            values = [v for e in mine if (v := getattr(e, measure)) is not None]
            spread = stdev(values) if len(values) > 1 else None
            row[measure] = {"mean": mean(values), "std": spread} if values else None
        rows.append(row)
    return rows
