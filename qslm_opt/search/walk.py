"""The walk through the tiers over the verdicts known so far, what it may need next, and how far it is."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from itertools import count

from qslm_opt.search.space import SearchSpace
from qslm_opt.search.tables import Levels
from qslm_opt.search.tiers import TIERS, Proposal, State, Tier, TierMachine, Verdict


@dataclass(frozen=True)
class Step:
    """One setting on the walk, with its verdict."""

    proposal: Proposal
    verdict: Verdict

    @property
    def candidate(self) -> bool:
        """Whether it was measured to the end and meets both constraints."""
        return self.verdict.candidate and self.proposal.memory_ok


@dataclass(frozen=True)
class TierProgress:
    """How far one tier is, in settings that it is the first to visit."""

    tier: Tier
    done: int
    total: int
    """Exact once the tier is complete; before, at most this many. The levels above the budget, which the
    global tier measures when none that fits is good enough, come on top."""
    best: str | None
    """Digest of the tier's smallest candidate; None without one."""


@dataclass
class _Tally:
    """What the visited settings of one tier come to."""

    steps: int = 0
    ok: int = 0
    """Those that are metric_ok."""
    smallest: Proposal | None = None
    """The candidate of fewest bytes, the first among equals."""

    def add(self, step: Step) -> None:
        self.steps += 1
        self.ok += step.verdict.metric_ok is True
        if step.candidate and (self.smallest is None or step.proposal.bytes < self.smallest.bytes):
            self.smallest = step.proposal


class Walk:
    """The one sequential path through the tiers; ``extend`` moves it on as verdicts arrive.

    Verdicts of visited digests must not change in between; build a new walk when one did.
    """

    def __init__(self, space: SearchSpace) -> None:
        self.machine = TierMachine(space)
        self.state: State = self.machine.start()
        self.steps: list[Step] = []
        """Visited settings in order, each once; once more when it was first told without a model run.

        Without their levels, which would fill the memory of a long search.
        """
        self._ran: dict[str, bool] = {}
        self._tallies: dict[Tier, _Tally] = {tier: _Tally() for tier in TIERS}
        self._progress: tuple[State, int, tuple[TierProgress, ...]] | None = None

    def extend(self, verdicts: Mapping[str, Verdict]) -> Walk:
        """Go on as far as ``verdicts`` (digest → verdict) lead; return self."""
        while (proposal := self.machine.pending(self.state)) is not None:
            verdict = verdicts.get(proposal.digest)
            if verdict is None or not proposal.settled_by(verdict):
                break
            self._visit(Step(proposal, verdict))
            self.state = self.machine.advance(self.state, proposal, verdict)
        return self

    def _visit(self, step: Step) -> None:
        ran = self._ran.get(step.proposal.digest)
        if ran is None or (step.proposal.run and not ran):
            self._ran[step.proposal.digest] = step.proposal.run
            light = replace(step, proposal=replace(step.proposal, levels=(), parent=()))
            self.steps.append(light)
            self._tallies[step.proposal.tier].add(light)

    @property
    def done(self) -> bool:
        """Whether the search is exhausted."""
        return self.state.phase == "done"

    @property
    def tier(self) -> Tier | None:
        """The tier the walk is in; None at the end."""
        phase = "global" if self.state.phase == "upward" else self.state.phase
        return None if phase == "done" else phase

    @property
    def visited(self) -> tuple[str, ...]:
        """Digests on the walk, in order: the search's result is made of these alone."""
        return tuple(self._ran)

    @property
    def candidates(self) -> tuple[Step, ...]:
        """The visited settings that were measured to the end and meet both constraints, in order."""
        return tuple(step for step in self.steps if step.candidate)

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
        queue = [(-1.0, next(turn), self.extend(verdicts).state, False)]
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
        tally = self._tallies[proposal.tier]
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
        tally = self._tallies[tier]
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
