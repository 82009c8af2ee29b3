"""The tiers of the search as a pure state machine: a state and a verdict in, the next state out.

The rules, exactly (``N`` are the precisions, descending; ``ok`` is short for metric_ok):

* **sensitivity**: each block of the space alone, with what is tied to it, at each sensitivity precision,
  everything else in float32 (pins excepted). Always measured to the end. The order of the blocks is that of
  their mean loss, lowest first, equal ones in hierarchy order; a block with a failed or non-finite loss is
  among the last.
* **global**: all units at n, for every n of N. A level above the memory budget is told without a model run.
  Every level that fits is measured, also after one that was not ok. The incumbent is the lowest ok level
  that fits; when none is ok, the levels above the budget are measured too, nearest first, until one is ok;
  when none is, the unquantized levels are the incumbent (they are not measured: they are the baseline but
  for pins and fixed formats).
* **block**: for each block in order, one precision lower while ok; the incumbent keeps the last that was.
* **module**: the same for each module of each attention block, in the same order of blocks. Tied modules are
  one; a tie that spans blocks is moved here at the place of its first block, and by no block before
  (``moves``).
* The incumbent of the last two tiers moves on ok alone, so a proposal above the budget is measured as long
  as the rest of the walk can still bring it below. It is told without a model run only when even its
  **smallest continuation** is above the budget: every unit that the walk may still lower at the lowest
  precision, the others as proposed. Nothing that follows can fit then either, and the walk ends there.
* A setting whose digest has a verdict costs nothing: the walk uses it.

The result of a search is this walk, not the set of its trials: what several workers measured ahead of it
and the walk never visited changes neither its incumbent nor its candidates.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import isfinite
from typing import Literal

from qslm_opt.formats import Bits
from qslm_opt.hierarchy.tree import NETWORK
from qslm_opt.search.machine import Proposal as Proposal
from qslm_opt.search.machine import Tier as Tier
from qslm_opt.search.machine import Verdict as Verdict
from qslm_opt.search.machine import propose
from qslm_opt.search.space import FP32_BITS, SearchSpace
from qslm_opt.search.tables import Levels

TIERS: tuple[Tier, ...] = ("sensitivity", "global", "block", "module")
Phase = Literal["sensitivity", "global", "upward", "block", "module", "done"]


@dataclass(frozen=True)
class State:
    """Where a walk stands. ``index`` counts grid points, levels or units, by phase."""

    phase: Phase
    index: int
    incumbent: Levels
    order: tuple[str, ...] = ()
    """Blocks, least sensitive first; empty before the sensitivity tier is complete."""
    losses: tuple[float, ...] = ()
    lowest_ok: Bits | None = None
    """Lowest uniform level so far that fits the memory and is metric_ok."""


class TierMachine:
    """The rules over one search space."""

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self.grid = tuple((block, bits) for block in space.blocks for bits in space.sensitivity_precisions)
        fits = {bits: space.memory(space.uniform(bits)) <= space.budget for bits in space.precisions}
        self.skipped = tuple(bits for bits in reversed(space.precisions) if not fits[bits])
        """Uniform levels above the budget, nearest first."""
        self._targets: dict[tuple[str, tuple[str, ...]], tuple[str, ...]] = {}
        self._last: tuple[State, Proposal | None] | None = None

    def start(self) -> State:
        """Return the state before any verdict."""
        return State("sensitivity", 0, self.space.uniform(FP32_BITS))

    def targets(self, state: State) -> tuple[str, ...]:
        """Return the units of the state's tier in order: blocks or modules; empty for the first two tiers."""
        return self.units(state.phase, state.order) if state.phase in ("block", "module") else ()

    def units(self, tier: str, order: tuple[str, ...]) -> tuple[str, ...]:
        """Return what the block or the module tier moves, in the given order of blocks."""
        key = tier, order
        if key not in self._targets:
            moves = self.space.moves
            self._targets[key] = (moves.block_targets if tier == "block" else moves.module_targets)(order)
        return self._targets[key]

    def pending(self, state: State) -> Proposal | None:
        """Return what the walk needs next, or None when it is at its end; the last answer is kept."""
        known = self._last
        if known is None or known[0] is not state:
            known = self._last = state, self._pending(state)
        return known[1]

    def _pending(self, state: State) -> Proposal | None:
        space, unquantized = self.space, self.space.uniform(FP32_BITS)
        if state.phase == "sensitivity":
            block, bits = self.grid[state.index]
            levels = space.alone(block, bits)
            return self._proposal("sensitivity", block, bits, levels, unquantized)
        if state.phase in ("global", "upward"):
            bits = (space.precisions if state.phase == "global" else self.skipped)[state.index]
            proposal = self._proposal("global", NETWORK, bits, space.uniform(bits), unquantized)
            return replace(proposal, run=proposal.memory_ok or state.phase == "upward")
        return None if state.phase == "done" else self._lower(state)

    def advance(self, state: State, proposal: Proposal, verdict: Verdict) -> State:
        """Return the state after ``verdict`` on ``proposal``, the pending one of ``state``."""
        ok = verdict.metric_ok is True
        if state.phase == "sensitivity":
            return self._after_sensitivity(state, verdict)
        if state.phase == "global":
            return self._after_global(state, proposal.bits if ok and proposal.memory_ok else state.lowest_ok)
        if state.phase == "upward":
            if ok:
                return self._settle(replace(state, phase="block", index=0, incumbent=proposal.levels))
            return self._next_upward(replace(state, index=state.index + 1))
        if not proposal.run:
            return replace(state, phase="done")
        moved = replace(state, incumbent=proposal.levels) if ok else replace(state, index=state.index + 1)
        return self._settle(moved)

    def outcomes(self, state: State, proposal: Proposal) -> tuple[Verdict, ...]:
        """Return what ``proposal`` may turn out to be: ok or not, or one where it is all the same."""
        refused = Verdict(False, proposal.memory_ok)
        if state.phase == "sensitivity" or not proposal.run:
            return (refused if proposal.run else Verdict(None, False),)
        return (Verdict(True, proposal.memory_ok), refused)

    def branches(self, state: State) -> bool:
        """Return whether what is proposed in ``state`` depends on verdicts before it."""
        return state.phase not in ("sensitivity", "global")

    def _proposal(self, tier: Tier, unit: str, bits: Bits, levels: Levels, parent: Levels) -> Proposal:
        return propose(self.space, tier, unit, bits, levels, parent)

    def _lower(self, state: State) -> Proposal:
        """The next step of the block and module tiers: the current unit one precision lower."""
        unit = self.targets(state)[state.index]
        bits = self.space.below(self._level(state, unit))
        assert bits is not None  # _settle() left no state whose unit is at the lowest precision
        levels = self.space.with_level(state.incumbent, unit, bits)
        tier: Tier = "block" if state.phase == "block" else "module"
        proposal = self._proposal(tier, unit, bits, levels, state.incumbent)
        return proposal if proposal.memory_ok else replace(proposal, run=self._can_fit(state, levels))

    def _can_fit(self, state: State, levels: Levels) -> bool:
        """Whether the smallest continuation of ``levels`` is within the budget."""
        units = self.targets(state)[state.index :]
        if state.phase == "block":
            units += self.units("module", state.order)
        free = {position for unit in units for position in self.space.positions(unit)}
        return self.space.floor(levels, free) <= self.space.budget

    def _level(self, state: State, unit: str) -> Bits:
        return state.incumbent[self.space.positions(unit)[0]]

    def _after_sensitivity(self, state: State, verdict: Verdict) -> State:
        usable = verdict.loss is not None and isfinite(verdict.loss) and not verdict.failed
        losses = (*state.losses, verdict.loss if usable and verdict.loss is not None else float("inf"))
        if len(losses) < len(self.grid):
            return replace(state, index=state.index + 1, losses=losses)
        return replace(state, phase="global", index=0, losses=(), order=self.order(losses))

    def order(self, losses: tuple[float, ...]) -> tuple[str, ...]:
        """Return the blocks by their mean over ``losses`` (one for each point of ``grid``), lowest first."""
        per_block = len(self.space.sensitivity_precisions)
        means = [sum(losses[i : i + per_block]) / per_block for i in range(0, len(losses), per_block)]
        return tuple(
            block for _, _, block in sorted(zip(means, range(len(means)), self.space.blocks, strict=True))
        )

    def _after_global(self, state: State, lowest_ok: Bits | None) -> State:
        if state.index + 1 < len(self.space.precisions):
            return replace(state, index=state.index + 1, lowest_ok=lowest_ok)
        if lowest_ok is None:
            return self._next_upward(replace(state, phase="upward", index=0))
        incumbent = self.space.uniform(lowest_ok)
        return self._settle(replace(state, phase="block", index=0, incumbent=incumbent, lowest_ok=None))

    def _next_upward(self, state: State) -> State:
        if state.index < len(self.skipped):
            return state
        return self._settle(replace(state, phase="block", index=0))

    def _settle(self, state: State) -> State:
        """Step over units that are at the lowest precision, into the next tier and to the end."""
        while state.phase in ("block", "module"):
            units = self.targets(state)
            if state.index == len(units):
                state = replace(state, phase="module" if state.phase == "block" else "done", index=0)
            elif self.space.below(self._level(state, units[state.index])) is None:
                state = replace(state, index=state.index + 1)
            else:
                return state
        return state
