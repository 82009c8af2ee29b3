"""One process's work on one study."""

from __future__ import annotations

import time
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from optuna.trial import TrialState

from qslm_opt.errors import InfeasibleError, StorageError
from qslm_opt.evaluate.bounds import MetricBound
from qslm_opt.evaluate.confidence import ConfidentBound
from qslm_opt.figures import metric_value, size
from qslm_opt.search.attempt import Attempts, Listener, SessionLike, started_record
from qslm_opt.search.board import publish
from qslm_opt.search.deadline import DeadlineReached
from qslm_opt.search.determinism import check_process, check_trials
from qslm_opt.search.heart import Heart
from qslm_opt.search.interrupts import Interrupts
from qslm_opt.search.ledger import (
    OpenTrial,
    close_storage,
    close_trial,
    load_study,
    one_transaction,
    open_shared,
)
from qslm_opt.search.outcome import Judge
from qslm_opt.search.owners import close_stale, registered
from qslm_opt.search.power import PowerOf, measure_baseline
from qslm_opt.search.pruner import ConstraintPruner
from qslm_opt.search.recording import Recording
from qslm_opt.search.reporting import Reporting
from qslm_opt.search.sampler import NothingToProposeError, TieredSampler
from qslm_opt.search.space import SearchSpace
from qslm_opt.search.stopping import Stops
from qslm_opt.search.strategies import Strategy
from qslm_opt.search.summary import RunSummary, summarize, unneeded
from qslm_opt.search.targets import require_baseline
from qslm_opt.search.uniform import uniform_gap

if TYPE_CHECKING:
    from optuna.study import Study

    from qslm_opt.measure.meter import Meter
    from qslm_opt.results import Baseline, TrialRecord
    from qslm_opt.search.machine import Path, Proposal, Tier
    from qslm_opt.store import Repository, StudyRow

PATIENCE_SECONDS = 600.0
"""A trial that names no process is taken for lost after this, or ten times the longest trial so far."""
PUBLISH_SECONDS = 60.0
"""What optuna-dashboard shows of a study is at most so old when a new candidate is found."""
_NARRATED_WAIT = 8
"""A pause of so many looks, about three seconds, is worth a line."""
STALE_CHECK_SECONDS = 2.0
"""How often a worker looks whether others have died."""


class Run:
    """Runs trials until there is none left to run; see ``until_end``."""

    def __init__(
        self,
        row: StudyRow,
        url: str,
        repository: Repository,
        session: SessionLike,
        listener: Listener,
        meter: Meter | None,
        interrupts: Interrupts,
        since: float,
    ) -> None:
        self.row, self.url, self.repository, self.session = row, url, repository, session
        self.listener, self.meter, self.interrupts, self.since = listener, meter, interrupts, since
        self.started = time.monotonic()
        self.space = SearchSpace.of(row.spec, row.hierarchy)
        self.stops = Stops(lambda: repository.stop_requested(row.uuid), interrupts)
        self.reporting = Reporting(row, repository, session, self.stops, listener.on_narrate)
        self._tier: Tier | None = None
        self._order: tuple[str, ...] = ()
        self._progress: list[dict[str, object]] = []
        self._looked = self._published = 0.0
        self._told = 0

    def until_end(self) -> RunSummary:
        """Work on the study; the state it is left in is stored also when an error or Ctrl-C ends it."""
        uuid = self.row.uuid
        with ExitStack() as stack:
            owner = stack.enter_context(registered(self.meter.board if self.meter else None))
            self.heart = stack.enter_context(Heart(self.repository, uuid, "baseline"))
            self.recording = Recording(self.repository, uuid, self.meter) if self.meter else None
            if self.recording is not None:
                stack.enter_context(self.recording)
            self._open(owner)
            try:
                self._begin()
                summary = self._summary(deadline=self._reached_deadline())
                if summary.state == "finished":
                    summary = self._reported(summary)
                self.repository.set_state(uuid, summary.state, summary.reason)
                self._publish(state=summary.state, reason=summary.reason)
            except InfeasibleError as error:
                self.repository.set_state(uuid, "infeasible", str(error))
                self._publish_end("infeasible", str(error))
                raise
            except KeyboardInterrupt:
                self.repository.set_state(uuid, "stopped", "interrupted")
                self._mark(self.sampler.refresh(self.study))
                self._publish_end("stopped", "interrupted")
                raise
            except Exception as error:
                why = f"{type(error).__name__}: {error}"
                with suppress(StorageError):  # when it is the storage that fails, what it said comes first
                    self.repository.set_state(uuid, "stopped", why)
                self._publish_end("stopped", why)
                raise
            finally:
                close_storage(self.database)
        return summary

    def _reached_deadline(self) -> bool:
        """Search; return whether it was a deadline that ended that."""
        try:
            self._start()
            self._loop()
            if self.sampler.walk.done and self.sampler.walk.candidates:
                measure_baseline(self.attempts.power, self.repository, self.row.uuid, self.interrupts)
        except DeadlineReached:
            return True
        return False

    def _open(self, owner: str) -> None:
        self.database = open_shared(self.url)
        self.sampler = TieredSampler(
            self.space, self.row.spec.seed, strategy=Strategy.of(self.row.spec),
            attributes={"owner": owner}, patient=True,
        )  # fmt: skip
        self.study = self._load()

    def _load(self) -> Study:
        return load_study(self.row.name, self.database, self.sampler, ConstraintPruner())

    def _begin(self) -> None:
        """Say that the study runs; what an earlier end marked is looked at anew."""
        self.repository.set_state(self.row.uuid, "running", since=self.since)
        if self.row.extra:
            self.repository.set_extra(self.row.uuid, ())

    def _start(self) -> None:
        """Baseline, bound, stale trials, and where the walk stands."""
        baseline = self._baseline()
        self.sampler.search_by(Strategy.of(self.row.spec, baseline.n))
        bound = require_baseline(self.row.spec, baseline, self._bound(baseline))
        with self.interrupts.exposed():
            check_process(self.study, self.session, self.listener.on_narrate)
        judge = Judge(self.space, bound, self.row.spec.lam)
        power = PowerOf(
            self.session, self.meter, self.recording, self.stops.asked, self.listener.on_narrate,
        )  # fmt: skip
        self.attempts = Attempts(
            self.session, self.study, self.sampler, judge, self.listener, self.meter, self.interrupts, power,
            self.reporting.keep, self.stops,
        )  # fmt: skip
        self._close_stale()
        self._follow(self.sampler.refresh(self.study))

    def _baseline(self) -> Baseline:
        known = self.row.baseline
        if known is None:
            self.listener.on_narrate("measuring the unquantized model")
            with self.interrupts.exposed():
                measured = self.session.baseline()
            # Another worker may have been quicker: what is stored first holds.
            known = self.repository.study(self.row.name).baseline
            if known is None:
                known = measured
                self.reporting.keep_baseline(measured)
                self.study.set_user_attr("baseline", measured.to_json())
                self.repository.set_baseline(self.row.uuid, measured)
        of = "sentences" if known.metric == "accuracy" else "predicted tokens"
        self.listener.on_narrate(
            f"baseline: {known.metric} {metric_value(known.metric, known.value)} over {known.n:,} {of}, "
            f"{size(known.bytes)} in float32"
        )
        return self.reporting.with_items(known)

    def _bound(self, baseline: Baseline) -> MetricBound:
        if self.row.spec.confidence is None:
            return MetricBound.of(self.row.spec, baseline)
        assert baseline.items is not None
        return ConfidentBound.with_items(self.row.spec, baseline, baseline.items)

    def _reported(self, summary: RunSummary) -> RunSummary:
        """Measure the result on held-back data, where some is; a stop or deadline then leaves more to do."""
        try:
            done, deadline = self._report(), False
        except DeadlineReached:
            done, deadline = False, True
        return summary if done else replace(summary, state="stopped", deadline=deadline)

    def _report(self) -> bool:
        """Measure the result on held-back data, where some is; False when that was stopped."""
        self.heart.phase = "held-back data"
        trials = self.repository.trials(self.row.name)
        return self.reporting.complete(trials)

    def _summary(self, deadline: bool) -> RunSummary:
        walk = self.sampler.refresh(self.study)  # others may have found the end meanwhile
        trials = self._mark(walk)
        check_trials(self.study, trials, self.listener.on_narrate)
        name = self.row.name  # Optuna's dashboard may have changed it
        seconds = time.monotonic() - self.started
        return summarize(self.row.spec.renamed(name), trials, walk, seconds, deadline)

    def _mark(self, walk: Path) -> list[TrialRecord]:
        """Mark the trials that a finished walk did not need, and return all as they are marked then.

        Another worker may store a trial, or its own list, in between: the last one to write looks again.
        """
        while True:
            trials = self.repository.trials(self.row.name)
            if not walk.done:
                return trials
            extra = unneeded(trials, walk)
            if extra == {trial.digest for trial in trials if trial.extra}:
                return trials
            self.repository.set_extra(self.row.uuid, sorted(extra))

    def _loop(self) -> None:
        """Run trials until the search is exhausted or a stop is requested."""
        waits = 0
        while not self.sampler.walk.done:
            with self.interrupts.exposed():
                if self.stops.asked():
                    return
            if self._step():
                waits = 0
                continue
            waits += 1
            self._wait(waits)

    def _step(self) -> bool:
        """Ask for one trial and carry it out; False when all that is worth running is being run by others."""
        if self.sampler.others:
            self._close_stale(every=STALE_CHECK_SECONDS)
            if self.sampler.peek(self.study) is None:
                return False
        try:
            with one_transaction(self.study._storage):
                trial, proposed = self._ask()
        except NothingToProposeError:
            # The trial was rolled back, but Optuna's cache still holds it.
            self.study = self.attempts.study = self._load()
            return False
        if proposed is None:
            self._refuse(trial)
            return True
        proposal, uuid = proposed
        record = started_record(trial, proposal, self.space, uuid)
        left = sum(max(0, p.total - p.done) for p in self.sampler.walk.progress())
        self.listener.on_trial_start(record, record.number, record.number + max(1, left))
        self.attempts.carry_out(trial, proposal, record)
        self.attempts.power.complain()
        self._follow(self.sampler.walk)
        old = time.monotonic() - self._published > PUBLISH_SECONDS
        if old and len(self.sampler.walk.candidates) != self._told:
            self._publish()
        return True

    def _ask(self) -> tuple[OpenTrial, tuple[Proposal, str] | None]:
        """Start a trial, one that somebody enqueued first; return it with its proposal and uuid."""
        if not self.sampler.enqueued:
            return self.sampler.start(self.study)
        asked = self.study.ask(self.sampler.distributions)
        return OpenTrial(asked._trial_id, asked.number), self.sampler.proposal(asked)

    def _refuse(self, trial: OpenTrial) -> None:
        """End a trial whose parameters somebody enqueued: they do not say which setting is meant."""
        reason = "enqueued by hand; the settings of this study come from its tiers"
        close_trial(self.study._storage, trial.id, TrialState.FAIL, None, {"reason": reason})
        self.listener.on_narrate(f"trial {trial.number} was {reason}")

    def _wait(self, waits: int) -> None:
        if waits == _NARRATED_WAIT:
            self.listener.on_narrate("waiting for the other workers")
        with self.interrupts.exposed():
            time.sleep(min(1.0, 0.05 * 1.5**waits))
        self._close_stale(every=STALE_CHECK_SECONDS)
        self._follow(self.sampler.refresh(self.study))

    def _close_stale(self, every: float = 0.0) -> None:
        """Close trials that nobody runs any more; at most once in ``every`` seconds."""
        now = time.monotonic()
        if now - self._looked < every:
            return
        self._looked = now
        closed = close_stale(self.database, self.study._study_id, self.heart.leases, self._patience)
        if closed:
            each = "; ".join(f"trial {trial.number}: {why}" for trial, why in closed)
            self.listener.on_narrate(f"{len(closed)} stale trial{'s' * (len(closed) > 1)} closed: {each}")

    def _patience(self) -> float:
        """Seconds after which a trial that names no process is taken for lost."""
        trials = self.study.get_trials(deepcopy=False)
        longest = max((t.user_attrs.get("seconds") or 0.0 for t in trials), default=0.0)
        return max(PATIENCE_SECONDS, 10 * longest)

    def _follow(self, walk: Path) -> None:
        """Store and tell how far the walk is, where that changed."""
        progress: list[dict[str, object]] = [
            {"tier": p.tier, "done": p.done, "total": p.total} for p in walk.progress()
        ]
        if progress != self._progress:
            self._progress = progress
            self.repository.set_progress(self.row.uuid, progress)
        if walk.order and walk.order != self._order:
            self._order = walk.order
            self.repository.set_order(self.row.uuid, walk.order)
            self.listener.on_narrate(f"blocks, least sensitive first: {', '.join(walk.order)}")
        if self._tier == "global" != walk.tier:
            gap = uniform_gap(self.repository.trials(self.row.name))
            if gap:
                self.listener.on_narrate(gap)
        if walk.tier is not None and walk.tier != self._tier:
            self._publish()
            self._tier = walk.tier
            self.heart.phase = walk.tier
            self.listener.on_tier(walk.tier)

    def _publish_end(self, state: str, reason: str) -> None:
        """Renew it for a run that fails: what the storage says now would hide why."""
        with suppress(StorageError):
            self._publish(state=state, reason=reason)

    def _publish(self, **end: Any) -> None:
        """Renew what a plain optuna-dashboard shows of the study; ``end`` is how this run leaves it."""
        row = replace(self.repository.study(self.row.name), **end)
        trials = self.repository.trials(self.row.name)
        self._published, self._told = time.monotonic(), len(self.sampler.walk.candidates)
        publish(self.database, self.study._study_id, row, trials)
