"""Beam search over the tiers: several incumbents instead of one, and the greedy one always among them."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

from qslm_opt.search import phases
from qslm_opt.search.gate import Gate
from qslm_opt.search.machine import Proposal, propose
from qslm_opt.search.script import Answers, Ask, Script
from qslm_opt.search.space import SearchSpace
from qslm_opt.search.tables import Levels
from qslm_opt.search.tiers import TIERS, Tier


@dataclass(frozen=True)
class Beam:
    """Each unit of the block and module tiers is lowered, step by step, in each of ``width`` incumbents.

    After a unit the ``width`` metric_ok incumbents of fewest bytes go on. The first of them is that of the
    greedy tiers, whatever its bytes, so that the result is never larger than theirs; an incumbent whose
    smallest continuation is above the budget is dropped.
    """

    space: SearchSpace
    width: int
    gate: bool = False
    tiers: tuple[Tier, ...] = TIERS

    def script(self) -> Script:
        """Return the search from its beginning."""
        order = yield from phases.sensitivity(self.space)
        uniform = yield from phases.uniform(self.space, order)
        lanes = [uniform.start]
        units, gate = self._units(order), Gate(self.gate)
        for place, (tier, unit) in enumerate(units):
            free = {i for _, later in units[place:] for i in self.space.positions(later)}
            lanes = [lane for lane in lanes if self.space.floor(lane, free) <= self.space.budget]
            if not lanes:
                return
            lanes = yield from self._lower(tier, unit, free, lanes, order, gate)
        best = min(lanes, key=self.space.memory)
        yield from gate.rest(best, self.space.memory(best), order)

    def most(self, tier: Tier) -> int:
        """Return about how many settings a tier asks for: each unit once or twice in every incumbent."""
        space = self.space
        if tier == "sensitivity":
            return len(space.blocks) * len(space.sensitivity_precisions)
        if tier == "global":
            return len(space.precisions)
        if tier not in ("block", "module"):
            return 0
        units = self._units(space.blocks)
        return 2 * self.width * sum(name == tier for name, _ in units)

    def _units(self, order: tuple[str, ...]) -> list[tuple[Tier, str]]:
        moves = self.space.moves
        blocks, modules = moves.block_targets(order), moves.module_targets(order)
        return [*(("block", block) for block in blocks), *(("module", module) for module in modules)]

    def _lower(
        self, tier: Tier, unit: str, free: set[int], lanes: Sequence[Levels], order: tuple[str, ...],
        gate: Gate,
    ) -> Generator[Ask, Answers, list[Levels]]:  # fmt: skip
        """Lower one unit in every lane as far as it is ok; return the lanes that go on, greedy's first."""
        pool, front, greedy = list(lanes), list(lanes), lanes[0]
        while front:
            found = [p for p in (self._step(tier, unit, lane, free) for lane in front) if p is not None]
            distinct = list({p.digest: p for p in found}.values())
            steps = tuple((yield from gate.sort(distinct, greedy, order)))
            answers = yield Ask(steps, greedy, order, open=True)
            for proposal, verdict in zip(steps, answers, strict=True):
                gate.learn(proposal, verdict)
            good = [p for p, v in zip(steps, answers, strict=True) if v.metric_ok]
            greedy = next((p.levels for p in good if p.parent == greedy), greedy)
            front = [p.levels for p in good]
            pool += front
        others = sorted(set(pool) - {greedy}, key=lambda levels: (self.space.memory(levels), levels))
        return [greedy, *others[: self.width - 1]]

    def _step(self, tier: Tier, unit: str, lane: Levels, free: set[int]) -> Proposal | None:
        """Return the unit one precision lower; None where there is none, or it can never fit."""
        space = self.space
        bits = space.below(lane[space.positions(unit)[0]])
        if bits is None:
            return None
        levels = space.with_level(lane, unit, bits)
        proposal = propose(space, tier, unit, bits, levels, lane)
        fits = proposal.memory_ok or space.floor(levels, free) <= space.budget
        return proposal if fits else None
