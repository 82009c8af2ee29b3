"""The tier lanes: how far each tier of the search is. No Textual."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from qslm_opt.figures import total_text

if TYPE_CHECKING:
    from qslm_opt.results import TrialRecord
    from tui.model import StudyView


@dataclass(frozen=True)
class Lane:
    """How far one tier of the search is."""

    tier: str
    done: int
    total: int | None
    """Trials of the tier, about; None when the study does not say."""
    best: TrialRecord | None
    state: Literal["done", "active", "waiting"]

    @property
    def count(self) -> str:
        """How many trials are done and of how many, such as ``12/~40``."""
        return done_of(self.done, self.total, ended=self.state == "done")


def done_of(done: int, total: int | None, *, ended: bool = False) -> str:
    """Return what is done and of how many, about, as long as that can change."""
    return f"{done}" if total is None else f"{done}/{total_text(done, total, ended=ended)}"


def lanes_of(view: StudyView) -> tuple[Lane, ...]:
    """Return the lanes in the order of the tiers."""
    counts, tiers = view.ended_by_tier, view.row.spec.tiers
    given = {str(_part(p, "tier")): p for p in view.row.progress}
    begun = [tier for tier in tiers if counts[tier] or any(t.tier == tier for t in view.running)]
    best = _best_by_tier(view)
    over = view.row.state in ("finished", "infeasible")
    lanes = []
    for tier in tiers:
        done, total = counts[tier], None
        if tier in given:
            done, total = int(_part(given[tier], "done") or 0), _part(given[tier], "total")
        passed = any(tiers.index(later) > tiers.index(tier) for later in begun)
        ended = over or passed or (total is not None and 0 < total <= done)
        state: Literal["done", "active", "waiting"] = (
            "done" if ended else "active" if tier in begun else "waiting"
        )
        lanes.append(Lane(tier, done, total, best.get(tier), state))
    return tuple(lanes)


def _part(progress: Any, key: str) -> Any:
    return progress.get(key) if isinstance(progress, Mapping) else getattr(progress, key, None)


def _best_by_tier(view: StudyView) -> dict[str, TrialRecord]:
    """Return tier → its best feasible trial at the study's own λ."""
    found: dict[str, TrialRecord] = {}
    for row in view.ranked(view.row.spec.lam):
        found.setdefault(row.record.tier, row.record)
        if len(found) == len(view.row.spec.tiers):
            break
    return found
