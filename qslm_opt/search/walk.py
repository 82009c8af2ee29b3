"""The walk through the tiers over the verdicts known so far, what it may need next, and how far it is."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from heapq import heappop, heappush
from itertools import count
from math import inf

from qslm_opt.search.machine import Proposal, Step, Tally, Tier, TierProgress, Trail, TrailFacts, Verdict
from qslm_opt.search.space import SearchSpace
from qslm_opt.search.tables import Levels
from qslm_opt.search.tiers import TIERS, State, TierMachine


class Walk(TrailFacts):
    """The one sequential path through the tiers; ``extend`` moves it on as verdicts arrive.

    Verdicts of visited digests must not change in between; build a new walk when one did.
    """

    def __init__(self, space: SearchSpace, most: float | None = None) -> None:
        """Start; ``most`` evaluations end the walk early."""
        self.machine, self._most = TierMachine(space), inf if most is None else float(most)
        self.state: State = self.machine.start()
        self._trail = Trail({tier: Tally() for tier in TIERS})
        self.steps = self._trail.steps
        """Visited settings in order, each once; once more when it was first told without a model run."""
        self._progress: tuple[State, int, tuple[TierProgress, ...]] | None = None

    def extend(self, verdicts: Mapping[str, Verdict]) -> Walk:
        """Go on as far as ``verdicts`` (digest → verdict) lead; return self."""
        while not self.done and (proposal := self.machine.pending(self.state)) is not None:
            verdict = verdicts.get(proposal.digest)
            if verdict is None or not proposal.settled_by(verdict):
                break
            self._trail.visit(Step(proposal, verdict))
            self.state = self.machine.advance(self.state, proposal, verdict)
        return self

    @property
    def done(self) -> bool:
        """Whether the search is exhausted, or its evaluations are spent."""
        return self.state.phase == "done" or self.cut_off

    @property
    def cut_off(self) -> bool:
        """Whether its evaluations were spent before it was exhausted."""
        return self.state.phase != "done" and self._trail.spent >= self._most

    @property
    def tier(self) -> Tier | None:
        """The tier the walk is in; None at the end."""
        phase = "global" if self.state.phase == "upward" else self.state.phase
        return None if self.done else phase

    @property
    def incumbent(self) -> Levels:
        """The levels that the walk goes on from."""
        return self.state.incumbent

    @property
    def order(self) -> tuple[str, ...]:
        """The blocks, least sensitive first; empty before the sensitivity tier is complete."""
        return self.state.order

    def proposals(self, verdicts: Mapping[str, Verdict], busy: Collection[str] = ()) -> Iterator[Proposal]:
        """Yield what is worth running now: first what the walk needs, then what it may need, likeliest first.

        ``busy`` are the digests that are running; they are not proposed, but the walk is followed beyond
        them, for each outcome that they and the earlier proposals may have. A memory violation that needs
        no model run is proposed only where it is certain to be visited.
        """
        offered: set[tuple[str, bool]] = set()
        seen: set[State] = set()
        turn = count()
        queue = [] if self.extend(verdicts).done else [(-1.0, next(turn), self.state, False)]
        while queue:
            chance, _, state, guessed = heappop(queue)
            state, proposal = self._follow(state, verdicts)
            if proposal is None or state in seen:
                continue
            seen.add(state)
            speculative = guessed and self.machine.branches(state)
            key = (proposal.digest, proposal.run)
            if key not in offered and proposal.digest not in busy and (proposal.run or not speculative):
                offered.add(key)
                yield replace(proposal, speculative=speculative)
            for verdict, share in self._outcomes(state, proposal):
                ahead = self.machine.advance(state, proposal, verdict)
                heappush(queue, (chance * share, next(turn), ahead, guessed or proposal.run))

    def _outcomes(self, state: State, proposal: Proposal) -> list[tuple[Verdict, float]]:
        """What ``proposal`` may turn out to be, each with its chance: that of the tier's steps so far."""
        outcomes = self.machine.outcomes(state, proposal)
        if len(outcomes) == 1:
            return [(outcomes[0], 1.0)]
        tally = self._trail.tallies[proposal.tier]
        ok = (tally.ok + 1) / (tally.steps + 2)
        return [(outcomes[0], ok), (outcomes[1], 1 - ok)]

    def _follow(self, state: State, verdicts: Mapping[str, Verdict]) -> tuple[State, Proposal | None]:
        while (proposal := self.machine.pending(state)) is not None:
            verdict = verdicts.get(proposal.digest)
            if verdict is None or not proposal.settled_by(verdict):
                return state, proposal
            state = self.machine.advance(state, proposal, verdict)
        return state, None

    def progress(self) -> tuple[TierProgress, ...]:
        """Return how far each tier is, in order."""
        known = self._progress
        if known is None or known[0] is not self.state or known[1] != len(self.steps):
            tiers = tuple(self._progress_of(tier) for tier in TIERS)
            known = self._progress = self.state, len(self.steps), tiers
        return known[2]

    def _progress_of(self, tier: Tier) -> TierProgress:
        tally = self._trail.tallies[tier]
        best = tally.smallest.digest if tally.smallest else None
        return TierProgress(tier, tally.steps, tally.steps + self._left(tier), best)

    def _left(self, tier: Tier) -> int:
        """At most this many settings are still to come in ``tier``."""
        now = self.tier
        if now is None or TIERS.index(tier) < TIERS.index(now):
            return 0
        machine, state = self.machine, self.state
        if tier == "sensitivity":
            return len(machine.grid) - state.index
        if tier == "global":
            levels = machine.skipped if state.phase == "upward" else machine.space.precisions
            return len(levels) - (state.index if now == "global" else 0)
        order = state.order or machine.space.blocks
        units = machine.units(tier, order)
        space, incumbent = machine.space, state.incumbent
        below = {level: sum(bits < level for bits in space.precisions) for level in set(incumbent)}
        left = units[state.index if now == tier else 0 :]
        return sum(below[incumbent[space.positions(unit)[0]]] for unit in left)
