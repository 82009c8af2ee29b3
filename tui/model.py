"""The view model: what a study looks like at one moment, with the numbers derived from it. No Textual."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING

from qslm_opt import rank
from qslm_opt.hierarchy.tree import NETWORK
from qslm_opt.rank import Ranking
from qslm_opt.setting import QuantSetting
from tui.events import Event, events_of
from tui.lanes import Lane, lanes_of
from tui.shares import TimeShares, shares_of
from tui.times import moment

if TYPE_CHECKING:
    from qslm_opt.rank import Ranked
    from qslm_opt.results import Metric, TrialRecord
    from qslm_opt.store import StudyRow
    from tui.power import Power

ENDED = ("complete", "pruned", "failed")
_RATE_WINDOW = 20
_RANKINGS_KEPT = 8
_OF_TRIALS = frozenset({
    "by_number", "running", "ended", "feasible", "candidates", "improvements", "tier", "winners", "closest",
    "trials_per_second", "_worked", "events", "shares", "ended_by_tier",
    "ended_by_state", "by_unit",
})  # fmt: skip
_DERIVED = _OF_TRIALS | {"lanes"}


@dataclass(frozen=True)
class StudyView:
    """A study and its trials as read at one moment; everything else is derived, once, when asked for."""

    row: StudyRow
    trials: tuple[TrialRecord, ...]
    """All trials by number."""
    read_at: datetime
    power: Power | None = None
    """What was read of the power recording; None when no screen shows any."""
    _at: dict[tuple[float, bool], list[Ranked]] = field(default_factory=dict, compare=False, repr=False)
    """The last few rankings; a view with the same trials takes them over."""
    _made: dict[bool, Ranking] = field(default_factory=dict, compare=False, repr=False)
    _own: dict[bool, dict[int, int]] = field(default_factory=dict, compare=False, repr=False)
    """Trial number → rank at the study's own λ."""

    @property
    def metric(self) -> Metric:
        """``accuracy`` or ``perplexity``."""
        return "accuracy" if self.row.spec.metric == "accuracy" else "perplexity"

    @property
    def fp32_bytes(self) -> int:
        """Bytes of the unquantized model; 0 when nothing says."""
        if self.row.baseline is not None:
            return self.row.baseline.bytes
        return self.trials[0].fp32_bytes if self.trials else 0

    @cached_property
    def by_number(self) -> Mapping[int, TrialRecord]:
        """Trial number → trial."""
        return {trial.number: trial for trial in self.trials}

    @cached_property
    def by_unit(self) -> Mapping[str, tuple[TrialRecord, ...]]:
        """Unit → the ended trials that changed it alone, by number; not those of the sensitivity tier."""
        found: dict[str, list[TrialRecord]] = {}
        for trial in self.ended:
            if trial.tier != "sensitivity" and not trial.cheap and not mixed(trial):
                found.setdefault(trial.unit, []).append(trial)
        return {unit: tuple(trials) for unit, trials in found.items()}

    @cached_property
    def running(self) -> tuple[TrialRecord, ...]:
        """Trials that have not ended."""
        return tuple(t for t in self.trials if t.state == "running")

    @cached_property
    def ended(self) -> tuple[TrialRecord, ...]:
        """Trials that have ended, by number."""
        return tuple(t for t in self.trials if t.state in ENDED)

    @cached_property
    def feasible(self) -> tuple[TrialRecord, ...]:
        """Trials that meet both constraints."""
        return tuple(t for t in self.trials if t.feasible)

    @cached_property
    def candidates(self) -> tuple[TrialRecord, ...]:
        """Ended trials that could be feasible: the sensitivity tier quantizes one block only."""
        return tuple(t for t in self.ended if not t.cheap and (t.tier != "sensitivity" or t.feasible))

    def ranked(self, lam: float, feasible_only: bool = True) -> list[Ranked]:
        """Return the candidates at ``lam``, best first; the last few answers are kept."""
        key = (lam, feasible_only)
        if key not in self._at:
            while len(self._at) >= _RANKINGS_KEPT:
                del self._at[next(iter(self._at))]
            self._at[key] = self._ranking(feasible_only).at(lam)
        return self._at[key]

    def places_won(self, row: Ranked, feasible_only: bool = True) -> int:
        """Return how many places a ranked trial won against the ranking at the study's own λ."""
        if feasible_only not in self._own:
            own = self.ranked(self.row.spec.lam, feasible_only)
            self._own[feasible_only] = {r.record.number: r.rank for r in own}
        return self._own[feasible_only][row.record.number] - row.rank

    def _ranking(self, feasible_only: bool) -> Ranking:
        if feasible_only not in self._made:
            trials = self.feasible if feasible_only else self.candidates
            self._made[feasible_only] = Ranking(trials, self.metric, feasible_only)
        return self._made[feasible_only]

    def best(self, lam: float) -> TrialRecord | None:
        """Return the winner at ``lam``, None when nothing is feasible."""
        rows = self.ranked(lam)
        return rows[0].record if rows else None

    @cached_property
    def winners(self) -> list[tuple[float, float, TrialRecord]]:
        """The λ envelope: (from, to, trial), by rising λ; the last one holds to infinity."""
        return self._ranking(feasible_only=True).envelope

    @cached_property
    def closest(self) -> TrialRecord | None:
        """What came closest, for when nothing is feasible."""
        return rank.closest(self.candidates)

    @cached_property
    def improvements(self) -> frozenset[int]:
        """Numbers of the trials that were the best so far, at the study's own λ, when they ended."""
        lam, sign = self.row.spec.lam, 1 if self.metric == "accuracy" else -1
        found, best = set(), float("-inf")
        for t in self.feasible:
            value = sign * rank.score(self.metric, t.value or 0.0, t.bytes / (t.fp32_bytes or 1), lam)
            if value > best:
                best = value
                found.add(t.number)
        return frozenset(found)

    @cached_property
    def ended_by_tier(self) -> Counter[str]:
        """Tier → trials of it that have ended."""
        return Counter(t.tier for t in self.ended)

    @cached_property
    def ended_by_state(self) -> Counter[str]:
        """State → trials that ended in it."""
        return Counter(t.state for t in self.ended)

    @cached_property
    def lanes(self) -> tuple[Lane, ...]:
        """The tiers in their order, with what is done and the best candidate of each."""
        return lanes_of(self)

    @cached_property
    def events(self) -> tuple[Event, ...]:
        """What happened, oldest first: tiers that began and trials that ended."""
        return events_of(self)

    @cached_property
    def shares(self) -> TimeShares | None:
        """Where the time of the last trials went; None before the second one."""
        return shares_of(self.ended)

    @cached_property
    def tier(self) -> str | None:
        """The tier of the newest trial that says; a trial that has just begun may not yet."""
        return next((t.tier for t in reversed(self.trials) if t.tier), None)

    @cached_property
    def trials_per_second(self) -> float | None:
        """Ended trials per second of wall time over the last 20; None before the second one."""
        ends = sorted(filter(None, (moment(t.finished) for t in self.ended[-_RATE_WINDOW:])))
        if len(ends) < 2 or ends[-1] <= ends[0]:
            return None
        return (len(ends) - 1) / (ends[-1] - ends[0]).total_seconds()

    @property
    def remaining(self) -> int | None:
        """Trials still to come at most; None when the study does not say."""
        open_lanes = [lane for lane in self.lanes if lane.state != "done"]
        if any(lane.total is None for lane in open_lanes):
            return None
        return sum(max(0, (lane.total or 0) - lane.done) for lane in open_lanes)

    @property
    def eta_seconds(self) -> float | None:
        """Seconds to go at most, at the rate of the last trials; None when that is not known."""
        rate, remaining = self.trials_per_second, self.remaining
        if self.row.state != "running" or not rate or remaining is None:
            return None
        return remaining / rate

    @cached_property
    def _worked(self) -> tuple[float, datetime | None]:
        spans = ((moment(t.started), moment(t.finished)) for t in self.ended)
        return _union((a, b) for a, b in spans if a and b)

    def elapsed_seconds(self, now: datetime) -> float | None:
        """Return the seconds in which trials ran, pauses between two runs left out; None before any did."""
        seconds, edge = self._worked
        begun = min(filter(None, (moment(t.started) for t in self.running)), default=None)
        if self.row.state == "running" and begun is not None:
            seconds += max(0.0, (now - max(begun, edge or begun)).total_seconds())
        return None if edge is None and begun is None else seconds

    def with_row(self, row: StudyRow, read_at: datetime) -> StudyView:
        """Return the view of the same trials with another row; what is derived from trials goes along."""
        view = replace(self, row=row, read_at=read_at)
        view.__dict__.update({k: v for k, v in self.__dict__.items() if k in _OF_TRIALS})
        return view

    def with_power(self, power: Power) -> StudyView:
        """Return the same view with what was read of the power recording; all that is derived goes along."""
        view = replace(self, power=power)
        view.__dict__.update({k: v for k, v in self.__dict__.items() if k in _DERIVED})
        return view

    def setting(self, record: TrialRecord) -> QuantSetting:
        """Return the trial's setting; raise SettingError when its text is damaged."""
        return QuantSetting.from_json(record.setting)


def mixed(record: TrialRecord) -> bool:
    """Whether a trial that names the network gives its units different bits: an allocation, a swap."""
    return record.unit == NETWORK and record.tier != "global"


def sensitivity(view: StudyView) -> dict[tuple[str, float], float]:
    """Return (block, bits) → increase of the mean loss in nats against the baseline.

    Read from the sensitivity tier's measured trials; empty before the baseline is known.
    """
    base = view.row.baseline
    if base is None or not base.n:
        return {}
    mean = base.nll_sum / base.n
    return {
        (t.unit, t.bits): t.loss - mean
        for t in view.trials
        if t.tier == "sensitivity" and t.state == "complete" and t.loss is not None
    }


def _union(spans: Iterable[tuple[datetime, datetime]]) -> tuple[float, datetime | None]:
    """Return (seconds covered by the spans, the end of the last)."""
    seconds, edge = 0.0, None
    for start, end in sorted(spans):
        begin = start if edge is None else max(start, edge)
        if end > begin:
            seconds += (end - begin).total_seconds()
        edge = end if edge is None else max(edge, end)
    return seconds, edge
