"""Other targets answered from stored trials: the best of them, and how far a search would get. Pure.

The tier machine is replayed over the verdicts that the stored trials have under the new targets. A replay
that comes to its end is the search: it visits what a new one would visit, so the answer is proven to be that
one's. Otherwise it stops at the first setting whose verdict is open.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Literal

from qslm_opt.errors import InfeasibleError, UsageError
from qslm_opt.evaluate.bounds import MetricBound
from qslm_opt.formats import FP32
from qslm_opt.rank import Ranked, closest, rank
from qslm_opt.search.machine import Verdict
from qslm_opt.search.space import SearchSpace
from qslm_opt.search.strategies import machine_of
from qslm_opt.search.targets import best_case, judged, require_baseline, same_bound
from qslm_opt.search.verdicts import VerdictTable, read
from qslm_opt.search.walk import Walk

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qslm_opt.formats import Bits
    from qslm_opt.hierarchy.tree import Hierarchy
    from qslm_opt.results import Baseline, TrialRecord
    from qslm_opt.search.machine import Path, Proposal, Tier
    from qslm_opt.spec import StudySpec


@dataclass(frozen=True)
class Uniform:
    """What is known of all units at so many bits."""

    bits: Bits
    bytes: int
    fits: bool
    metric_ok: bool | None
    """None: not known under these targets."""
    value: float | None


@dataclass(frozen=True)
class OpenStep:
    """The first setting that a search needs and whose verdict is not known."""

    tier: Tier
    unit: str
    bits: Bits
    bytes: int
    trial: int | None
    """A stored trial of it, stopped early under the study's own bound; None when its model never ran."""
    at_best: float | None
    """The best metric that this trial could still reach."""


@dataclass(frozen=True)
class Replay:
    """How far a search for the targets gets without a model run."""

    done: bool
    best: Ranked | None
    """What it would choose, of what it visits as far as it gets."""
    tier: Tier | None
    step: OpenStep | None
    at_most: int
    """Evaluations that a search may still need, at most; 0 when ``done``."""


@dataclass(frozen=True)
class Answer:
    """What the stored trials of a study say about targets."""

    spec: StudySpec
    bound: MetricBound
    budget: int
    ranked: Sequence[Ranked]
    """Stored settings that meet both constraints, best first at λ."""
    closest: TrialRecord | None
    measured: int
    """Settings that were measured to their end: exactly known under any targets."""
    violators: int
    """Settings that were stopped early and violate this bound for certain, too."""
    open: int
    """Settings that were stopped early and may meet this bound."""
    smallest: int | None
    """Bytes of the smallest setting, sensitivity aside, whose verdict is known."""
    uniform: Sequence[Uniform]
    replay: Replay
    refused: str
    """Why a search for these targets would be refused; empty when it would not."""

    @property
    def best(self) -> Ranked | None:
        """The best stored setting that meets both constraints."""
        return self.ranked[0] if self.ranked else None

    @property
    def proven(self) -> bool:
        """Whether a search for these targets would give exactly this answer."""
        mine, theirs = (r and r.record.digest for r in (self.best, self.replay.best))
        return self.replay.done and not self.refused and mine == theirs


def answer(
    spec: StudySpec, before: StudySpec, hierarchy: Hierarchy, baseline: Baseline,
    trials: Sequence[TrialRecord],
) -> Answer:  # fmt: skip
    """Return what ``trials`` of a study with the spec ``before`` say about the targets of ``spec``.

    Raises:
        InfeasibleError: no setting reaches the memory budget; the message has the smallest bytes.
        UsageError: another bound with a confidence, about which the stored values alone say nothing.
    """
    if spec.confidence is not None and not same_bound(before, spec):
        raise UsageError(
            f"study {before.name!r} holds its bound with confidence {spec.confidence}, and another bound "
            "needs the outcome of every sentence or window; ask for another --memory-budget or --lambda "
            "alone, or search again with 'study create'."
        )
    space = SearchSpace.of(spec, hierarchy)
    old, bound = MetricBound.of(before, baseline), MetricBound.of(spec, baseline)
    known = [found for t in trials if (found := judged(t, old, bound, space.budget)) is not None]
    cheap = [trial for trial in trials if trial.cheap and trial.state == "pruned"]
    ran = [trial for trial in known if trial.state != "failed"]
    exact = {trial.digest for trial in ran if trial.state == "complete"}
    violators = {trial.digest for trial in ran} - exact
    stopped = {trial.digest for trial in trials if best_case(trial, old) is not None}
    table = _table([*known, *cheap])
    return Answer(
        spec, bound, space.budget, rank(known, spec.metric, spec.lam), closest(ran),
        len(exact), len(violators), len(stopped - violators - exact),
        min((trial.bytes for trial in ran if trial.tier != "sensitivity"), default=None),
        tuple(_uniforms(space, table)), _replay(space, spec, table, known, trials, old),
        _refusal(spec, baseline),
    )  # fmt: skip


def _refusal(spec: StudySpec, baseline: Baseline) -> str:
    try:
        require_baseline(spec, baseline, MetricBound.of(spec, baseline))
    except InfeasibleError as error:
        return str(error).rstrip(".")
    return ""


def _table(known: Iterable[TrialRecord]) -> dict[str, Verdict]:
    table = VerdictTable()
    for t in known:
        share = t.share if t.cheap else None
        known_of = {"digest": t.digest, "value": t.value, "loss": t.loss, "reason": t.reason, "share": share}
        table.add(t.number, read(known_of, t.slack, t.state))
    return dict(table.verdicts)


def _uniforms(space: SearchSpace, table: Mapping[str, Verdict]) -> Iterable[Uniform]:
    for bits in space.precisions:
        levels = space.uniform(bits)
        size, verdict = space.memory(levels), table.get(space.digest(levels))
        ok, value = (None, None) if verdict is None else (verdict.metric_ok, verdict.value)
        yield Uniform(bits, size, size <= space.budget, ok, value)


def _replay(
    space: SearchSpace, spec: StudySpec, table: dict[str, Verdict], known: Sequence[TrialRecord],
    trials: Sequence[TrialRecord], old: MetricBound,
) -> Replay:  # fmt: skip
    path = machine_of(spec, space, old.n)
    pending = replayed(path, table)
    visited = {step.proposal.digest for step in path.candidates}
    chosen = rank([t for t in known if t.digest in visited], spec.metric, spec.lam)
    best = chosen[0] if chosen else None
    if pending is None:
        return Replay(True, best, None, None, 0)
    return Replay(False, best, path.tier, _step(pending, trials, old), _at_most(path, table))


def replayed(path: Path, table: dict[str, Verdict]) -> Proposal | None:
    """Follow a search as far as ``table`` leads; return the first setting whose verdict is missing.

    What needs no model run is told on the way, into ``table``.
    """
    while not path.extend(table).done:
        needed = list(takewhile(lambda proposal: not proposal.speculative, path.proposals(table)))
        told = {p.digest: Verdict(None, p.memory_ok) for p in needed if not p.run}
        if not told:
            return needed[0]
        table.update(told)
    return None


def _step(proposal: Proposal, trials: Sequence[TrialRecord], old: MetricBound) -> OpenStep:
    mine = ((t, best_case(t, old)) for t in trials if t.digest == proposal.digest)
    trial, at_best = next(((t.number, best) for t, best in mine if best is not None), (None, None))
    return OpenStep(proposal.tier, proposal.unit, proposal.bits, proposal.bytes, trial, at_best)


def _at_most(walk: Path, table: Mapping[str, Verdict]) -> int:
    """The first two tiers visit the same settings whatever comes out, the last two at most their totals.

    Other strategies than the tiers say themselves how many they ask for, about.
    """
    if not isinstance(walk, Walk):
        return sum(p.total - p.done for p in walk.progress())
    space, needed = walk.machine.space, 0
    if walk.tier == "sensitivity":
        digests = {space.digest(space.alone(*point), FP32) for point in walk.machine.grid}
        needed += len(digests - table.keys())
    if walk.tier in ("sensitivity", "global"):
        levels = (table.get(space.digest(space.uniform(bits))) for bits in space.precisions)
        needed += sum(verdict is None or verdict.metric_ok is None for verdict in levels)
    return needed + sum(p.total - p.done for p in walk.progress() if p.tier in ("block", "module"))


Kind = Literal["proven", "open", "better", "refused"]


def kind_of(found: Answer) -> Kind:
    """Return how an answer stands to a search: the same, not known, better than it, or none is made."""
    if found.refused:
        return "refused"
    if not found.replay.done:
        return "open"
    return "proven" if found.proven else "better"
