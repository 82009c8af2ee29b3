"""What a run leaves: the result of the walk and the counts of the study."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from qslm_opt.rank import closest, rank
from qslm_opt.search.deadline import DEADLINE

if TYPE_CHECKING:
    from qslm_opt.results import TrialRecord
    from qslm_opt.search.machine import Path
    from qslm_opt.spec import StudySpec

CUT_OFF = "cut off by --evaluations"
"""First words of what the reason of an ended study says when its evaluations were spent before its search."""


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
    """Settings that meet both constraints; at the end of the search, those on the walk alone."""
    best: TrialRecord | None
    """The first of the ranking at the study's λ, which is also what every command shows."""
    score: float | None
    """Its S of Eq. 1."""
    closest: TrialRecord | None
    """What came closest when there is no candidate."""
    extra: int
    """Settings that workers measured ahead and the walk did not need; 0 before the end."""
    seconds: float
    """Wall time of this run."""
    order: tuple[str, ...] = ()
    """Blocks, least sensitive first; empty when not known yet."""
    visited: tuple[str, ...] = ()
    """Digests on the walk, in its order."""
    deadline: bool = False
    """Whether a deadline stopped it."""
    cut_off: int | None = None
    """The evaluations that were spent before the search was exhausted; None where it was."""

    @property
    def reason(self) -> str:
        """Why it ended as it did, in words; empty when it was exhausted and found candidates."""
        if self.state == "stopped":
            return DEADLINE if self.deadline else "stop requested"
        cut = [] if self.cut_off is None else [f"{CUT_OFF} {self.cut_off}"]
        if self.state == "finished" or self.closest is None:
            return "".join(cut)
        over = [f"{name} {slack:+.2%}" for name, slack in self.closest.slack.items() if slack > 0]
        closest = f"trial {self.closest.number}, is off by {' and '.join(over)}"
        return "; ".join([f"no setting meets both constraints; the closest, {closest}", *cut])


def summarize(
    spec: StudySpec, trials: Sequence[TrialRecord], walk: Path, seconds: float, deadline: bool = False
) -> RunSummary:
    """Return the summary of a run of ``seconds`` that left the study's ``trials`` and ``walk``.

    ``deadline``: it was one that ended it.
    """
    ranked = rank(trials, spec.metric, spec.lam)
    best = ranked[0].record if ranked else None
    ran = [trial for trial in trials if trial.used]
    counts = dict.fromkeys(("complete", "pruned", "failed", "running"), 0)
    return RunSummary(
        name=spec.name,
        state="stopped" if not walk.done else "finished" if ranked else "infeasible",
        counts={**counts, **Counter(trial.state for trial in trials)},
        evaluations={tier: sum(trial.tier == tier for trial in ran) for tier in spec.tiers},
        candidates=len(ranked),
        best=best,
        score=ranked[0].score if ranked else None,
        closest=None if best else closest(trials),
        extra=len(unneeded(trials, walk)) if walk.done else 0,
        seconds=seconds,
        order=walk.order,
        visited=walk.visited,
        deadline=deadline and not walk.done,
        cut_off=spec.evaluations if walk.done and walk.cut_off else None,
    )


def unneeded(trials: Sequence[TrialRecord], walk: Path) -> set[str]:
    """Return the digests whose model ran and that a finished ``walk`` did not visit.

    Workers measured them ahead. What they are depends on timing, so the result must not depend on them.
    """
    return {trial.digest for trial in trials if trial.used} - set(walk.visited)
