"""What several scripts begin with: the sensitivity of the blocks, and the best uniform level."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING

from qslm_opt.formats import Bits
from qslm_opt.hierarchy.tree import NETWORK
from qslm_opt.search.machine import Proposal, Verdict, propose, unless_too_large
from qslm_opt.search.script import Answers, Ask
from qslm_opt.search.space import FP32_BITS
from qslm_opt.search.tiers import TierMachine

if TYPE_CHECKING:
    from qslm_opt.search.space import SearchSpace
    from qslm_opt.search.tables import Levels


def sensitivity(space: SearchSpace) -> Generator[Ask, Answers, tuple[str, ...]]:
    """Measure each block alone at each sensitivity precision; return the blocks, least sensitive first."""
    machine, unquantized = TierMachine(space), space.uniform(FP32_BITS)
    proposals = tuple(
        propose(space, "sensitivity", block, bits, space.alone(block, bits), unquantized)
        for block, bits in machine.grid
    )
    answers = yield Ask(proposals, unquantized)
    losses = tuple(
        v.loss if v.loss is not None and isfinite(v.loss) and not v.failed else float("inf") for v in answers
    )
    return machine.order(losses)


@dataclass(frozen=True)
class Uniform:
    """What the uniform levels came to."""

    start: Levels
    """The lowest metric_ok level that fits the budget; else the nearest above it that is metric_ok; else the
    unquantized levels."""
    losses: Mapping[Bits, float]
    """Of the levels that were measured to the end."""
    slacks: Mapping[Bits, float]
    """How far those are from the metric's bound, relative; 0 or below meets it."""

    def nearest(self, space: SearchSpace) -> Levels:
        """Return the level nearest to the bound, on either side; ``start`` where none is known."""
        if not self.slacks or FP32_BITS in self.start:
            return self.start
        return space.uniform(min(self.slacks, key=lambda bits: (abs(self.slacks[bits]), bits)))


def uniform(
    space: SearchSpace, order: tuple[str, ...] = (), *, to_end: bool = False
) -> Generator[Ask, Answers, Uniform]:
    """Measure the uniform levels as the global tier does."""
    start = space.uniform(FP32_BITS)
    proposals = tuple(_level(space, bits, to_end) for bits in space.precisions)
    answers = yield Ask(tuple(map(unless_too_large, proposals)), start, order)
    good = [p for p, v in zip(proposals, answers, strict=True) if p.memory_ok and v.metric_ok]
    losses, slacks = dict[Bits, float](), dict[Bits, float]()
    for proposal, verdict in zip(proposals, answers, strict=True):
        _note(proposal, verdict, losses, slacks)
    if good:
        return Uniform(good[-1].levels, losses, slacks)
    for proposal in (p for p in reversed(proposals) if not p.memory_ok):
        (verdict,) = yield Ask((proposal,), start, order, open=True)
        _note(proposal, verdict, losses, slacks)
        if verdict.metric_ok:
            return Uniform(proposal.levels, losses, slacks)
    return Uniform(start, losses, slacks)


def _note(proposal: Proposal, verdict: Verdict, losses: dict[Bits, float], slacks: dict[Bits, float]) -> None:
    if verdict.value is not None and verdict.loss is not None and isfinite(verdict.loss):
        losses[proposal.bits] = verdict.loss
        slacks[proposal.bits] = 0.0 if verdict.slack is None else verdict.slack


def _level(space: SearchSpace, bits: Bits, to_end: bool) -> Proposal:
    levels = space.uniform(bits)
    return propose(space, "global", NETWORK, bits, levels, space.uniform(FP32_BITS), to_end=to_end)


def usual_bits(space: SearchSpace, levels: Levels) -> Bits:
    """Return the most frequent of the study's precisions among ``levels``, which names a mixed setting."""
    counts = Counter(bits for bits in levels if bits in space.precisions)
    return max(space.precisions, key=lambda bits: (counts[bits], bits))
