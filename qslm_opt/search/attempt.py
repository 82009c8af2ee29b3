"""One trial, from the start of its run to what is told to Optuna."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import Trial

from qslm_opt.errors import NumericsError, StoppedError
from qslm_opt.results import TrialRecord
from qslm_opt.search.deadline import DEADLINE, DeadlineReached
from qslm_opt.search.failures import blame_of
from qslm_opt.search.interrupts import Interrupts
from qslm_opt.search.ledger import OpenTrial, close_trial
from qslm_opt.search.machine import setting_of
from qslm_opt.search.outcome import Judge, Outcome
from qslm_opt.search.owners import shares_board
from qslm_opt.search.power import PowerOf
from qslm_opt.search.sampler import STATES, TieredSampler
from qslm_opt.search.stopping import Stops
from qslm_opt.search.verdicts import INTERRUPTED

if TYPE_CHECKING:
    from collections.abc import Callable

    from optuna.study import Study

    from qslm_opt.evaluate.bounds import MetricBound
    from qslm_opt.hierarchy.tree import Hierarchy
    from qslm_opt.measure.meter import Meter
    from qslm_opt.results import Baseline, Evaluation, PowerWindow, Progress
    from qslm_opt.search.machine import Proposal
    from qslm_opt.search.space import SearchSpace
    from qslm_opt.setting import QuantSetting
    from qslm_opt.spec import StudySpec

REPORTS = 8
"""At most so many reports a trial are stored."""
REPORT_SECONDS = 0.5
"""Reports that prove nothing are at least this far apart."""


class SessionLike(Protocol):
    """What the search needs of ``qslm_opt.pipeline.Session``."""

    spec: StudySpec
    hierarchy: Hierarchy

    def fingerprint(self) -> dict[str, str]:
        """Return what must not change while a study lasts."""

    def baseline(self) -> Baseline:
        """Measure the unquantized model."""

    def probe(self) -> str:
        """Return a sum over every bit of a small computation: equal where the same settings give the same."""

    def run(
        self,
        setting: QuantSetting,
        *,
        parent: QuantSetting | None = None,
        bound: MetricBound | None = None,
        report: Callable[[Progress], bool] | None = None,
        meter: Meter | None = None,
        every: int = 1,
        stop: Callable[[], bool] = lambda: False,
    ) -> tuple[Evaluation, PowerWindow | None]:
        """Evaluate one setting; ``every`` above 1 computes only every so many-th window or sentence.

        ``stop`` is asked after every step of a tuning; StoppedError when it says so.
        """

    def drift(self, setting: QuantSetting) -> tuple[float, int, float]:
        """Return the membrane drift of a setting, the tokens or sentences it took, and seconds."""

    def measure(
        self, setting: QuantSetting, meter: Meter, seconds: float, stop: Callable[[], bool]
    ) -> PowerWindow | None:
        """Run one setting for so many seconds, or until ``stop`` says so, under the meter alone."""


class Listener(Protocol):
    """Told of what happens, in the thread that runs the search."""

    def on_narrate(self, text: str) -> None:
        """Something to tell the user, in one line."""

    def on_tier(self, tier: str) -> None:
        """A tier begins, or goes on after a resume."""

    def on_trial_start(self, record: TrialRecord, done: int, total_estimate: int | None) -> None:
        """A trial starts; ``done`` trials of about ``total_estimate`` were begun before it."""

    def on_progress(self, progress: Progress) -> None:
        """The running evaluation came further."""

    def on_trial_end(self, record: TrialRecord) -> None:
        """A trial is stored."""


class SilentListener:
    """A listener that does nothing."""

    def on_narrate(self, text: str) -> None:
        """Say nothing."""

    def on_tier(self, tier: str) -> None:
        """Say nothing."""

    def on_trial_start(self, record: TrialRecord, done: int, total_estimate: int | None) -> None:
        """Say nothing."""

    def on_progress(self, progress: Progress) -> None:
        """Say nothing."""

    def on_trial_end(self, record: TrialRecord) -> None:
        """Say nothing."""


class Attempts:
    """Runs trials of one study and tells their outcomes."""

    def __init__(
        self,
        session: SessionLike,
        study: Study,
        sampler: TieredSampler,
        judge: Judge,
        listener: Listener,
        meter: Meter | None,
        interrupts: Interrupts,
        power: PowerOf | None = None,
        keep: Callable[[Proposal, Evaluation, Outcome], None] = lambda *_: None,
        stops: Stops | None = None,
    ) -> None:
        self.session, self.study, self.sampler, self.judge = session, study, sampler, judge
        self.listener, self.meter, self.interrupts = listener, meter, interrupts
        self._said_silent: set[tuple[str, ...]] = set()
        self.power, self.keep = power or PowerOf(session, meter), keep
        self._stops = stops or Stops(lambda: False, interrupts)

    def carry_out(self, trial: OpenTrial, proposal: Proposal, record: TrialRecord) -> None:
        """Run a proposal and tell its outcome.

        KeyboardInterrupt and unexpected errors come out again after FAIL was told; a KeyboardInterrupt
        while only the power was measured, after the outcome itself was.
        """
        power: PowerWindow | None = None
        interrupted: KeyboardInterrupt | None = None
        try:
            outcome, power, interrupted = self._outcome(trial, proposal)
        except NumericsError as error:
            outcome = Outcome.failed(f"NumericsError: {error}")
        except StoppedError as error:  # it runs again when the study is resumed
            outcome = Outcome.failed(f"{INTERRUPTED}: {error}")
        except KeyboardInterrupt as stop:
            why = DEADLINE if isinstance(stop, DeadlineReached) else "the run was stopped"
            self._tell(trial, Outcome.failed(f"{INTERRUPTED}: {why}"), record)
            raise
        except BaseException as error:
            self._tell(trial, Outcome.failed(f"{blame_of(error)}{type(error).__name__}: {error}"), record)
            raise
        self._tell(trial, outcome, record)
        if power is not None:
            self.power.keep(record.uuid, power)
        if interrupted is not None:
            raise interrupted

    def _outcome(
        self, trial: OpenTrial, proposal: Proposal
    ) -> tuple[Outcome, PowerWindow | None, KeyboardInterrupt | None]:
        """Return the outcome, its power, and the interrupt that came while that was measured."""
        interrupted: KeyboardInterrupt | None = None
        if not proposal.run:
            return self.judge.violates_memory(proposal), None, None
        if proposal.drift:
            return self._drift(proposal), None, None
        space = self.judge.space
        whole = proposal.tier == "sensitivity" or proposal.to_end or proposal.cheap
        bound = None if whole else self.judge.bound
        part: dict[str, Any] = {"every": proposal.every} if proposal.every > 1 else {}
        how = part | ({"stop": self._stops.watch()} if proposal.tune else {})
        setting = setting_of(space, proposal)
        parent = space.setting_of(proposal.parent, proposal.fixed)
        report = Reporter(self.study, trial, bound, self.listener, self.interrupts)
        with self.interrupts.exposed():
            run, power = self.session.run(
                setting, parent=parent, bound=bound, report=report, meter=None if part else self.meter, **how
            )
        self._say_silent(trial, run)
        outcome = self.judge.judge(proposal, run, None)
        if not proposal.cheap:
            self.keep(proposal, run, outcome)
        if self.meter is None or part:
            return outcome, None, None
        power = self._alone(power, trial)
        if self.power.wants_more(outcome, power) and self._is_alone(trial):
            try:
                with self.interrupts.exposed():
                    longer = self.power.measure(setting)
                power = self._alone(longer, trial) or power
            except KeyboardInterrupt as stop:
                interrupted = stop
        return self.judge.judge(proposal, run, power), power, interrupted

    def _drift(self, proposal: Proposal) -> Outcome:
        space = self.judge.space
        with self.interrupts.exposed():
            drift, used, seconds = self.session.drift(space.setting_of(proposal.levels, proposal.fixed))
        return self.judge.drifted(proposal, drift, used, seconds)

    def _alone(self, power: PowerWindow | None, trial: OpenTrial) -> PowerWindow | None:
        """Return the window, None when it holds the power of others' trials too."""
        return power if power is not None and self._is_alone(trial) else None

    def _is_alone(self, trial: OpenTrial) -> bool:
        board = self.meter.board if self.meter is not None else None
        return self.sampler.was_alone(self.study, trial.number, lambda owner: shares_board(owner, board))

    def _say_silent(self, trial: OpenTrial, run: Evaluation) -> None:
        """Say, once for each set of blocks, that a setting silences them: its metric counts all the same."""
        if run.silent and run.silent not in self._said_silent:
            self._said_silent.add(run.silent)
            self.listener.on_narrate(
                f"trial {trial.number}: no neuron fires in {', '.join(run.silent)}; "
                "the metric counts as it was measured"
            )

    def _tell(self, trial: OpenTrial, outcome: Outcome, record: TrialRecord) -> None:
        attributes = {**outcome.attributes, **outcome.columns}
        ended = outcome.state, outcome.score, attributes, outcome.constraints
        if close_trial(self.study._storage, trial.id, *ended):
            self.sampler.learn(trial, outcome.attributes, outcome.constraints, outcome.state)
        else:
            self.listener.on_narrate(
                f"trial {trial.number} was closed by another worker meanwhile; its result is lost"
            )
        self.listener.on_trial_end(finished_record(record, outcome))


class Reporter:
    """Passes progress on, stores a few reports, and stops the run when a violation is certain."""

    def __init__(
        self,
        study: Study,
        trial: OpenTrial,
        bound: MetricBound | None,
        listener: Listener,
        interrupts: Interrupts,
    ) -> None:
        self._study, self._id = study, trial.id
        self._bound, self._listener, self._interrupts = bound, listener, interrupts
        self._share = 1.0 / REPORTS
        self._next, self._last = self._share, time.monotonic()
        self._reported = 0

    def __call__(self, progress: Progress) -> bool:
        """Return True when the run is to stop: a violation is certain, or the trial was closed by another."""
        self._listener.on_progress(progress)
        self._interrupts.check()
        best = progress.best_case
        if self._bound is None or best is None or progress.used >= progress.n:
            return False
        certain = self._bound.certain(best)
        if not certain and not self._is_due(progress.used / progress.n):
            return False
        with self._interrupts.shielded():
            trial = self._optunas
            try:
                if progress.used > self._reported:  # a run that began again with smaller batches is behind
                    self._reported = progress.used
                    trial.report(best, progress.used)
                return certain or trial.should_prune()
            except UpdateFinishedTrialError:  # another worker took this one for dead: what runs is lost
                return True

    @cached_property
    def _optunas(self) -> Trial:
        """Optuna's trial; to make it costs a reading of the stored one, and most runs report nothing."""
        return Trial(self._study, self._id)

    def _is_due(self, done: float) -> bool:
        now = time.monotonic()
        if done < self._next or now - self._last < REPORT_SECONDS:
            return False
        self._next, self._last = done + self._share, now
        return True


def started_record(trial: OpenTrial, proposal: Proposal, space: SearchSpace, uuid: str) -> TrialRecord:
    """Return the record of a trial that starts now."""
    return TrialRecord(
        number=trial.number,
        uuid=uuid,
        state="running",
        tier=proposal.tier,
        unit=proposal.unit,
        bits=proposal.bits,
        setting=setting_of(space, proposal).to_json(),
        digest=proposal.digest,
        value=None,
        bytes=proposal.bytes,
        fp32_bytes=space.fp32_bytes,
        share=0.0 if proposal.drift else 1 / proposal.every,
        started=datetime.now().isoformat(timespec="seconds"),
    )


def finished_record(record: TrialRecord, outcome: Outcome) -> TrialRecord:
    """Return a started trial's record with its outcome."""
    names = ("value", "loss", "used", "seconds", "power_w", "energy_j", "firing_rate", "share")
    measured: dict[str, Any] = {
        n: outcome.attributes[n] for n in names if outcome.attributes.get(n) is not None
    }
    return replace(
        record,
        state=STATES[outcome.state],
        slack=dict(outcome.constraints),
        finished=datetime.now().isoformat(timespec="seconds"),
        reason=outcome.attributes.get("reason") or "",
        **measured,
    )
