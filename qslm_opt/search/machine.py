"""What a search is made of: verdicts in, proposals out. Pure; no Optuna, no torch.

A ``Path`` is the one sequential course of a strategy over the verdicts known so far. Where it leads depends
on the verdicts of what it visited and on nothing else: not on their order, on the number of workers, or on
how often a process was killed. The search's result is what the path visited.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from qslm_opt.formats import FP32, Bits, Format
from qslm_opt.setting import QuantSetting, tune_mark

if TYPE_CHECKING:
    from qslm_opt.search.space import SearchSpace
    from qslm_opt.search.tables import Levels

Tier = str
"""Name of a part of a search, one of ``StudySpec.tiers``."""


@dataclass(frozen=True)
class Verdict:
    """What is known of one setting."""

    metric_ok: bool | None
    """None when no model was run because the memory is above the budget, and for a cheap evaluation."""
    memory_ok: bool
    value: float | None = None
    """Metric; None unless measured to the end."""
    loss: float | None = None
    """Mean negative log likelihood in nats over what was computed."""
    failed: bool = False
    """Whether the evaluation failed for good; metric_ok is False then."""
    slack: float | None = None
    """Relative violation of the metric's bound, 0 or below where it is met; None unless measured."""
    drift: float | None = None
    """Mean membrane drift against the unquantized model, where only that was measured."""

    @property
    def candidate(self) -> bool:
        """Whether it was measured to the end and meets both constraints."""
        return self.metric_ok is True and self.memory_ok and self.value is not None


@dataclass(frozen=True)
class Proposal:
    """One setting the search wants a verdict of."""

    tier: Tier
    unit: str
    bits: Bits
    levels: Levels
    parent: Levels
    """Levels of the incumbent that it was made from; a hint for prefix caches."""
    digest: str
    """Key of its verdict: the setting's digest; for a cheap evaluation with what was computed behind it."""
    bytes: int
    memory_ok: bool
    run: bool
    """Whether the model is to be run; False: to be told as a memory violation."""
    speculative: bool = False
    """Whether it may turn out unneeded, because a decision before it is still open."""
    every: int = 1
    """Only every so many-th window or sentence is computed; above 1 it is no evaluation of the metric."""
    to_end: bool = False
    """Whether the run goes on to its end also when the violation is certain."""
    drift: bool = False
    """Whether only the membrane drift over a few hundred tokens is measured."""
    tune: int = 0
    """Steps by which the setting is tuned before it is measured."""

    @property
    def fixed(self) -> Format | None:
        """Format of the tensors that are not searched when it is not the space's own."""
        return FP32 if self.tier == "sensitivity" else None

    @property
    def cheap(self) -> bool:
        """Whether it says nothing about the metric's bound: never a candidate."""
        return self.every > 1 or self.drift

    @property
    def cost(self) -> float:
        """What it costs, in full evaluations."""
        if not self.run or self.drift:
            return 0.0
        return 1.0 / self.every

    def settled_by(self, verdict: Verdict | None) -> bool:
        """Return whether ``verdict`` says enough for the search to go on."""
        if verdict is None or not self.run:
            return verdict is not None
        if self.drift:
            return verdict.drift is not None or verdict.failed
        if self.cheap:
            return verdict.loss is not None or verdict.failed
        if self.tier == "sensitivity" or self.to_end:
            return verdict.value is not None or verdict.failed
        return verdict.metric_ok is not None


def propose(
    space: SearchSpace, tier: Tier, unit: str, bits: Bits, levels: Levels, parent: Levels, *, every: int = 1,
    drift: bool = False, to_end: bool = False, tune: int = 0,
) -> Proposal:  # fmt: skip
    """Return the proposal of ``levels``; it is to be run whatever its bytes, see ``unless_too_large``."""
    fixed = FP32 if tier == "sensitivity" else None
    memory = space.memory(levels, fixed)
    mark = "~drift" if drift else f"~{every}" if every > 1 else tune_mark(tune)
    return Proposal(
        tier, unit, bits, levels, parent, space.digest(levels, fixed) + mark, memory, memory <= space.budget,
        run=True, every=every, drift=drift, to_end=to_end, tune=tune,
    )  # fmt: skip


def setting_of(space: SearchSpace, proposal: Proposal) -> QuantSetting:
    """Return the whole setting of a proposal."""
    setting = space.setting_of(proposal.levels, proposal.fixed)
    return replace(setting, tune=proposal.tune) if proposal.tune else setting


def unless_too_large(proposal: Proposal) -> Proposal:
    """Return it to be told without a model run where it is above the budget."""
    return replace(proposal, run=proposal.memory_ok)


@dataclass(frozen=True)
class Step:
    """One setting on a path, with its verdict."""

    proposal: Proposal
    verdict: Verdict

    @property
    def candidate(self) -> bool:
        """Whether it was measured to the end and meets both constraints."""
        return self.verdict.candidate and self.proposal.memory_ok and not self.proposal.cheap


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
class Tally:
    """What the visited settings of one tier come to."""

    steps: int = 0
    ok: int = 0
    """Those that are metric_ok."""
    smallest: Proposal | None = None
    """The candidate of fewest bytes, the first among equals."""

    def add(self, step: Step) -> None:
        """Count one more."""
        self.steps += 1
        self.ok += step.verdict.metric_ok is True
        if step.candidate and (self.smallest is None or step.proposal.bytes < self.smallest.bytes):
            self.smallest = step.proposal


@dataclass
class Trail:
    """What a path visited: each setting once; once more when it was first told without a model run."""

    tallies: dict[Tier, Tally]
    steps: list[Step] = field(default_factory=list)
    """Without their levels, which would fill the memory of a long search."""
    ran: dict[str, bool] = field(default_factory=dict)
    spent: float = 0.0
    """Full evaluations so far; a cheap one counts as the share of the data that it computes."""

    def visit(self, step: Step) -> None:
        """Take in one step."""
        ran = self.ran.get(step.proposal.digest)
        if ran is None or (step.proposal.run and not ran):
            self.ran[step.proposal.digest] = step.proposal.run
            light = replace(step, proposal=replace(step.proposal, levels=(), parent=()))
            self.steps.append(light)
            self.spent += step.proposal.cost
            self.tallies[step.proposal.tier].add(light)


class TrailFacts:
    """What any path says of itself by its trail alone."""

    _trail: Trail
    steps: list[Step]

    @property
    def spent(self) -> float:
        """Full evaluations so far; a cheap one counts as its share."""
        return self._trail.spent

    @property
    def visited(self) -> tuple[str, ...]:
        """Digests on the path, in order: the search's result is made of these alone."""
        return tuple(self._trail.ran)

    @property
    def candidates(self) -> tuple[Step, ...]:
        """The visited settings that were measured to the end and meet both constraints, in order."""
        return tuple(step for step in self.steps if step.candidate)


class Path(Protocol):
    """One course of a strategy over a growing table of verdicts."""

    steps: list[Step]

    def extend(self, verdicts: Mapping[str, Verdict]) -> Path:
        """Go on as far as ``verdicts`` (digest → verdict) lead; return self."""

    def proposals(self, verdicts: Mapping[str, Verdict], busy: Collection[str] = ()) -> Iterator[Proposal]:
        """Yield what is worth running now, what is needed first; ``busy`` are digests that are running."""

    def progress(self) -> tuple[TierProgress, ...]:
        """Return how far each tier is, in order."""

    @property
    def done(self) -> bool:
        """Whether the search is exhausted, or its evaluations are spent."""

    @property
    def cut_off(self) -> bool:
        """Whether its evaluations were spent before it was exhausted."""

    @property
    def tier(self) -> Tier | None:
        """The tier the path is in; None at the end."""

    @property
    def visited(self) -> tuple[str, ...]:
        """Digests on the path, in order: the search's result is made of these alone."""

    @property
    def candidates(self) -> tuple[Step, ...]:
        """The visited settings that were measured to the end and meet both constraints, in order."""

    @property
    def incumbent(self) -> Levels:
        """The levels that the path goes on from."""

    @property
    def order(self) -> tuple[str, ...]:
        """The blocks, least sensitive first; empty where that is not known."""
