"""A toy model without a model: hierarchies, artificial metrics and a session that measures them."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import exp, isfinite
from typing import Any

from qslm_opt.errors import NumericsError
from qslm_opt.evaluate.memory import live_bytes
from qslm_opt.hierarchy.tree import Block, Hierarchy, Module, TensorInfo
from qslm_opt.measure.meter import NullMeter
from qslm_opt.results import (
    Baseline,
    Evaluation,
    PowerDevice,
    PowerSample,
    PowerWindow,
    Progress,
    TrialRecord,
)
from qslm_opt.search.driver import run_study
from qslm_opt.search.machine import setting_of
from qslm_opt.search.space import SearchSpace
from qslm_opt.search.tiers import Proposal, Verdict
from qslm_opt.setting import UNQUANTIZED, QuantSetting
from qslm_opt.spec import StudySpec
from qslm_opt.store import open_repository

TUNED = 0.4
"""Share of a setting's loss above the baseline that tuning leaves."""


def hierarchy(
    attention: int = 2,
    modules: Sequence[str] = ("att.key", "ffn.key"),
    width: int = 16,
    vocabulary: int = 40,
    sign_only: bool = False,
    dead_head: bool = False,
) -> Hierarchy:
    """A small model of the SpikeGPT kind."""

    def vector(name: str) -> TensorInfo:
        return TensorInfo(name, (width,), "norm")

    def matrix(name: str, rows: int, **marks: Any) -> TensorInfo:
        return TensorInfo(name, (rows, width), marks.pop("role", "matrix"), **marks)

    emb = matrix("emb.weight", vocabulary, role="embedding", sign_only=sign_only)
    blocks = [
        Block("input", "input", (Module("input/emb", (emb,)), Module("input/ln0", (vector("ln0.weight"),))))
    ]
    for i in range(attention):
        units = [Module(f"attention.{i}/ln1", (vector(f"blocks.{i}.ln1.weight"),))]
        for name in modules:
            rows = 4 * width if name.startswith("ffn") else width
            units.append(Module(f"attention.{i}/{name}", (matrix(f"blocks.{i}.{name}.weight", rows),)))
        blocks.append(Block(f"attention.{i}", "attention", tuple(units)))
    head = matrix("head.weight", vocabulary, role="head", live=not dead_head)
    out = (Module("output/ln_out", (vector("ln_out.weight"),)), Module("output/head", (head,)))
    return Hierarchy("toy", (*blocks, Block("output", "output", out)))


def spec(**changes: Any) -> StudySpec:
    """A study of the toy, by default one that has to work for its budget."""
    base = {
        "name": "toy", "model": "toy", "task": "demo", "max_increase": "10%", "memory_budget": "14%",
        "precisions": (8, 6, 4, 3, 2), "sign_embedding": False,
    }  # fmt: skip
    return StudySpec.from_mapping({**base, **changes})


@dataclass(frozen=True)
class Metric:
    """An artificial metric: the mean NLL as a function of the formats of a setting.

    ``noise`` 0 is monotone in the bits; above, it is not. It depends on what the setting does, on nothing
    else.
    """

    space: SearchSpace
    seed: int = 0
    noise: float = 0.0
    limit: float = 1.2
    """Largest loss that is metric_ok."""

    def loss(self, setting: QuantSetting) -> float:
        """Mean NLL in nats; 1 without quantization."""
        total = 1.0
        for unit in self.space.modules:
            weight = random.Random(f"{self.seed}/{unit}").random()
            bits = setting.format_of(unit).bits
            total += weight * (0.0 if bits >= 16 else 2.0 ** (1 - bits))
        if setting.tune:
            total = 1.0 + (total - 1.0) * TUNED
        digest = setting.digest(self.space.hierarchy)
        return total + self.noise * random.Random(f"{self.seed}/{digest}").uniform(-1, 1)

    def verdict(self, proposal: Proposal) -> Verdict:
        """What an evaluation of ``proposal`` would say."""
        if not proposal.run:
            return Verdict(None, False)
        loss = self.loss(setting_of(self.space, proposal))
        if proposal.drift:
            return Verdict(None, proposal.memory_ok, drift=loss - 1)
        if proposal.every > 1:
            return Verdict(None, proposal.memory_ok, loss=loss)
        ok, slack = loss <= self.limit, exp(loss) / exp(self.limit) - 1
        return Verdict(ok, proposal.memory_ok, value=exp(loss), loss=loss, slack=slack)


def chosen(candidates: Sequence[tuple[float, int]], lam: float, fp32: int) -> int | None:
    """Index of the best of (perplexity, bytes) at λ, the first among equals."""
    scores = [(value + lam * size / fp32, size, i) for i, (value, size) in enumerate(candidates)]
    return min(scores)[2] if scores else None


@dataclass
class Toy:
    """Stands in for ``qslm_opt.pipeline.Session``: an artificial perplexity, in ``steps`` reports."""

    spec: StudySpec
    hierarchy: Hierarchy
    loss_of: Callable[[QuantSetting], float]
    n: int = 1000
    steps: int = 10
    delay: float = 0.0
    """Seconds per report."""
    hashes: dict[str, str] = field(default_factory=lambda: {"weights": "w" * 64, "data": "d" * 16})
    ran: list[QuantSetting] = field(default_factory=list)
    measured: list[tuple[QuantSetting, float]] = field(default_factory=list)
    baselines: int = 0
    drifted: int = 0
    tuning: Callable[[Callable[[], bool]], None] = lambda stop: None
    """Stands in for the steps of a tuning."""

    def fingerprint(self) -> dict[str, str]:
        return {**self.hashes, "spec": self.spec.hash(), "code": "1"}

    def baseline(self) -> Baseline:
        self.baselines += 1
        return Baseline.of(self._evaluate(UNQUANTIZED, None, None))

    def probe(self) -> str:
        return "toy"

    def run(
        self,
        setting: QuantSetting,
        *,
        parent: Any = None,
        bound: Any = None,
        report: Any = None,
        meter: Any = None,
        every: int = 1,
        stop: Callable[[], bool] = lambda: False,
    ) -> tuple[Evaluation, None]:
        self.ran.append(setting)
        if setting.tune:
            self.tuning(stop)
        run = self._evaluate(setting, bound, report)
        return (run if every == 1 else replace(run, n=run.n // every, used=run.used // every,
                                               nll_sum=run.nll_sum / every)), None

    def drift(self, setting: QuantSetting) -> tuple[float, int, float]:
        self.drifted += 1
        return self.loss_of(setting) - 1, 50, 0.001

    def measure(self, setting: QuantSetting, meter: Any, seconds: float, stop: Any) -> PowerWindow | None:
        self.measured.append((setting, seconds))
        return None

    def _evaluate(self, setting: QuantSetting, bound: Any, report: Any) -> Evaluation:
        loss, used = self.loss_of(setting), 0
        if not isfinite(loss):
            raise NumericsError("logits are nan at token 3; try more bits.")
        for step in range(1, self.steps + 1):
            time.sleep(self.delay)
            used = self.n * step // self.steps
            best = bound.best_case(used, None, loss * used) if bound else None
            if report and report(Progress(used, self.n, None, loss * used, best)):
                return self._result(setting, None, used, loss)
        return self._result(setting, exp(loss), used, loss)

    def _result(self, setting: QuantSetting, value: float | None, used: int, loss: float) -> Evaluation:
        return Evaluation(
            "perplexity", value, self.n, used, None, loss * used, live_bytes(self.hierarchy, setting),
            self.hierarchy.fp32_bytes(), 0.01, "cpu", "fp32", "toy", self.hashes["data"], "1",
        )  # fmt: skip


class ToyMeter(NullMeter):
    """A meter whose windows come from the session of the test."""

    source, board = "replay", "toy board"

    def __init__(self, samples: Sequence[PowerSample] = ()) -> None:
        """Take what the meter says as soon as somebody listens."""
        super().__init__()
        self.reason, self.samples = None, samples

    def subscribe(self, listener: Callable[[PowerSample], None]) -> Callable[[], None]:
        for sample in self.samples:
            listener(sample)
        return lambda: None

    def describe(self) -> PowerDevice:
        return replace(super().describe(), source=self.source, name=self.board)


def toy(study: StudySpec, seed: int = 0, noise: float = 0.0, delay: float = 0.0, **shape: Any) -> Toy:
    """A toy session; what it measures does not depend on the study's constraints."""
    tree = hierarchy(**shape)
    space = SearchSpace.of(spec(memory_budget="100%"), tree)
    return Toy(study, tree, Metric(space, seed, noise).loss, delay=delay)


class Recorder:
    """A listener that remembers."""

    def __init__(
        self,
        on_end: Callable[[TrialRecord], None] | None = None,
        on_start: Callable[[TrialRecord], None] | None = None,
    ) -> None:
        self.lines: list[str] = []
        self.tiers: list[str] = []
        self.started: list[tuple[TrialRecord, int, int | None]] = []
        self.progress: list[Progress] = []
        self.ended: list[TrialRecord] = []
        self._on_end, self._on_start = on_end, on_start

    def on_narrate(self, text: str) -> None:
        self.lines.append(text)

    def on_tier(self, tier: str) -> None:
        self.tiers.append(tier)

    def on_trial_start(self, record: TrialRecord, done: int, total_estimate: int | None) -> None:
        self.started.append((record, done, total_estimate))
        if self._on_start:
            self._on_start(record)

    def on_progress(self, progress: Progress) -> None:
        self.progress.append(progress)

    def on_trial_end(self, record: TrialRecord) -> None:
        self.ended.append(record)
        if self._on_end:
            self._on_end(record)


def main() -> None:
    """Run a stored toy study here: URL, seconds per report, first trial in which to kill oneself (-1: none).

    Prints the number of each trial that starts.
    """
    url, delay, last = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
    with open_repository(url) as repository:
        study = repository.study("toy").spec

    def on_start(record: TrialRecord) -> None:
        print(record.number, flush=True)
        if record.number >= last >= 0:
            os.kill(os.getpid(), signal.SIGKILL)

    try:
        run_study("toy", url, toy(study, delay=delay), listener=Recorder(on_start=on_start))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
