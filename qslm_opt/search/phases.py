"""What several scripts begin with: the sensitivity of the blocks, and the best uniform level."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from math import isfinite
from typing import TYPE_CHECKING

from qslm_opt.hierarchy.tree import NETWORK
from qslm_opt.search.machine import Proposal, propose, unless_too_large
from qslm_opt.search.script import Answers, Ask
from qslm_opt.search.space import FP32_BITS
from qslm_opt.search.tiers import TierMachine

if TYPE_CHECKING:
    from qslm_opt.formats import Bits
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


def uniform(
    space: SearchSpace, order: tuple[str, ...] = (), *, to_end: bool = False
) -> Generator[Ask, Answers, Levels]:
    """Measure the uniform levels as the global tier does; return the levels to start from.

    The lowest metric_ok level that fits the budget; else the nearest above it that is metric_ok; else the
    unquantized levels.
    """
    start = space.uniform(FP32_BITS)
    proposals = tuple(_level(space, bits, to_end) for bits in space.precisions)
    answers = yield Ask(tuple(map(unless_too_large, proposals)), start, order)
    good = [p for p, v in zip(proposals, answers, strict=True) if p.memory_ok and v.metric_ok]
    if good:
        return good[-1].levels
    for proposal in (p for p in reversed(proposals) if not p.memory_ok):
        (verdict,) = yield Ask((proposal,), start, order, open=True)
        if verdict.metric_ok:
            return proposal.levels
    return start


def _level(space: SearchSpace, bits: Bits, to_end: bool) -> Proposal:
    levels = space.uniform(bits)
    return propose(space, "global", NETWORK, bits, levels, space.uniform(FP32_BITS), to_end=to_end)


def usual_bits(space: SearchSpace, levels: Levels) -> Bits:
    """Return the most frequent of the study's precisions among ``levels``, which names a mixed setting."""
    counts = Counter(bits for bits in levels if bits in space.precisions)
    return max(space.precisions, key=lambda bits: (counts[bits], bits))
