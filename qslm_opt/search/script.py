"""Strategies written as scripts: a generator asks for verdicts and is given them, batch after batch.

A script is deterministic: what it asks depends on the answers so far alone. So it can be begun anew and told
the same answers, which is how a path looks ahead: it tells a copy what a running evaluation may turn out to
be, and proposes what that copy would ask.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from itertools import count
from math import inf
from typing import TYPE_CHECKING, Protocol

from qslm_opt.search.machine import Proposal, Step, Tally, Tier, TierProgress, Trail, TrailFacts, Verdict

if TYPE_CHECKING:
    from qslm_opt.search.space import SearchSpace
    from qslm_opt.search.tables import Levels

Answers = tuple[Verdict, ...]
"""Verdicts of the proposals of one ``Ask``, in their order."""
LOOKS = 24
"""At most so many futures are looked into for one proposal."""


@dataclass(frozen=True)
class Ask:
    """Settings whose verdicts a script needs before it goes on; none depends on another."""

    proposals: tuple[Proposal, ...]
    incumbent: Levels
    order: tuple[str, ...] = ()
    open: bool = False
    """Whether the script goes on from metric_ok alone, so that its next question can be guessed."""


Script = Generator[Ask, Answers, None]


class Machine(Protocol):
    """A strategy over one search space."""

    @property
    def space(self) -> SearchSpace:
        """What is searched."""

    @property
    def tiers(self) -> tuple[Tier, ...]:
        """Names of the tiers, in order."""

    def script(self) -> Script:
        """Return the search from its beginning."""

    def most(self, tier: Tier) -> int:
        """Return about how many settings a tier asks for."""


class ScriptPath(TrailFacts):
    """The path of a script; ``most`` full evaluations end it."""

    def __init__(self, machine: Machine, most: float | None = None) -> None:
        self.machine, self._most = machine, inf if most is None else float(most)
        self._trail = Trail({tier: Tally() for tier in machine.tiers})
        self.steps = self._trail.steps
        self._told: list[Answers] = []
        self._forks: dict[tuple[Answers, ...], Ask | None] = {}
        self._script = machine.script()
        self.cut_off = False
        """Whether its evaluations were spent before it was exhausted."""
        self._last: Ask | None = None
        self._ask = self._next(None)
        self._here = 0

    def _next(self, answers: Answers | None) -> Ask | None:
        ask = _send(self._script, answers)
        self._last = ask or self._last
        spent = self._trail.spent
        if ask is not None and (spent >= self._most or spent + self._price(ask) > self._most):
            self.cut_off = True
            return None
        return ask

    def _price(self, ask: Ask) -> float:
        """What is new in a question, in full evaluations."""
        ran = self._trail.ran
        return sum({p.digest: p.cost for p in ask.proposals if not ran.get(p.digest)}.values())

    def extend(self, verdicts: Mapping[str, Verdict]) -> ScriptPath:
        """Go on as far as ``verdicts`` (digest → verdict) lead; return self."""
        while self._ask is not None:
            answers = _answers(self._ask, verdicts)
            self._here = sum(v is not None for v in answers)
            told = tuple(v for v in answers if v is not None)
            if len(told) < len(answers):
                break
            for proposal, verdict in zip(self._ask.proposals, told, strict=True):
                self._trail.visit(Step(proposal, verdict))
            self._told.append(told)
            self._forks.clear()
            self._ask = self._next(told)
        return self

    def proposals(self, verdicts: Mapping[str, Verdict], busy: Collection[str] = ()) -> Iterator[Proposal]:
        """Yield what the script needs, then what it may need: the likeliest answers first.

        ``busy`` are the digests that are running; they are not proposed.
        """
        self.extend(verdicts)
        offered: set[str] = set()
        turn, looks = count(), 0
        queue: list[tuple[float, int, tuple[Answers, ...]]] = [(-1.0, next(turn), ())]
        while queue and looks < LOOKS:
            chance, _, guesses = heappop(queue)
            guesses, ask = self._future(guesses, verdicts)
            looks += 1
            if ask is None:
                continue
            answers = _answers(ask, verdicts)
            for proposal in (p for p, v in zip(ask.proposals, answers, strict=True) if v is None):
                if proposal.digest not in offered and (proposal.run or not guesses):
                    offered.add(proposal.digest)
                    if proposal.digest not in busy:
                        yield replace(proposal, speculative=bool(guesses))
            if ask.open:
                for guess, share in self._guesses(ask, answers):
                    heappush(queue, (chance * share, next(turn), (*guesses, guess)))

    def _future(
        self, guesses: tuple[Answers, ...], verdicts: Mapping[str, Verdict]
    ) -> tuple[tuple[Answers, ...], Ask | None]:
        """Return what a script that was told ``guesses`` asks that is not known, and all it was told."""
        if not guesses:
            return (), self._ask
        if guesses in self._forks and not _known(self._forks[guesses], verdicts):
            return guesses, self._forks[guesses]
        fork, ask = self.machine.script(), None
        for answers in (None, *self._told, *guesses):
            ask = _send(fork, answers)
        while ask is not None and (known := _known(ask, verdicts)):
            guesses = (*guesses, known)
            ask = _send(fork, known)
        fork.close()
        self._forks[guesses] = ask
        return guesses, ask

    def _guesses(self, ask: Ask, answers: tuple[Verdict | None, ...]) -> Iterator[tuple[Answers, float]]:
        """Yield what the missing answers may be, each with its chance; of many, only the likeliest."""
        missing = [i for i, answer in enumerate(answers) if answer is None]
        chances = {i: self._chance(ask.proposals[i].tier) for i in missing}
        outcomes = (True, False) if len(missing) == 1 else (None,)
        for ok in outcomes:
            told, share = list(answers), 1.0
            for i in missing:
                good = chances[i] >= 0.5 if ok is None else ok
                told[i] = Verdict(good, ask.proposals[i].memory_ok)
                share *= chances[i] if good else 1 - chances[i]
            yield tuple(v for v in told if v is not None), share

    def _chance(self, tier: Tier) -> float:
        tally = self._trail.tallies[tier]
        return (tally.ok + 1) / (tally.steps + 2)

    @property
    def done(self) -> bool:
        """Whether the search is exhausted, or its evaluations are spent."""
        return self._ask is None

    @property
    def tier(self) -> Tier | None:
        """The tier the path is in; None at the end."""
        return None if self._ask is None else self._ask.proposals[0].tier

    @property
    def incumbent(self) -> Levels:
        """The levels that the script goes on from."""
        return self._last.incumbent if self._last else ()

    @property
    def order(self) -> tuple[str, ...]:
        """The blocks, least sensitive first; empty where the script does not find that out."""
        return self._last.order if self._last else ()

    def progress(self) -> tuple[TierProgress, ...]:
        """Return how far each tier is, in order."""
        return tuple(self._progress_of(tier) for tier in self.machine.tiers)

    def _progress_of(self, tier: Tier) -> TierProgress:
        tally, names, now = self._trail.tallies[tier], self.machine.tiers, self.tier
        best = tally.smallest.digest if tally.smallest else None
        here = self._here if tier == now else 0
        done = tally.steps + here
        if now is None or names.index(tier) < names.index(now):
            return TierProgress(tier, done, done, best)
        waiting = len(self._ask.proposals) - here if tier == now and self._ask else 0
        return TierProgress(tier, done, max(self.machine.most(tier), done + waiting), best)


def _send(script: Script, answers: Answers | None) -> Ask | None:
    """Return the next question that is not empty; None at the end of the script."""
    try:
        ask = next(script) if answers is None else script.send(answers)
        while not ask.proposals:
            ask = script.send(())
    except StopIteration:
        return None
    return ask


def _answers(ask: Ask, verdicts: Mapping[str, Verdict]) -> tuple[Verdict | None, ...]:
    found = ((p, verdicts.get(p.digest)) for p in ask.proposals)
    return tuple(v if p.settled_by(v) else None for p, v in found)


def _known(ask: Ask | None, verdicts: Mapping[str, Verdict]) -> Answers | None:
    """Return all answers of a question; None when one is missing."""
    if ask is None:
        return None
    answers = _answers(ask, verdicts)
    told = tuple(v for v in answers if v is not None)
    return told if len(told) == len(answers) else None
