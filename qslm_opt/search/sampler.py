"""The sampler: a strategy as an Optuna sampler."""

from __future__ import annotations

from functools import cached_property
from threading import RLock
from typing import TYPE_CHECKING, Any, Literal
from uuid import uuid4

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import TrialState

from qslm_opt.search.ledger import (
    Lookout,
    OpenTrial,
    open_trial,
    remote_call,
    start_trial,
    write_attributes,
    write_parameters,
)
from qslm_opt.search.machine import Proposal, setting_of
from qslm_opt.search.space import SearchSpace
from qslm_opt.search.strategies import Strategy
from qslm_opt.search.verdicts import VerdictTable, read

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from optuna.distributions import BaseDistribution
    from optuna.storages import BaseStorage
    from optuna.study import Study
    from optuna.trial import FrozenTrial, Trial

    from qslm_opt.search.machine import Path

STATES: dict[TrialState, Literal["complete", "pruned", "failed"]] = {
    TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"
}  # fmt: skip
"""Optuna's states of finished trials, and what a TrialRecord calls them."""


class NothingToProposeError(Exception):
    """Nothing can be proposed: the search is exhausted, or waits for running trials."""


class TieredSampler(BaseSampler):
    """Proposes the next setting of the tiered search as the parameters ``tier``, ``unit`` and ``bits``.

    All state comes from the study's trials; what is kept here is only a memo of them. The whole proposal is
    written to the trial's attributes (``setting``, ``digest``, ``bytes``, …) with its parameters and
    returned by ``proposal(trial)``. An objective must set the constraints ``metric`` and ``memory`` and the
    attributes ``value`` and ``loss``, and prune without a model run what has ``run`` False; the driver
    does.

    A setting that another trial is running is not proposed: workers speculate instead. Once the search is
    exhausted ``study.optimize`` is stopped after the trial that ended it. A trial that was nevertheless
    started later (by another thread, or on an exhausted study) is pruned without parameters.

    Without a search space, or on a study that is not one of ours, it is an independent random sampler.

    Args:
        space: The study's search space.
        seed: Seed of the random sampler; the tiers themselves have no randomness.
        strategy: How the space is searched; the greedy tiers without it.
        attributes: Written to each trial with the proposal.
        patient: Raise NothingToProposeError when everything worth running is running, instead of
            proposing one of those again, and when the search is exhausted, instead of pruning the trial.
    """

    def __init__(
        self,
        space: SearchSpace | None = None,
        seed: int | None = None,
        *,
        strategy: Strategy | None = None,
        attributes: dict[str, Any] | None = None,
        patient: bool = False,
    ) -> None:
        self._strategy = strategy or Strategy()
        self._space, self._attributes, self._patient = space, dict(attributes or {}), patient
        self._random = RandomSampler(seed)
        self._lock = RLock()
        self._proposals: dict[int, tuple[Proposal, str]] = {}
        self._ours: dict[str, bool] = {}
        self._table, self._lookout = VerdictTable(), Lookout()
        self._walk: Path | None = None
        self._revision = self._count = 0
        self.others = False
        """Whether, at the last look, other trials were running."""
        self._busy: list[str | None] = []
        """Owners of those."""
        self.enqueued = False
        """Whether, at the last look, trials were waiting that somebody enqueued."""

    def __getstate__(self) -> dict[str, Any]:
        """Return all but what cannot be pickled; the path is made anew from the verdicts."""
        return {k: None if k == "_walk" else v for k, v in self.__dict__.items() if k != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = RLock()

    @property
    def space(self) -> SearchSpace:
        """The search space; RuntimeError without one."""
        if self._space is None:
            raise RuntimeError("this TieredSampler has no search space; give it one: TieredSampler(space).")
        return self._space

    @cached_property
    def distributions(self) -> dict[str, BaseDistribution]:
        """The three parameters; their choices are constant over a study."""
        space = self.space
        bits = sorted({*space.precisions, *space.sensitivity_precisions}, reverse=True)
        return {
            "tier": CategoricalDistribution(self._strategy.tiers),
            "unit": CategoricalDistribution(space.units),
            "bits": CategoricalDistribution(bits),
        }

    def search_by(self, strategy: Strategy) -> None:
        """Search by another strategy from now on; its tiers must be those of this one."""
        with self._lock:
            self._strategy, self._walk = strategy, None

    @property
    def walk(self) -> Path:
        """The walk over the trials seen so far."""
        with self._lock:
            if self._walk is None or self._revision != self._table.revision:
                self._walk = self._strategy.path(self.space)
                self._revision = self._table.revision
            return self._walk.extend(self._table.verdicts)

    def refresh(self, study: Study) -> Path:
        """Take in the study's trials and return the walk over them."""
        with self._lock:
            self._look(study)
            return self.walk

    def peek(self, study: Study) -> Proposal | None:
        """Return what a trial started now would be proposed; None when nothing that is not running."""
        with self._lock:
            return self._next(study)

    def start(self, study: Study) -> tuple[OpenTrial, tuple[Proposal, str]]:
        """Create the next trial with its parameters and attributes; return it with its proposal and uuid.

        Does what ``study.ask(self.distributions)`` does, at a quarter of its cost. To be called inside
        ``one_transaction``, so that nothing is left of the trial when there is nothing to propose. Behind a
        proxy there is no transaction here: the proxy starts the trial unless another worker was quicker.

        Raises:
            NothingToProposeError: the search is exhausted, or (patient) waits for running trials.
        """
        storage = study._storage
        if remote_call(storage) is not None:
            return self._start_behind_proxy(study)
        with self._lock:
            trial = open_trial(storage, study._study_id)
            proposal = self._find(study, trial.number)
            if proposal is None:
                raise NothingToProposeError
            proposed = self._write(storage, trial.id, proposal)
        write_parameters(storage, trial.id, _parameters(proposal), self.distributions)
        return trial, proposed

    def _start_behind_proxy(self, study: Study) -> tuple[OpenTrial, tuple[Proposal, str]]:
        with self._lock:
            while True:
                proposal = self._find(study, -1)
                if proposal is None:
                    raise NothingToProposeError
                number, proposed = self._count, (proposal, str(uuid4()))
                attributes = {**self._describe(proposal), "uuid": proposed[1]}
                made = _parameters(proposal), self.distributions, attributes
                trial_id = start_trial(study._storage, study._study_id, number, *made)
                if trial_id is not None:
                    self._proposals[trial_id] = proposed
                    return OpenTrial(trial_id, number), proposed

    def was_alone(
        self, study: Study, number: int, shares: Callable[[str | None], bool] = lambda owner: True
    ) -> bool:
        """Return whether no other trial has been running since the last look, when ``number`` started.

        Only those count whose attribute ``owner`` shares the device, as ``shares`` says.
        """
        with self._lock:
            trials = self._lookout.trials(study, self._table, but=number)
            busy = list(self._busy)
        later = (t for t in trials if t.number > number and t.state != TrialState.WAITING)
        busy += (t.user_attrs.get("owner") for t in later)
        return not any(shares(owner) for owner in busy)

    def suggest(self, trial: Trial) -> Proposal:
        """Suggest the three parameters of a running trial and return its proposal.

        Raises:
            ValueError: the trial's parameters were enqueued by hand.
        """
        for name, distribution in self.distributions.items():
            assert isinstance(distribution, CategoricalDistribution)
            trial.suggest_categorical(name, distribution.choices)
        proposed = self.proposal(trial)
        if proposed is None:
            raise ValueError(f"trial {trial.number} has parameters that this sampler did not propose.")
        return proposed[0]

    def proposal(self, trial: Trial) -> tuple[Proposal, str] | None:
        """Return what a running trial is to do, and its uuid; None when this sampler did not propose it."""
        proposed = self._proposals.get(trial._trial_id)
        if proposed is None or trial.params != _parameters(proposed[0]):
            return None
        return proposed

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self.distributions if self._is_ours(study) else {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        self._raise_error_if_multi_objective(study)
        if not self._is_ours(study):
            names = search_space.items()
            return {name: self._random.sample_independent(study, trial, name, d) for name, d in names}
        with self._lock:
            proposal = self._choose(study, trial)
            self._write(study._storage, trial._trial_id, proposal)
        # What the caller fixed itself (optuna.samplers.PartialFixedSampler) is not asked for.
        return {name: value for name, value in _parameters(proposal).items() if name in search_space}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        self._raise_error_if_multi_objective(study)
        return self._random.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        if self._is_ours(study):
            self.learn(OpenTrial(trial._trial_id, trial.number), trial.user_attrs, trial.constraints, state)
            with self._lock:
                done = self.walk.done
            if done:
                _stop(study)

    def learn(
        self,
        trial: OpenTrial,
        attributes: Mapping[str, Any],
        constraints: Mapping[str, float],
        state: TrialState,
    ) -> None:
        """Take in the outcome of a trial of this sampler without a look at the storage."""
        with self._lock:
            proposed = self._proposals.pop(trial.id, None)
            if proposed is not None:
                known = {**attributes, "digest": proposed[0].digest}
                self._table.add(trial.number, read(known, constraints, STATES[state]))

    def reseed_rng(self) -> None:
        self._random.reseed_rng()

    def _is_ours(self, study: Study) -> bool:
        if self._space is None:
            return False
        name = study.study_name
        if not self._ours.get(name):
            self._ours[name] = "spec" in study.user_attrs and "qslm_uuid" in study.user_attrs
        return self._ours[name]

    def _choose(self, study: Study, trial: FrozenTrial) -> Proposal:
        proposal = self._find(study, trial.number)
        if proposal is not None:
            return proposal
        if self._patient:
            raise NothingToProposeError
        _stop(study)
        raise optuna.TrialPruned("the search is exhausted")

    def _find(self, study: Study, number: int) -> Proposal | None:
        """What trial ``number`` is to do; an impatient sampler repeats what others are running."""
        proposal = self._next(study, but=number)
        if proposal is None and not self._patient:
            proposal = next(self.walk.proposals(self._table.verdicts), None)
        return proposal

    def _write(self, storage: BaseStorage, trial_id: int, proposal: Proposal) -> tuple[Proposal, str]:
        """Write a proposal to its trial and remember it; return it with the trial's new uuid."""
        proposed = self._proposals[trial_id] = proposal, str(uuid4())
        write_attributes(storage, trial_id, {**self._describe(proposal), "uuid": proposed[1]})
        return proposed

    def _next(self, study: Study, but: int = -1) -> Proposal | None:
        """The first proposal that no trial other than number ``but`` is running."""
        busy = self._look(study, but)
        return next(self.walk.proposals(self._table.verdicts, busy), None)

    def _look(self, study: Study, but: int = -1) -> set[str]:
        """Take in the finished trials; return the digests that are being run, but by number ``but``."""
        table, trials = self._table, self._lookout.trials(study, self._table, but)
        for trial in trials:
            if trial.state in STATES and trial.number not in table:
                table.add(trial.number, read(trial.user_attrs, trial.constraints, STATES[trial.state]))
        self._count = len(trials)
        self.enqueued = any(t.state == TrialState.WAITING for t in trials)
        running = [t for t in trials if t.state == TrialState.RUNNING and t.number != but]
        self.others = bool(running)
        self._busy = [t.user_attrs.get("owner") for t in running]
        return {t.user_attrs.get("digest", "") for t in running}

    def _describe(self, proposal: Proposal) -> dict[str, Any]:
        space = self.space
        return {
            **self._attributes,
            "setting": setting_of(space, proposal).to_json(),
            "digest": proposal.digest,
            "bytes": proposal.bytes,
            "fp32_bytes": space.fp32_bytes,
        }


def _parameters(proposal: Proposal) -> dict[str, Any]:
    return {"tier": proposal.tier, "unit": proposal.unit, "bits": proposal.bits}


def _stop(study: Study) -> None:
    """End ``study.optimize``; with ask and tell there is no loop to end."""
    try:
        study.stop()
    except RuntimeError:
        return
