"""From an evaluation to what is stored of a trial: state, attributes, constraints, score."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import isfinite
from typing import TYPE_CHECKING, Any

from optuna.trial import TrialState

from qslm_opt.rank import score

if TYPE_CHECKING:
    from qslm_opt.evaluate.bounds import MetricBound
    from qslm_opt.results import Evaluation, PowerWindow
    from qslm_opt.search.machine import Proposal
    from qslm_opt.search.space import SearchSpace

_MOST = 1e9
"""Stored in place of an infinite slack, which JSON cannot hold."""


@dataclass(frozen=True)
class Outcome:
    """How a trial ended."""

    state: TrialState
    attributes: Mapping[str, Any]
    constraints: Mapping[str, float] = field(default_factory=dict)
    """Empty for a failed trial, else ``metric`` and ``memory``, feasible at 0 or below."""
    score: float | None = None
    """S of Eq. 1 at the study's λ; for complete trials."""

    @property
    def columns(self) -> dict[str, Any]:
        """Attributes for people alone: what a table of all attributes says of the constraints."""
        cheap = self.attributes.get("share") is not None  # says nothing of the metric
        slack = {
            f"{name}_slack_pct": round(100 * value, 2)
            for name, value in self.constraints.items()
            if not (cheap and name == "metric")
        }
        complete = self.state == TrialState.COMPLETE
        return {**slack, "feasible": all(v <= 0 for v in self.constraints.values())} if complete else slack

    @classmethod
    def failed(cls, reason: str) -> Outcome:
        """A trial that has no result, with the reason in words."""
        return cls(TrialState.FAIL, {"reason": reason})


@dataclass(frozen=True)
class Judge:
    """What a study measures trials against."""

    space: SearchSpace
    bound: MetricBound
    lam: float

    def memory_slack(self, proposal: Proposal) -> float:
        """Return bytes / budget − 1."""
        return proposal.bytes / self.space.budget - 1

    def violates_memory(self, proposal: Proposal) -> Outcome:
        """Return the outcome of a proposal that needs no model run."""
        slack = {"metric": 0.0, "memory": self.memory_slack(proposal)}
        return Outcome(TrialState.PRUNED, {"used": 0}, slack)

    def judge(self, proposal: Proposal, run: Evaluation, power: PowerWindow | None) -> Outcome:
        """Return the outcome of an evaluation: complete, pruned (stopped early) or failed (not finite)."""
        if proposal.cheap:
            return self.cheap(proposal, run)
        if run.value is None:
            return self._stopped(proposal, run, power)
        if not isfinite(run.value) or not isfinite(run.loss):
            return Outcome.failed(
                f"{run.metric} is {run.value} with loss {run.loss}; a candidate's must be finite"
            )
        ratio = proposal.bytes / self.space.fp32_bytes
        slack = self.bound.slack(self.bound.judged(run.value, run.items))
        return Outcome(
            TrialState.COMPLETE,
            _attributes(run, power),
            {"metric": min(slack, _MOST), "memory": self.memory_slack(proposal)},
            score(run.metric, run.value, ratio, self.lam),
        )

    def cheap(self, proposal: Proposal, run: Evaluation) -> Outcome:
        """Return the outcome of a run over a share of the data: a loss, and no verdict on the metric."""
        if not isfinite(run.loss):
            return Outcome.failed(f"the loss over a share of the data is {run.loss}; it must be finite")
        attributes = {**_attributes(run, None), "value": None, "share": 1 / proposal.every}
        return Outcome(TrialState.PRUNED, attributes, {"metric": 0.0, "memory": self.memory_slack(proposal)})

    def drifted(self, proposal: Proposal, drift: float, used: int, seconds: float) -> Outcome:
        """Return the outcome of a run for the membrane drift alone, over ``used`` tokens or sentences."""
        if not isfinite(drift):
            return Outcome.failed(f"the membrane drift is {drift}; it must be finite")
        attributes = {
            "drift": drift, "used": used, "seconds": seconds, "share": min(0.5, used / self.bound.n)
        }  # fmt: skip
        slack = {"metric": 0.0, "memory": self.memory_slack(proposal)}
        return Outcome(TrialState.PRUNED, attributes, slack)

    def _stopped(self, proposal: Proposal, run: Evaluation, power: PowerWindow | None) -> Outcome:
        best = self.bound.best_case(run.used, run.correct, run.nll_sum, run.items)
        slack = self.bound.slack(best)
        if slack <= 0:
            return Outcome.failed(f"the run ended after {run.used} of {run.n} without a certain violation")
        constraints = {"metric": min(slack, _MOST), "memory": self.memory_slack(proposal)}
        return Outcome(TrialState.PRUNED, _attributes(run, power), constraints)


def _attributes(run: Evaluation, power: PowerWindow | None) -> dict[str, Any]:
    """The attributes of a measured trial; those that are None are not stored."""
    whole = {**run.to_json(), "power": asdict(power) if power else None}
    if not isfinite(run.loss):
        whole |= {"loss": None, "nll_sum": None}
    return {
        "value": run.value,
        "loss": run.loss if isfinite(run.loss) else None,
        "used": run.used,
        "correct": run.correct,
        "seconds": run.seconds,
        "power_w": power.mean_w if power else None,
        "energy_j": power.run_j if power else None,
        "firing_rate": run.firing_rate,
        "silent": list(run.silent) or None,
        "evaluation": json.dumps(whole, separators=(",", ":")),
    }
