"""The spiking-aware gate: membrane drift orders and postpones settings; it never decides alone."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import TYPE_CHECKING

from qslm_opt.search.machine import Proposal, Verdict
from qslm_opt.search.script import Answers, Ask, Script

if TYPE_CHECKING:
    from qslm_opt.search.tables import Levels

GATE, POSTPONED = "gate", "postponed"
"""Tiers: drifts that were measured, and what had been put off and was evaluated in the end."""
LEARNT = 3
"""Settings that must have been accepted, and refused, before any is postponed."""


@dataclass
class Gate:
    """Made anew for each run of a script; one that is off lets everything pass at once."""

    on: bool
    accepted: list[float] = field(default_factory=list)
    """Drifts of settings that were metric_ok."""
    refused: list[float] = field(default_factory=list)
    postponed: dict[str, tuple[float, Proposal]] = field(default_factory=dict)
    """Digest → drift and setting."""
    _drifts: dict[str, float] = field(default_factory=dict)

    @property
    def threshold(self) -> float:
        """The drift above which a setting is postponed: the most that was accepted so far."""
        learnt = min(len(self.accepted), len(self.refused)) >= LEARNT
        return max(self.accepted) if learnt else inf

    def sort(
        self, proposals: Sequence[Proposal], at: Levels, order: tuple[str, ...] = ()
    ) -> Generator[Ask, Answers, list[Proposal]]:
        """Return the settings to evaluate now, least drift first; keep the others for the end."""
        if not self.on or not proposals:
            return list(proposals)
        new = [p for p in proposals if p.digest not in self._drifts]
        answers = yield Ask(tuple(_drift_of(p) for p in new), at, order)
        for proposal, verdict in zip(new, answers, strict=True):
            self._drifts[proposal.digest] = inf if verdict.drift is None else verdict.drift
        ranked = sorted(proposals, key=lambda p: self._drifts[p.digest])
        now = [p for p in ranked if self._drifts[p.digest] <= self.threshold]
        for proposal in (p for p in ranked if p not in now):
            self.postponed.setdefault(proposal.digest, (self._drifts[proposal.digest], proposal))
        return now

    def learn(self, proposal: Proposal, verdict: Verdict) -> None:
        """Note how an evaluation ended."""
        drift = self._drifts.get(proposal.digest)
        if drift is not None:
            (self.accepted if verdict.metric_ok else self.refused).append(drift)

    def rest(self, best: Levels, best_bytes: int, order: tuple[str, ...] = ()) -> Script:
        """Evaluate what was postponed and is still smaller than the answer, least drift first."""
        for _, proposal in sorted(self.postponed.values(), key=lambda pair: (pair[0], pair[1].digest)):
            if proposal.bytes < best_bytes:
                (verdict,) = yield Ask((replace(proposal, tier=POSTPONED),), best, order, open=True)
                if verdict.metric_ok:
                    best, best_bytes = proposal.levels, proposal.bytes


def _drift_of(proposal: Proposal) -> Proposal:
    return replace(proposal, tier=GATE, digest=f"{proposal.digest}~drift", drift=True)
