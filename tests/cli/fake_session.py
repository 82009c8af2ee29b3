"""A session without a model: the metric falls with the bits, and nothing heavy is imported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from qslm_opt.evaluate.memory import live_bytes
from qslm_opt.formats import Format
from qslm_opt.results import Baseline, Evaluation, Progress
from qslm_opt.setting import UNQUANTIZED, QuantSetting
from qslm_opt.spec import StudySpec
from tests.store.fake_study import HIERARCHY

LOSS = {16: 0, 12: 0, 10: 0, 8: 0, 6: 1, 5: 2, 4: 3, 3: 6, 2: 15, 32: 0, 1: 0}
"""Right sentences of 100 that one block costs at so many bits."""


class FakeSession:
    def __init__(self, spec: StudySpec, interrupt_after: int | None = None, cost: int = 1) -> None:
        self.spec, self.hierarchy = spec, HIERARCHY
        self.engine = SimpleNamespace(device=_Cpu(), synchronise=lambda: None)
        self.runs, self._interrupt_after, self._cost = 0, interrupt_after, cost

    def fingerprint(self) -> dict[str, str]:
        return {"weights": "w", "data": "d", "spec": self.spec.hash(), "code": "1"}

    def baseline(self) -> Baseline:
        return Baseline.of(self._evaluate(UNQUANTIZED))

    def probe(self) -> str:
        return "fake"

    def run(
        self,
        setting: QuantSetting,
        *,
        parent: QuantSetting | None = None,
        bound: Any = None,
        report: Callable[[Progress], bool] | None = None,
        meter: Any = None,
        every: int = 1,
        stop: Any = None,
    ) -> tuple[Evaluation, None]:
        self.runs += 1
        if self._interrupt_after is not None and self.runs > self._interrupt_after:
            raise KeyboardInterrupt
        if report is not None:
            report(Progress(50, 100, 45, 15.0, None))
        run = self._evaluate(setting)
        return (run if every == 1 else replace(run, n=100 // every, used=100 // every)), None

    def under(self, spec: StudySpec) -> FakeSession:
        return FakeSession(spec, self._interrupt_after, self._cost)

    def drift(self, setting: QuantSetting) -> tuple[float, int, float]:
        return 100.0 - self._evaluate(setting).correct, 5, 0.001

    def measure(self, setting: QuantSetting, meter: Any, seconds: float, stop: Any) -> None:
        return None

    def _evaluate(self, setting: QuantSetting) -> Evaluation:
        formats = setting.resolve(self.hierarchy).values()
        correct = 90 - self._cost * sum(LOSS[f.bits] for f in formats if isinstance(f, Format))
        size = live_bytes(self.hierarchy, setting)
        return Evaluation(
            "accuracy", correct / 100, 100, 100, correct, 120.0 - correct, size,
            self.hierarchy.fp32_bytes(), 0.01, "cpu", "fp32", "fake", "d", "1",
        )  # fmt: skip


class _Cpu:
    type = "cpu"

    def __str__(self) -> str:
        return "cpu"
