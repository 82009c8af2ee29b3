"""Optuna's own samplers on the same study: TPE, NSGA-II and random search, for comparison.

They work on a study of their own, in memory, with one categorical parameter for each module; what they
suggest there becomes a proposal here. That study is made anew from the verdicts wherever one goes on, so the
suggestions depend on the seed and the verdicts alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import optuna
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import TrialState

from qslm_opt.hierarchy.tree import NETWORK
from qslm_opt.search import phases
from qslm_opt.search.machine import Proposal, Tier, Verdict, propose, unless_too_large
from qslm_opt.search.script import Answers, Ask, Script

if TYPE_CHECKING:
    from optuna import Study, Trial

    from qslm_opt.search.space import SearchSpace
    from qslm_opt.search.tables import Levels

STARTUP = 10
"""Trials of TPE that are random; they are asked for together, as those of a generation are."""
POPULATION = 20
"""Settings in a generation of NSGA-II."""
ASKED = 8
"""For each evaluation at most so many settings are drawn: those above the memory budget cost none."""
UNKNOWN = 1.0
"""Violation of the metric where a setting could not be measured."""


@dataclass(frozen=True)
class Sampled:
    """Fewest bytes under the two constraints, drawn by one of Optuna's samplers.

    The uniform levels are told first, as in every study. Settings above the memory budget are told as
    violations without a model run and do not count as evaluations.
    """

    space: SearchSpace
    name: str
    """``tpe``, ``nsga2`` or ``random``."""
    seed: int
    evaluations: int
    tiers: tuple[Tier, ...]

    def most(self, tier: Tier) -> int:
        """Return about how many settings a tier asks for."""
        uniform = len(self.space.precisions)
        return uniform if tier == "global" else max(0, self.evaluations - uniform)

    def script(self) -> Script:
        """Return the search from its beginning."""
        study, ran = self._study(), set[str]()
        yield from self._uniform(study, ran)
        asked = 0
        while len(ran) < self.evaluations and asked < ASKED * self.evaluations:
            size = min(self._round(len(study.trials)), self.evaluations - len(ran))
            drawn = [self._draw(study) for _ in range(size)]
            asked += size
            answers = yield Ask(tuple(p for _, p in drawn), drawn[0][1].levels)
            for (trial, proposal), verdict in zip(drawn, answers, strict=True):
                self._tell(study, trial, proposal, verdict, ran)

    def _uniform(self, study: Study, ran: set[str]) -> Generator[Ask, Answers, None]:
        start = self.space.uniform(self.space.precisions[0])
        levels = [self.space.uniform(bits) for bits in self.space.precisions]
        proposals = [
            unless_too_large(propose(self.space, "global", NETWORK, own[0], own, start, to_end=True))
            for own in levels
        ][: self.evaluations]
        answers = yield Ask(tuple(proposals), start)
        for proposal, verdict in zip(proposals, answers, strict=True):
            study.enqueue_trial(dict.fromkeys(self.space.moves.smallest, proposal.bits))
            trial, again = self._draw(study)
            self._tell(study, trial, again, verdict, ran)

    def _study(self) -> Study:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        return optuna.create_study(sampler=sampler_of(self.name, self.seed), direction="minimize")

    def _round(self, trials: int) -> int:
        """Return how many settings are drawn before one is told: the same for any number of workers."""
        if self.name == "tpe":
            return 1 if trials >= STARTUP else STARTUP - trials
        return POPULATION

    def _draw(self, study: Study) -> tuple[Trial, Proposal]:
        trial, choices = study.ask(), self.space.precisions
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # 1.58 among the choices is a number like any other
            levels: Levels = self.space.uniform(choices[0])
            for unit in self.space.moves.smallest:
                levels = self.space.with_level(levels, unit, trial.suggest_categorical(unit, choices))
        bits = phases.usual_bits(self.space, levels)
        parent = self.space.uniform(self.space.precisions[0])
        made = propose(self.space, "sampled", NETWORK, bits, levels, parent, to_end=True)
        return trial, unless_too_large(made)

    def _tell(self, study: Study, trial: Trial, proposal: Proposal, verdict: Verdict, ran: set[str]) -> None:
        for name, slack in self._constraints(proposal, verdict):
            trial.set_constraint(name, slack)
        if proposal.run:
            ran.add(proposal.digest)
        if verdict.failed:
            study.tell(trial, state=TrialState.FAIL)
        else:
            study.tell(trial, proposal.bytes / self.space.fp32_bytes)

    def _constraints(self, proposal: Proposal, verdict: Verdict) -> Iterator[tuple[str, float]]:
        slack = verdict.slack if verdict.slack is not None and proposal.run else None
        unknown = UNKNOWN if proposal.run and verdict.metric_ok is not True else 0.0
        yield "metric", unknown if slack is None else slack
        yield "memory", proposal.bytes / self.space.budget - 1


def sampler_of(name: str, seed: int) -> BaseSampler:
    """Return one of Optuna's samplers with its defaults; NSGA-II with a population of ``POPULATION``."""
    if name == "tpe":
        return TPESampler(seed=seed, n_startup_trials=STARTUP)
    if name == "nsga2":
        return NSGAIISampler(seed=seed, population_size=POPULATION)
    return RandomSampler(seed)
