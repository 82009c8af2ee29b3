"""The tier that tunes: any strategy, then the fewest bytes at which a tuned setting is good enough.

Tuning takes as long as many evaluations, so few settings are tuned: uniform levels first, by bisection, then
mixtures of the smallest good setting and the next one below it, in which modules change over one after
another, those first that the strategy found to do least harm for the bytes they save. Where that finds
nothing smaller, the strategy's own answer is tuned: at the same bytes, its metric may be better.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from itertools import chain
from math import inf, isfinite
from typing import TYPE_CHECKING

from qslm_opt.hierarchy.tree import NETWORK
from qslm_opt.search.machine import Proposal, propose
from qslm_opt.search.phases import usual_bits
from qslm_opt.search.script import Answers, Ask, Script

if TYPE_CHECKING:
    from qslm_opt.search.machine import Tier
    from qslm_opt.search.script import Machine
    from qslm_opt.search.space import SearchSpace
    from qslm_opt.search.tables import Levels

NEAR = 0.004
"""The search ends when what is open between good and not good is this share of the bytes."""


@dataclass
class _Seen:
    """What the strategy in front has found out."""

    best: Levels | None = None
    """Its smallest candidate."""
    best_bytes: float = inf
    order: tuple[str, ...] = ()
    base: float | None = None
    """Loss of the setting that the steps were measured around, when last heard of."""
    harm: dict[str, float] = field(default_factory=dict)
    """Unit → loss that its step down adds for each byte it saves, when last measured."""


@dataclass(frozen=True)
class Tuned:
    """``inner``, then its answer's neighbours below, tuned by ``steps`` steps each."""

    space: SearchSpace
    inner: Machine
    steps: int
    tiers: tuple[Tier, ...]

    def most(self, tier: Tier) -> int:
        """Return about how many settings a tier asks for."""
        if tier != self.tiers[-1]:
            return self.inner.most(tier)
        return (len(self.space.precisions) + 1).bit_length() + len(self.space.modules).bit_length()

    def script(self) -> Script:
        """Return the search from its beginning."""
        seen = _Seen()
        yield from self._listen(seen)
        good, below = yield from self._uniform(seen)
        if below is not None:
            good = yield from self._between(good, below, seen)
        if good is not None and good == seen.best:
            yield self._ask(good, good, seen)

    def _listen(self, seen: _Seen) -> Script:
        """Run the strategy in front and note what it finds."""
        script = self.inner.script()
        answers: Answers | None = None
        while True:
            try:
                ask = next(script) if answers is None else script.send(answers)
            except StopIteration:
                return
            answers = yield ask
            seen.order = ask.order or seen.order
            for proposal, verdict in zip(ask.proposals, answers, strict=True):
                loss = verdict.loss
                if proposal.tier == "steps" and loss is not None and isfinite(loss):
                    self._note(seen, proposal, loss)
                if verdict.candidate and not proposal.cheap and proposal.bytes < seen.best_bytes:
                    seen.best, seen.best_bytes = proposal.levels, proposal.bytes

    def _note(self, seen: _Seen, proposal: Proposal, loss: float) -> None:
        """Take in the loss of one unit's step; the first of a sweep is the point that it goes around."""
        saved = self.space.memory(proposal.parent) - proposal.bytes
        if proposal.unit == NETWORK:
            seen.base = loss
        elif saved > 0 and seen.base is not None:
            seen.harm[proposal.unit] = (loss - seen.base) / saved

    def _uniform(self, seen: _Seen) -> Generator[Ask, Answers, tuple[Levels | None, Levels | None]]:
        """Return the smallest uniform levels that are good when tuned, and the next ones below.

        The strategy's own answer stands for the former where none is; None: there is nothing.
        """
        space = self.space
        levels = [space.uniform(bits) for bits in space.precisions]
        sizes = [(space.memory(one), one) for one in levels]
        rungs = [one for size, one in sizes if size < seen.best_bytes and size <= space.budget]
        good, low, high = seen.best, 0, len(rungs)
        while low < high:  # rungs below low are good, those from high on are not
            middle = (low + high) // 2
            (verdict,) = yield self._ask(rungs[middle], good or rungs[0], seen)
            if verdict.metric_ok:
                good, low = rungs[middle], middle + 1
            else:
                high = middle
        return good, rungs[low] if low < len(rungs) else None

    def _between(
        self, good: Levels | None, below: Levels, seen: _Seen
    ) -> Generator[Ask, Answers, Levels | None]:
        """Bisect how many units of ``good`` take the levels of ``below``; return the smallest good.

        A unit is a module, or all that are tied to one another.
        """
        if good is None:
            return None
        units = [unit for unit in self._by_harm(seen) if below[unit[0]] < good[unit[0]]]
        low, high = 0, len(units)  # units[:low] may, units[:high] may not
        while high - low > 1:
            middle = (low + high) // 2
            levels = self._mixed(good, below, units[:middle])
            ends = (self._mixed(good, below, units[:end]) for end in (low, high))
            more, fewer = (self.space.memory(end) for end in ends)
            if more - fewer <= NEAR * more:
                break
            if self.space.memory(levels) > self.space.budget:
                low = middle
                continue
            (verdict,) = yield self._ask(levels, self._mixed(good, below, units[:low]), seen)
            if verdict.metric_ok:
                low = middle
            else:
                high = middle
        return self._mixed(good, below, units[:low])

    def _mixed(self, good: Levels, below: Levels, units: list[tuple[int, ...]]) -> Levels:
        levels = list(good)
        for i in chain.from_iterable(units):
            levels[i] = below[i]
        return tuple(levels)

    def _by_harm(self, seen: _Seen) -> list[tuple[int, ...]]:
        """Return the positions of each unit, those of least harm for the bytes they save first."""
        place = {block: i for i, block in enumerate(seen.order or self.space.blocks)}

        def key(unit: str) -> tuple[float, int, int]:
            i = self.space.positions(unit)[0]
            block = unit.partition("/")[0]
            return seen.harm.get(unit, seen.harm.get(block, 0.0)), place.get(block, len(place)), i

        return [self.space.positions(unit) for unit in sorted(self.space.moves.smallest, key=key)]

    def _ask(self, levels: Levels, parent: Levels, seen: _Seen) -> Ask:
        bits = usual_bits(self.space, levels)
        proposal = propose(self.space, self.tiers[-1], NETWORK, bits, levels, parent, tune=self.steps)
        return Ask((proposal,), parent, seen.order, open=True)
