"""Where the time goes: the wall time of the last trials, split by what is stored of them. No Textual."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qslm_opt.spec import TUNED
from tui.times import seconds_of

if TYPE_CHECKING:
    from qslm_opt.results import TrialRecord

LAST = 20
IDLE_SECONDS = 10.0
"""A pause without any running trial that is longer than this is idle time; a shorter one is the sampler's."""


@dataclass(frozen=True)
class TimeShares:
    """Shares of the wall time from the first begin to the last end of some trials; they add up to 1.

    Where several workers run at once, the time in which any trial runs is split as their trials' time is.
    """

    trials: int
    seconds: float
    """Wall time."""
    evaluation: float
    """The model runs, and the tuning before them."""
    storage: float
    """The rest of the trials: quantizing, verdict, writing."""
    sampler: float
    """Between trials: choosing the next one."""
    idle: float
    """Longer pauses in which no trial ran."""
    joules: float | None
    """Mean energy of those trials that were measured."""

    @property
    def per_minute(self) -> float:
        """Trials a minute of wall time."""
        return 60 * self.trials / self.seconds


def shares_of(ended: Sequence[TrialRecord]) -> TimeShares | None:
    """Return where the time of the last 20 trials went; None with fewer than two, or without times."""
    last = ended[-LAST:]
    spans = [(a, b, _model_seconds(t, b - a)) for t in last for a, b in [_span(t)] if a < b]
    if len(spans) < 2:
        return None
    spans.sort()
    wall = max(b for _, b, _ in spans) - spans[0][0]
    busy, sampler, idle, edge = 0.0, 0.0, 0.0, spans[0][0]
    for began, end, _ in spans:
        pause = began - edge
        if pause > IDLE_SECONDS:
            idle += pause
        elif pause > 0:
            sampler += pause
        busy += max(0.0, end - max(began, edge))
        edge = max(edge, end)
    ran = sum(seconds for *_, seconds in spans) / sum(b - a for a, b, _ in spans)
    joules = [t.energy_j for t in last if t.energy_j is not None]
    return TimeShares(
        len(spans), wall, busy * ran / wall, busy * (1 - ran) / wall, sampler / wall, idle / wall,
        sum(joules) / len(joules) if joules else None,
    )  # fmt: skip


def _model_seconds(trial: TrialRecord, lasted: float) -> float:
    """Return what the model took of a trial that lasted so long; of a tuned one all, as tuning is most."""
    return lasted if trial.tier == TUNED else min(trial.seconds or 0.0, lasted)


def _span(trial: TrialRecord) -> tuple[float, float]:
    """Return (began, ended) in seconds since 1970; (0, 0) when one is not known."""
    began, ended = seconds_of(trial.started), seconds_of(trial.finished)
    return (began, ended) if began is not None and ended is not None else (0.0, 0.0)
