"""The strategies by name: what a study's spec makes of a search space."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qslm_opt.search.allocation import Knapsack
from qslm_opt.search.beam import Beam
from qslm_opt.search.script import Machine, ScriptPath
from qslm_opt.search.tuned import Tuned
from qslm_opt.search.walk import Walk
from qslm_opt.spec import SAMPLERS, STRATEGIES

if TYPE_CHECKING:
    from qslm_opt.search.machine import Path, Tier
    from qslm_opt.search.space import SearchSpace
    from qslm_opt.spec import StudySpec

ENOUGH = {"accuracy": 200, "perplexity": 4096}
"""A sensitivity is measured on about so many sentences or tokens, by the metric."""
FEWEST, MOST = 2, 8
"""It is measured on a half to an eighth of the data."""


@dataclass(frozen=True)
class Strategy:
    """How a study is searched: a value, the same in every process that works on it."""

    name: str = "tiered"
    tiers: tuple[Tier, ...] = STRATEGIES["tiered"]
    beam_width: int = 4
    evaluations: int | None = None
    gate: bool = False
    every: int = 8
    tune: int = 0
    seed: int = 0

    @classmethod
    def of(cls, spec: StudySpec, n: int = 0) -> Strategy:
        """Return the strategy of a study whose data has ``n`` sentences or predicted tokens."""
        every = spec.every or min(MOST, max(FEWEST, n // ENOUGH[spec.metric]))
        return cls(
            spec.strategy, spec.tiers, spec.beam_width, spec.evaluations, spec.gate, every, spec.tune,
            spec.seed,
        )  # fmt: skip

    def path(self, space: SearchSpace) -> Path:
        """Return the path of the search over ``space``, before any verdict."""
        if self.tune:
            return ScriptPath(Tuned(space, self.machine(space), self.tune, self.tiers), self.evaluations)
        if self.name == "tiered":
            return Walk(space, self.evaluations)
        return ScriptPath(self.machine(space), self.evaluations)

    def machine(self, space: SearchSpace) -> Machine:
        """Return the script machine; that of the tiers is a beam of one incumbent."""
        if self.name in SAMPLERS:
            from qslm_opt.search.sampled import Sampled  # imports Optuna

            return Sampled(space, self.name, self.seed, self.evaluations or SAMPLERS[self.name], self.tiers)
        return MACHINES[self.name](self, space)


def machine_of(spec: StudySpec, space: SearchSpace, n: int = 0) -> Path:
    """Return the path of a study's strategy over its space and ``n`` sentences or tokens."""
    return Strategy.of(spec, n).path(space)


def _tiered(how: Strategy, space: SearchSpace) -> Machine:
    return Beam(space, 1, False, how.tiers)


def _beam(how: Strategy, space: SearchSpace) -> Machine:
    return Beam(space, how.beam_width, how.gate, how.tiers)


def _knapsack(how: Strategy, space: SearchSpace) -> Machine:
    return Knapsack(space, how.every, how.evaluations, how.gate, how.tiers)


MACHINES: dict[str, Callable[[Strategy, SearchSpace], Machine]] = {
    "tiered": _tiered, "beam": _beam, "knapsack": _knapsack
}  # fmt: skip
"""Strategies of ours by name."""
