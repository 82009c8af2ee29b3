"""What a run leaves: the result of the walk and the counts of the study."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from qslm_opt.rank import closest, rank
from qslm_opt.search.tiers import TIERS

if TYPE_CHECKING:
    from qslm_opt.results import TrialRecord
    from qslm_opt.search.walk import Walk
    from qslm_opt.spec import StudySpec


@dataclass(frozen=True)
class RunSummary:
    """How a run ended, and what the study holds then."""

    name: str
    state: Literal["finished", "infeasible", "stopped"]
    """finished: exhausted, with candidates; infeasible: exhausted without; stopped: there is more to do."""
    counts: Mapping[str, int]
    """Trials that are complete, pruned, failed and running, of all runs."""
    evaluations: Mapping[str, int]
    """Tier → trials whose model was run, of all runs."""
    candidates: int
    """Settings on the walk that meet both constraints."""
    best: TrialRecord | None
    """The chosen one at the study's λ: the best on the walk, whatever else was measured."""
    score: float | None
    """Its S of Eq. 1."""
    closest: TrialRecord | None
    """What came closest when there is no candidate."""
    extra: int
    """Settings that workers measured ahead and the walk did not need."""
    seconds: float
    """Wall time of this run."""
    order: tuple[str, ...] = ()
    """Blocks, least sensitive first; empty when not known yet."""
    visited: tuple[str, ...] = ()
    """Digests on the walk, in its order."""

    @property
    def reason(self) -> str:
        """Why it ended as it did, in words; empty when it found candidates."""
        if self.state == "stopped":
            return "stop requested"
        if self.state == "finished" or self.closest is None:
            return ""
        over = [f"{name} {slack:+.2%}" for name, slack in self.closest.slack.items() if slack > 0]
        return (
            "no setting meets both constraints; the closest, "
            f"trial {self.closest.number}, is off by {' and '.join(over)}"
        )


def summarize(
    spec: StudySpec, trials: Sequence[TrialRecord], walk: Walk, exhausted: bool, seconds: float
) -> RunSummary:
    """Return the summary of a run of ``seconds`` that left the study's ``trials`` and ``walk``."""
    best, score = chosen(trials, walk, spec.metric, spec.lam)
    ran = [trial for trial in trials if trial.used]
    counts = dict.fromkeys(("complete", "pruned", "failed", "running"), 0)
    return RunSummary(
        name=spec.name,
        state="stopped" if not exhausted else "finished" if walk.candidates else "infeasible",
        counts={**counts, **Counter(trial.state for trial in trials)},
        evaluations={tier: sum(trial.tier == tier for trial in ran) for tier in TIERS},
        candidates=len(walk.candidates),
        best=best,
        score=score,
        closest=None if best else closest(trials),
        extra=len({trial.digest for trial in ran} - set(walk.visited)),
        seconds=seconds,
        order=walk.order,
        visited=walk.visited,
    )


def chosen(
    trials: Sequence[TrialRecord], walk: Walk, metric: str, lam: float
) -> tuple[TrialRecord | None, float | None]:
    """Return the walk's best candidate at λ and its score; of equals the one that was visited first.

    Settings that workers measured ahead and the walk never visited are left out: the result does not
    depend on them.
    """
    place = {digest: i for i, digest in enumerate(walk.visited)}
    ranked = rank([trial for trial in trials if trial.digest in place], metric, lam)
    if not ranked:
        return None, None
    top = ranked[0].record
    equals = [r for r in ranked if (r.record.value, r.record.bytes) == (top.value, top.bytes)]
    first = min(equals, key=lambda r: place[r.record.digest])
    return first.record, first.score
