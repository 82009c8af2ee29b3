"""What the storage and the sampler cost per trial of a search whose evaluations take no time."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import ceil, exp
from pathlib import Path
from statistics import fmean, median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import optuna

from qslm_opt.hierarchy.tree import Block, Hierarchy, Module, TensorInfo
from qslm_opt.results import Baseline, Evaluation, Progress, TrialRecord
from qslm_opt.search.driver import SilentListener, create_study, run_study
from qslm_opt.setting import UNQUANTIZED, QuantSetting
from qslm_opt.spec import StudySpec
from qslm_opt.store import Repository, optuna_storage_kwargs, prepare

if TYPE_CHECKING:
    from collections.abc import Callable

    from optuna.trial import FrozenTrial

    from qslm_opt.evaluate.bounds import MetricBound
    from qslm_opt.measure.meter import Meter
    from qslm_opt.results import PowerWindow

MOST_BARE = 1000
"""Bare Optuna runs at most so many trials: it takes five times as long."""
LAST = 200
"""The medians are over so many trials at the end, when the study is largest."""
_MARKS = tuple(10**power for power in range(1, 7))
_NAME = "storage-cost"
_MODULES = ("att.key", "att.value", "att.receptance", "att.output", "ffn.key", "ffn.receptance", "ffn.value")
_PRECISIONS = (16, 12, 10, 8, 6, 5, 4, 3, 2)
_PER_BLOCK = len(_PRECISIONS) + 1 + (len(_MODULES) - 1) * (len(_PRECISIONS) - 1) + 1
"""Trials that one block of the synthetic model needs in all tiers."""


@dataclass(frozen=True)
class Growth:
    """What a trial costs, and what there is, at one size of a study."""

    trials: int
    ms_median: float
    """Wall time, over the last 200 trials up to here (over all when there are fewer)."""
    cpu_ms_mean: float
    """CPU time of the process, over the same trials: what another program beside it does not change."""
    rss_bytes: int | None
    """Resident memory of the process; None where /proc does not say."""
    file_bytes: int
    """The SQLite file with its write-ahead log."""


@dataclass(frozen=True)
class StorageCost:
    """Wall time per trial in milliseconds, from one trial's end to the next; an evaluation takes none."""

    trials: int
    """Trials that were run; as many by bare Optuna."""
    ms_median_last: float
    """Median over the last 200 trials (over all when there are fewer)."""
    ms_mean: float
    """Mean over all trials."""
    optuna_trials: int
    """Trials of bare Optuna: as many, but at most 1,000."""
    optuna_ms_median: float
    """Bare Optuna, the same file settings: ask, the same attributes and constraints, tell; its last 200."""
    growth: tuple[Growth, ...]
    """What a trial costs as the study grows: at 10, 100, 1,000, … trials and at the end."""
    seconds: float
    """Wall time of the whole measurement."""


def storage_cost(trials: int = 1000) -> StorageCost:
    """Measure ``trials`` trials of the tiered search, then of bare Optuna, each on a temporary SQLite file.

    The model is synthetic, seven modules a block, and as tall as the trials need: 17 blocks for 1,000.
    Bare Optuna samples at random and writes to each trial what ours writes, one attribute at a time.

    Raises:
        ValueError: fewer than two trials.
        StorageError: the temporary folder cannot be written.
    """
    if trials < 2:
        raise ValueError(f"{trials} trials have no time between two ends; give at least 2.")
    started = time.perf_counter()
    with TemporaryDirectory(prefix="qslm-opt-bench-") as folder:
        file = Path(folder) / "study.db"
        clock = _ours(f"sqlite:///{file}", trials, file)
        ours, bare = _between(clock.ends), min(trials, MOST_BARE)
        last = _stored(f"sqlite:///{file}", trials - 1)
        theirs = _bare(f"sqlite:///{Path(folder) / 'bare.db'}", last, bare)
    return StorageCost(
        trials=len(clock.ends),
        ms_median_last=median(ours[-LAST:]),
        ms_mean=fmean(ours),
        optuna_trials=bare,
        optuna_ms_median=median(theirs[-LAST:]),
        growth=tuple(clock.growth),
        seconds=time.perf_counter() - started,
    )


def session_for(trials: int) -> InstantSession:
    """Return a session whose search has at least ``trials`` trials, in every tier."""
    spec = StudySpec.from_mapping(
        {
            "name": _NAME, "model": "synthetic", "task": "demo", "max_increase": "10%",
            "memory_budget": "100%", "precisions": _PRECISIONS, "sign_embedding": False,
        }
    )  # fmt: skip
    return InstantSession(spec, _hierarchy(max(2, ceil(trials / _PER_BLOCK))))


def _ours(url: str, trials: int, file: Path) -> _Clock:
    """The ends of a study's first ``trials`` trials."""
    session = session_for(trials)
    create_study(session.spec, url, session)
    with Repository(url) as repository:
        uuid = repository.study(_NAME).uuid
        clock = _Clock(trials, lambda: repository.request_stop(uuid), file)
        run_study(_NAME, url, session, listener=clock)
    return clock


def _stored(url: str, number: int) -> FrozenTrial:
    """One trial of ours as Optuna reads it."""
    storage = optuna.storages.RDBStorage(url, engine_kwargs=optuna_storage_kwargs(url))
    study_id = storage.get_study_id_from_name(_NAME)
    found = storage.get_trial(storage.get_trial_id_from_study_id_trial_number(study_id, number))
    storage.engine.dispose()
    return found


def _bare(url: str, like: FrozenTrial, trials: int) -> list[float]:
    """Milliseconds between the ends of ``trials`` trials of Optuna alone, each with what ``like`` has."""
    prepare(url)
    storage = optuna.storages.RDBStorage(url, engine_kwargs=optuna_storage_kwargs(url))
    study = optuna.create_study(storage=storage, sampler=optuna.samplers.RandomSampler(seed=0))
    ends = []
    for _ in range(trials):
        trial = study.ask(like.distributions)
        for key, value in like.user_attrs.items():
            trial.set_user_attr(key, value)
        for key, slack in like.constraints.items():
            trial.set_constraint(key, slack)
        study.tell(trial, like.value)
        ends.append(time.perf_counter())
    storage.engine.dispose()
    return _between(ends)


def _between(ends: Sequence[float]) -> list[float]:
    return [1e3 * (after - before) for before, after in pairwise(ends)]


def _hierarchy(blocks: int) -> Hierarchy:
    def matrix(block: str, name: str) -> Module:
        return Module(f"{block}/{name}", (TensorInfo(f"{block}.{name}.weight", (64, 64), "matrix"),))

    units = (f"attention.{i}" for i in range(blocks))
    return Hierarchy(
        "synthetic", tuple(Block(u, "attention", tuple(matrix(u, name) for name in _MODULES)) for u in units)
    )


@dataclass
class InstantSession:
    """A session that computes nothing: a setting is within the bound while each block has a 16-bit module.

    So every tier has work to do: no block can be lowered as a whole, each of its modules but the last can
    be, down to 2 bits.
    """

    spec: StudySpec
    hierarchy: Hierarchy

    def fingerprint(self) -> dict[str, str]:
        """Return what does not change."""
        return {"weights": "none", "data": "none", "spec": self.spec.hash(), "code": "1"}

    def baseline(self) -> Baseline:
        """Return a perplexity of e."""
        return Baseline.of(self._result(UNQUANTIZED))

    def probe(self) -> str:
        """Return what every process returns."""
        return "stand-in"

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
    ) -> tuple[Evaluation, None]:
        """Return the evaluation of ``setting``, measured to the end."""
        return self._result(setting), None

    def drift(self, setting: QuantSetting) -> tuple[float, int, float]:
        """Return no drift."""
        return 0.0, 1, 0.0

    def measure(
        self, setting: QuantSetting, meter: Meter, seconds: float, stop: Callable[[], bool]
    ) -> PowerWindow | None:
        """Return nothing: there is no model to measure."""
        return None

    def _result(self, setting: QuantSetting) -> Evaluation:
        kept = all(
            any(setting.format_of(module.unit).bits >= _PRECISIONS[0] for module in block.modules)
            for block in self.hierarchy.blocks
        )
        n, loss = 1000, 1.0 if kept else 2.0
        return Evaluation(
            "perplexity", exp(loss), n, n, None, n * loss, 1, 1, 0.0, "cpu", "fp32", "none", "none", "1"
        )


@dataclass
class _Clock(SilentListener):
    """A listener that notes when trials end, in seconds, and stops the study after so many."""

    trials: int
    stop: Callable[[], None]
    file: Path
    ends: list[float] = field(default_factory=list)
    growth: list[Growth] = field(default_factory=list)
    _used: deque[float] = field(default_factory=lambda: deque(maxlen=LAST + 1))
    """CPU time at the last ends, in seconds."""

    def _cpu_ms(self) -> float:
        return 1e3 * (self._used[-1] - self._used[0]) / (len(self._used) - 1)

    def on_trial_end(self, record: TrialRecord) -> None:
        """Note the end of a trial, and at some sizes what the study is."""
        self.ends.append(time.perf_counter())
        self._used.append(time.process_time())
        count = len(self.ends)
        if count == self.trials or count in _MARKS:
            log = Path(f"{self.file}-wal")
            size = self.file.stat().st_size + (log.stat().st_size if log.exists() else 0)
            recent = self.ends[-LAST - 1 :]
            now = median(_between(recent)), self._cpu_ms(), resident_bytes(), size
            self.growth.append(Growth(count, *now))
        if count == self.trials:
            self.stop()


def resident_bytes() -> int | None:
    """Return the resident memory of this process, None where /proc does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")
