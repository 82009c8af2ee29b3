"""Evaluations per second in a study, with each of the engine's and the search's savings on and off.

The same study runs through ``run_study`` on SQLite files of its own. Nothing that is switched may change a
verdict: that is checked here, digest by digest.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from qslm_opt.bench.timing import Timing
from qslm_opt.errors import QslmError
from qslm_opt.pipeline import Session
from qslm_opt.search.driver import SilentListener, create_study, run_study
from qslm_opt.setting import UNQUANTIZED
from qslm_opt.store import Repository

if TYPE_CHECKING:
    from qslm_opt.evaluate.bounds import MetricBound
    from qslm_opt.measure.meter import Meter
    from qslm_opt.results import Evaluation, PowerWindow, Progress, TrialRecord
    from qslm_opt.search.summary import RunSummary
    from qslm_opt.setting import QuantSetting
    from qslm_opt.spec import StudySpec

_START_SECONDS = 120.0
"""Within this a worker process has loaded its model."""
_LOOK_SECONDS = 0.01


@dataclass(frozen=True)
class Switches:
    """What a study's evaluations may use."""

    name: str
    prefix: bool = True
    """Start a trial at the first block that it changes."""
    stopping: bool = True
    """Stop an evaluation as soon as its violation is certain."""
    order: bool = True
    """Compute first what decided soonest in earlier runs."""
    workers: int = 1
    """Processes that search together, ahead of the verdicts they wait for."""


EVERYTHING = Switches("everything on")


def variants(workers: int = 2) -> tuple[Switches, ...]:
    """Return everything on, each saving off, all off, and everything on with ``workers`` processes."""
    found = (
        EVERYTHING,
        Switches("no prefix cache", prefix=False),
        Switches("no early stopping", stopping=False),
        Switches("no learnt order", order=False),
        Switches("nothing on", prefix=False, stopping=False, order=False),
    )
    return (*found, Switches(f"{workers} workers", workers=workers)) if workers > 1 else found


StartWorkers = Callable[[str, str, int], AbstractContextManager[None]]
"""(study, storage URL, count) → runs so many more processes on the study."""


@dataclass(frozen=True)
class StudyRow:
    """One study with some switches."""

    switches: Switches
    timing: Timing
    """Wall time of the whole study."""
    evaluations: int
    """Trials whose model the search needs to run: those of the study that the others are compared with."""
    ahead: int
    """Further ones that workers ran, ahead of verdicts that made them unnecessary."""
    ratio_to_everything: float
    """Speed over that of the study with everything on."""
    same_verdicts: bool
    """Whether every digest has the verdict, and the best trial the digest, that it has with everything on."""
    differences: tuple[str, ...] = ()
    """What differs, in words."""

    @property
    def evaluations_per_s(self) -> float:
        """Needed evaluations per second of wall time."""
        return self.evaluations / self.timing.median_s

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready object with units in the keys."""
        switches = {k: v for k, v in asdict(self.switches).items() if k != "name"}
        return {
            "variant": self.switches.name, **switches, "study": asdict(self.timing),
            "evaluations": self.evaluations, "evaluations_ahead": self.ahead,
            "evaluations_per_s": self.evaluations_per_s, "ratio_to_everything": self.ratio_to_everything,
            "same_verdicts": self.same_verdicts, "differences": list(self.differences),
        }  # fmt: skip


@dataclass(frozen=True)
class StudySpeeds:
    """All variants of one study."""

    model: str
    task: str
    n: int
    """Predicted tokens or sentences of an evaluation."""
    batches: int
    rows: tuple[StudyRow, ...]

    unit: str
    """What ``n`` counts: ``predicted tokens`` or ``sentences``."""

    @property
    def same_verdicts(self) -> bool:
        """Whether all variants agree."""
        return all(row.same_verdicts for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready object."""
        return {
            "model": self.model, "task": self.task, "n": self.n, "unit": self.unit, "batches": self.batches,
            "same_verdicts": self.same_verdicts, "rows": [row.to_json() for row in self.rows],
        }  # fmt: skip


@dataclass(frozen=True)
class _Verdict:
    """What a study found about one digest."""

    memory_ok: bool
    metric_ok: bool | None
    """None where the memory budget is violated and the model was not run."""

    def agrees(self, other: _Verdict) -> bool:
        """Return whether nothing that both know differs: a worker may run what needs no run."""
        both = None not in (self.metric_ok, other.metric_ok)
        return self.memory_ok == other.memory_ok and (not both or self.metric_ok == other.metric_ok)

    def __str__(self) -> str:
        words = {None: "not run", True: "complete", False: "pruned, violates the metric"}[self.metric_ok]
        return words if self.memory_ok else f"over the memory budget, {words}"


@dataclass(frozen=True)
class _Run:
    """What one study left."""

    seconds: float
    verdicts: dict[str, _Verdict]
    best: str | None
    ran: int
    """Trials whose model was run."""


def measure_studies(
    spec: StudySpec,
    switches: Sequence[Switches],
    *,
    rounds: int,
    start_workers: StartWorkers,
    tell: Callable[[str], None],
) -> StudySpeeds:
    """Run the study of ``spec`` once with each of ``switches`` in each of ``rounds``.

    The first of ``switches`` is what the others are compared with. Loading the model is not in the times:
    the clock starts when a session stands, with several workers when the first other one has begun, too.

    Raises:
        those of ``Session.open`` and ``run_study``; QslmError when a worker does not begin.
    """
    base = Session.open(spec, tell)
    base.run(UNQUANTIZED)  # kernels are compiled here
    runs: dict[str, list[_Run]] = {one.name: [] for one in switches}
    for turn in range(max(1, rounds)):
        for one in switches:
            tell(f"study {spec.task}, {one.name}, round {turn + 1} of {max(1, rounds)}")
            runs[one.name].append(_one_study(base, one, start_workers))
    unit = "predicted tokens" if base.data.kind == "lm" else "sentences"
    first = runs[switches[0].name]
    reference = Timing.of([run.seconds for run in first])
    rows = []
    for one in switches:
        timing = Timing.of([run.seconds for run in runs[one.name]])
        found = [text for run in runs[one.name] for text in _differences(first[0], run)]
        needed, ran = first[0].ran, runs[one.name][-1].ran
        ratio = reference.median_s / timing.median_s
        differing = tuple(dict.fromkeys(found))
        rows.append(StudyRow(one, timing, needed, ran - needed, ratio, not found, differing))
    return StudySpeeds(spec.model, spec.task, base.data.n, base.engine.batches, tuple(rows), unit)


def _one_study(base: Session, one: Switches, start_workers: StartWorkers) -> _Run:
    """Run one study to its end in a folder that is gone afterwards."""
    session = (Session if one.stopping else _ToTheEnd)(
        base.spec, base.model, base.hierarchy, base.data,
        prefix_bytes=None if one.prefix else 0, reorder=one.order,
    )  # fmt: skip
    name = base.spec.name
    with TemporaryDirectory(prefix="qslm-opt-bench-") as folder:
        url = f"sqlite:///{Path(folder) / 'study.db'}"
        create_study(base.spec, url, session)
        others = start_workers(name, url, one.workers - 1) if one.workers > 1 else nullcontext()
        with others:
            if one.workers > 1:
                _await_worker(name, url)
            start = time.perf_counter()
            summary = run_study(name, url, session, listener=SilentListener())
            seconds = time.perf_counter() - start
        with Repository(url, read_only=True) as repository:
            return _read(seconds, summary, repository.trials(name))


def _read(seconds: float, summary: RunSummary, trials: Sequence[TrialRecord]) -> _Run:
    return _Run(
        seconds,
        {trial.digest: _verdict(trial) for trial in trials if not trial.extra and trial.state != "failed"},
        summary.best.digest if summary.best else None,
        sum(trial.used > 0 for trial in trials),
    )


def _verdict(trial: TrialRecord) -> _Verdict:
    """A violation that was certain early and one that was measured to the end are the same verdict."""
    memory_ok = trial.slack.get("memory", 0.0) <= 0
    return _Verdict(memory_ok, trial.slack.get("metric", 0.0) <= 0 if trial.used else None)


def _differences(expected: _Run, found: _Run) -> list[str]:
    """Return in words what two runs of one study do not agree on."""
    texts = []
    for digest in sorted({*expected.verdicts, *found.verdicts}):
        pair = expected.verdicts.get(digest), found.verdicts.get(digest)
        if pair[0] is None or pair[1] is None or not pair[0].agrees(pair[1]):
            texts.append(f"{digest}: {pair[0] or 'not visited'} ≠ {pair[1] or 'not visited'}")
    if expected.best != found.best:
        texts.append(f"best: {expected.best} ≠ {found.best}")
    return texts


def _await_worker(name: str, url: str) -> None:
    """Return once another process has begun on the study."""
    end = time.monotonic() + _START_SECONDS
    with Repository(url, read_only=True) as repository:
        while repository.study(name).state == "created":
            if time.monotonic() > end:
                raise QslmError(
                    f"no worker process began within {_START_SECONDS:g} s; try --workers 1, or look at what "
                    f"'qslm-opt study create --workers 2' says."
                )
            time.sleep(_LOOK_SECONDS)


class _ToTheEnd(Session):
    """A session whose evaluations are never stopped early."""

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
        """Evaluate a setting over all data, whatever ``bound`` and ``report`` say."""
        return super().run(setting, parent=parent, meter=meter, every=every, stop=stop)
