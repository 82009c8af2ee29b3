"""The knapsack strategy: cheap sensitivities around a working point, an exact allocation, and refinement."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import isfinite

from qslm_opt.formats import Bits
from qslm_opt.hierarchy.tree import NETWORK
from qslm_opt.search import phases
from qslm_opt.search.gate import Gate
from qslm_opt.search.knapsack import allocate
from qslm_opt.search.machine import Proposal, Tier, propose
from qslm_opt.search.prediction import Sensitivities, curve
from qslm_opt.search.refinement import PATIENCE, Memo, Move, first_good, moves, proposal_of, steps_of
from qslm_opt.search.script import Answers, Ask, Script
from qslm_opt.search.space import FP32_BITS, SearchSpace
from qslm_opt.search.tables import Levels

KNAPSACK_TIERS: tuple[Tier, ...] = ("global", "steps", "allocation", "gate", "refinement", "postponed")
TARGETS = 12
"""At most so many byte targets are tried with one set of sensitivities."""
COARSE, FINE = 0.015, 0.004
"""The series of targets ends when what is open between the last two is this share of the bytes: around the
first working point, and around the later ones."""
STRIDE = 0.03
"""Around a later working point, the first target is this share below the incumbent."""
FAR = 0.05
"""Share of the units that must have moved before sensitivities are measured again."""
POINTS = 2
"""At most so many working points; refinement measures around its own incumbents."""
WORTH = 0.003
"""Another working point is worth its evaluations where the last one saved this share of the bytes."""
SHARE_OF_CAP = 0.4
"""Where the steps of all modules cost more of the evaluations allowed than this, blocks are measured."""


@dataclass(frozen=True)
class Knapsack:
    """Uniform levels first, so that the answer is never larger than the best of them; then allocations.

    ``every`` is the share of the data that a sensitivity is measured on: every so many-th window or sentence.
    """

    space: SearchSpace
    every: int
    cap: int | None = None
    """Evaluations allowed; decides whether modules or blocks are measured."""
    gate: bool = False
    tiers: tuple[Tier, ...] = KNAPSACK_TIERS
    _solved: dict[object, tuple[int, ...] | None] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def units(self) -> tuple[str, ...]:
        """What is measured and moved as one: modules and ties, or blocks where evaluations are scarce."""
        moves = self.space.moves
        steps = 2 * len(moves.smallest) / self.every
        scarce = self.cap is not None and steps > SHARE_OF_CAP * self.cap
        return moves.largest if scarce else moves.smallest

    @property
    def trials(self) -> int:
        """Moves that refinement may try: a sixth of the units, more where ``cap`` says when to end."""
        return max(PATIENCE, len(self.units) // 6) if self.cap is None else self.cap

    def most(self, tier: Tier) -> int:
        """Return about how many settings a tier asks for."""
        counts = {"global": len(self.space.precisions), "steps": 3 * len(self.units) + 2}
        return counts.get(tier, 2 * TARGETS)

    def script(self) -> Script:
        """Return the search from its beginning."""
        uniform = yield from phases.uniform(self.space, to_end=True)
        best, at = uniform.start, uniform.nearest(self.space)
        damage = curve((FP32_BITS, *self.space.precisions), uniform.losses)
        known = Sensitivities(self.levels_of(at), damage)
        last = self.space.memory(best)
        for point in range(POINTS):
            moved = self._moved(known, best) if point else range(len(self.units))
            if point and len(moved) < FAR * len(self.units):
                break
            known = yield from self._measure(known, best if point else at, moved)
            best = yield from self._descend(known, best, first=not point)
            now = self.space.memory(best)
            if point and last - now < WORTH * last:
                break
            last = now
        yield from self._refine(known, best)

    def levels_of(self, levels: Levels) -> tuple[Bits, ...]:
        """Return the level of each unit."""
        return tuple(levels[self.space.positions(unit)[0]] for unit in self.units)

    def with_levels(self, own: Sequence[Bits]) -> Levels:
        """Return the levels in which each unit has its own."""
        levels = list(self.space.uniform(self.space.lowest))
        for unit, bits in zip(self.units, own, strict=True):
            for position in self.space.positions(unit):
                levels[position] = bits
        return tuple(levels)

    def choices(self, unrestrained: bool) -> tuple[Bits, ...]:
        """Return the levels that an allocation may use; float32 only where no uniform level is good."""
        return (FP32_BITS, *self.space.precisions) if unrestrained else self.space.precisions

    def _moved(self, known: Sensitivities, best: Levels) -> Sequence[int]:
        now = self.levels_of(best)
        return [i for i, (old, new) in enumerate(zip(known.point, now, strict=True)) if old != new]

    def _measure(
        self, known: Sensitivities, at: Levels, units: Sequence[int]
    ) -> Generator[Ask, Answers, Sensitivities]:
        """Measure units one step up and down around ``at``, all else as there."""
        steps = [(i, bits) for i in units for bits in self.neighbours(self.levels_of(at)[i])]
        asked = [self._cheap(at, i, bits) for i, bits in steps]
        base = self._cheap(at, None, phases.usual_bits(self.space, at))
        answers = yield Ask((base, *asked), at)
        losses = [v.loss if v.loss is not None and isfinite(v.loss) else None for v in answers]
        usual = losses[0] if losses[0] is not None else min((x for x in losses if x is not None), default=0.0)
        worst = max((x for x in losses if x is not None), default=usual)
        found: dict[int, dict[Bits, float]] = {i: {} for i in units}
        for (i, bits), loss in zip(steps, losses[1:], strict=True):
            found[i][bits] = (2 * worst - usual + 1.0 if loss is None else loss) - usual
        for i, changes in found.items():
            known = known.measured(i, changes, self.levels_of(at)[i])
        return known

    def neighbours(self, level: Bits) -> tuple[Bits, ...]:
        """Return the precisions next above and next below ``level``."""
        around = self.space.above(level), self.space.below(level)
        return tuple(bits for bits in around if bits is not None)

    def _cheap(self, at: Levels, unit: int | None, bits: Bits) -> Proposal:
        name = NETWORK if unit is None else self.units[unit]
        levels = at if unit is None else self.space.with_level(at, name, bits)
        return propose(self.space, "steps", name, bits, levels, at, every=self.every)

    def _descend(self, known: Sensitivities, best: Levels, first: bool) -> Generator[Ask, Answers, Levels]:
        """Search the fewest bytes whose allocation is metric_ok; return the new incumbent.

        Bisection between what is surely too few and the incumbent; around a later working point the incumbent
        is near already, so targets move away from it in growing strides until one is refused.
        """
        space, near = self.space, COARSE if first else FINE
        options = self.choices(FP32_BITS in best)
        floor = low = self._rest - 1
        high, tried = space.memory(best), {space.digest(best)}
        stride = 0 if first else max(1, int(STRIDE * high))
        for turn in range(TARGETS):
            if high - low <= max(1, near * high):
                break
            target = (low + high) // 2
            if turn == 0 and low < space.budget < high:
                target = space.budget
            elif low == floor and stride:
                target, stride = max(target, high - stride), 2 * stride
            levels = self._solve(known, options, target)
            proposal = None if levels is None else self._mixed(levels, best)
            if proposal is None or proposal.digest in tried:
                low = target
                continue
            tried.add(proposal.digest)
            (verdict,) = yield Ask((proposal,), best, open=True)
            if verdict.metric_ok:
                best, high = proposal.levels, proposal.bytes
            else:
                low = target
        return best

    def _mixed(self, levels: Levels, parent: Levels) -> Proposal:
        bits = phases.usual_bits(self.space, levels)
        return propose(self.space, "allocation", NETWORK, bits, levels, parent)

    def _solve(self, known: Sensitivities, options: tuple[Bits, ...], target: int) -> Levels | None:
        """Return the allocation of least predicted loss within ``target`` bytes."""
        sizes = self.sizes(options)
        trusted = [known.trusted(i, options) for i in range(len(sizes))]
        rows = [
            [(row[options.index(bits)], known.predict(i, bits)) for bits in trusted[i]]
            for i, row in enumerate(sizes)
        ]
        room = target - self._rest
        key = (room, tuple(map(tuple, rows)))
        if key not in self._solved:
            self._solved[key] = allocate(rows, room)
        chosen = self._solved[key]
        if chosen is None:
            return None
        return self.with_levels([own[i] for own, i in zip(trusted, chosen, strict=True)])

    def sizes(self, options: tuple[Bits, ...]) -> list[list[int]]:
        """Return the bytes that each unit has at each of ``options``, above those at the lowest precision."""
        floor = self.space.uniform(self.space.lowest)
        return [
            [self.space.memory(self.space.with_level(floor, unit, bits)) - self._rest for bits in options]
            for unit in self.units
        ]

    @cached_property
    def _rest(self) -> int:
        """Bytes with every unit at the lowest precision."""
        return self.space.memory(self.space.uniform(self.space.lowest))

    def _refine(self, known: Sensitivities, best: Levels) -> Script:
        """Accept moves that are metric_ok and save bytes; measure the units that moved again."""
        memo, gate = Memo(self.trials), Gate(self.gate)
        while True:
            moved = self._moved(known, best)
            if moved:
                known = yield from self._measure(known, best, moved)
            found = yield from first_good(self._moves(known, best, memo), best, gate, memo)
            if found is None:
                break
            best = found.levels
        yield from gate.rest(best, self.space.memory(best))

    def _moves(self, known: Sensitivities, at: Levels, memo: Memo) -> Iterator[tuple[Move, Proposal]]:
        """Yield the moves from ``at`` that are worth trying, most promising first."""
        own = self.levels_of(at)
        steps = [steps_of(self.space, unit, own[i], at, known, i) for i, unit in enumerate(self.units)]
        for move in moves(own, steps):
            proposal = proposal_of(self.space, self.units, move, self.with_levels(move.levels), at)
            if memo.allows(move) and proposal.digest not in memo.tried:
                yield move, proposal
