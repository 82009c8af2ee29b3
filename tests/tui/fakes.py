"""A made-up study behind the repository's interface: real settings and bytes, an invented metric."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from qslm_opt.errors import StudyNotFoundError
from qslm_opt.evaluate.memory import live_bytes
from qslm_opt.formats import FP32, SIGN, Layout
from qslm_opt.hierarchy.tree import NETWORK, Block, Hierarchy, Module, TensorInfo
from qslm_opt.rank import score
from qslm_opt.results import Baseline, Metric, TrialRecord, TrialState
from qslm_opt.setting import QuantSetting
from qslm_opt.spec import StudySpec
from qslm_opt.store import StudyRow, StudyState

START = datetime(2026, 9, 1, 14, 0, 0)
LEVELS = (16, 12, 10, 8, 6, 5, 4, 3, 2)
CHANNEL = Layout.parse("channel/affine")
_MATRICES = (
    "att.key", "att.value", "att.receptance", "att.output", "ffn.key", "ffn.receptance", "ffn.value"
)  # fmt: skip


def tree(blocks: int = 6, width: int = 512, vocabulary: int = 8000) -> Hierarchy:
    """Return a SpikeGPT-like hierarchy."""
    emb = TensorInfo("emb.weight", (vocabulary, width), "embedding", sign_only=True)
    head = TensorInfo("head.weight", (vocabulary, width), "head")
    return Hierarchy(
        "spikegpt",
        (
            Block("input", "input", (Module("input/emb", (emb,)),)),
            *(_attention(i, width) for i in range(blocks)),
            Block("output", "output", (Module("output/head", (head,)),)),
        ),
    )


def _attention(i: int, width: int) -> Block:
    unit = f"attention.{i}"
    norm = Module(f"{unit}/ln1", (TensorInfo(f"blocks.{i}.ln1.weight", (width,), "norm"),))
    modules = [norm]
    for name in _MATRICES:
        shape = (4 * width if name == "ffn.key" else width, 4 * width if name == "ffn.value" else width)
        modules.append(Module(f"{unit}/{name}", (TensorInfo(f"blocks.{i}.{name}.weight", shape, "matrix"),)))
    return Block(unit, "attention", tuple(modules))


class Study:
    """Makes one study, trial by trial."""

    def __init__(
        self,
        name: str = "opt-14m",
        metric: Metric = "perplexity",
        blocks: int = 6,
        budget_share: float = 0.22,
    ) -> None:
        self.metric, self.hierarchy = metric, tree(blocks)
        self.fp32 = self.hierarchy.fp32_bytes()
        self.budget = int(self.fp32 * budget_share)
        self.baseline: Baseline | None
        self.bound: float | None
        if metric == "perplexity":
            self.spec = StudySpec(name, "demo", "demo", f"{self.budget}", max_increase="1.5", lam=20.0)
            self.baseline = Baseline(metric, 34.2, 4000, None, math.log(34.2) * 4000, self.fp32)
            self.bound = 35.7
        else:
            self.spec = StudySpec(name, "demo", "sst2", f"{self.budget}", max_drop=0.02, lam=0.2)
            self.baseline = Baseline(metric, 0.8544, 872, 745, 0.35 * 872, self.fp32)
            self.bound = 0.8349
        self.uuid = "u-" + name
        self.name = name
        """Optuna's, which another program can change."""
        self.state: StudyState = "running"
        self.trials: list[TrialRecord] = []
        self.progress: list[dict[str, Any]] = []
        self.heartbeat: str | None = None
        self.phase: str | None = None
        self.reason = ""
        self.stop_requested = False
        self.extra: list[str] = []

    @property
    def blocks(self) -> list[str]:
        """Names of the blocks that the search turns."""
        return [b.unit for b in self.hierarchy.blocks][1:]

    def row(self) -> StudyRow:
        """Return the study as the repository does."""
        states = [t.state for t in self.trials]
        return StudyRow(
            self.uuid, self.name, self.spec, {}, self.baseline, self.bound, self.budget, self.hierarchy,
            state=self.state, created=START.isoformat(), pid=4242, host="bench-1", heartbeat=self.heartbeat,
            counts={s: states.count(s) for s in ("complete", "pruned", "failed", "running")},
            progress=list(self.progress), phase=self.phase, reason=self.reason,
            stop_requested=self.stop_requested, extra=list(self.extra),
        )  # fmt: skip

    def loss_increase(self, levels: dict[str, int]) -> float:
        """Return nats over the baseline for unit → bits."""
        weights = {b.unit: 0.05 + 0.11 * ((i * 7) % 5) for i, b in enumerate(self.hierarchy.blocks)}
        return sum(weights.get(u, 0.01) * 4.0 ** (1 - bits) * 0.6 for u, bits in levels.items())

    def add(
        self, tier: str, unit: str, bits: int, levels: dict[str, int], state: TrialState = "complete"
    ) -> TrialRecord:
        """Add one trial that quantizes ``levels``; what is over the budget is pruned without a run."""
        assert self.baseline is not None and self.bound is not None
        setting = QuantSetting(
            {NETWORK: FP32, "input/emb": SIGN, **{u: CHANNEL.with_bits(b) for u, b in levels.items()}}
        )
        number, size = len(self.trials), live_bytes(self.hierarchy, setting)
        memory = size / self.budget - 1
        if state == "complete" and tier != "sensitivity" and memory > 0:
            state = "pruned"
        value: float | None = None
        loss: float | None = None
        slack = 0.0
        if state == "complete":
            loss = self.baseline.nll_sum / self.baseline.n + self.loss_increase(levels)
            if self.metric == "perplexity":
                value = math.exp(loss)
                slack = value / self.bound - 1
            else:
                value = max(0.5, self.baseline.value - 0.3 * self.loss_increase(levels))
                slack = 1 - value / self.bound
        began = START + timedelta(seconds=20 * number)
        record = TrialRecord(
            number, f"t-{number}", state, tier, unit, bits, setting.to_json(), setting.digest(self.hierarchy),
            value, size, self.fp32, {"metric": slack, "memory": memory}, loss=loss,
            used=self.baseline.n if loss is not None else 0, seconds=18.4 if loss is not None else None,
            started=began.isoformat(),
            finished=None if state == "running" else (began + timedelta(seconds=19)).isoformat(),
        )  # fmt: skip
        self.trials.append(record)
        return record

    def fill(self, upto: str = "module", running: bool = True) -> Study:
        """Run the invented search: sensitivity, global, block and a part of the module tier."""
        blocks = self.blocks
        for unit in blocks:
            for bits in LEVELS[3:]:
                self.add("sensitivity", unit, bits, {unit: bits})
        if upto != "sensitivity":
            for bits in LEVELS[:-1]:
                self.add("global", NETWORK, bits, dict.fromkeys(blocks, bits))
        levels = dict.fromkeys(blocks, 4)
        if upto in ("block", "module"):
            self._block_tier(levels)
        if upto == "module":
            for module in ("att.key", "att.value", "ffn.key"):
                unit = f"attention.0/{module}"
                self.add("module", unit, 2, {**levels, unit: 2})
        if running:
            self.add(upto, "attention.1/att.key", 3, levels, state="running")
        totals = {
            "sensitivity": 6 * len(blocks), "global": 9, "block": 2 * len(blocks),
            "module": 14 * (len(blocks) - 1),
        }  # fmt: skip
        self.progress = [
            {
                "tier": tier,
                "done": sum(t.tier == tier and t.state != "running" for t in self.trials),
                "total": n,
            }
            for tier, n in totals.items()
        ]
        return self

    def _block_tier(self, levels: dict[str, int]) -> None:
        for unit in self.blocks:
            for bits in (3, 2):
                if not self.add("block", unit, bits, {**levels, unit: bits}).feasible:
                    break
                levels[unit] = bits


class FakeRepository:
    """The methods of qslm_opt.store.Repository that the dashboard uses, on lists."""

    def __init__(self, *studies: Study) -> None:
        self.made = list(studies)
        self.version = 1
        self.closed = 0
        self.error: Exception | None = None
        self.calls: list[tuple[Any, ...]] = []
        self.devices: list[Any] = []
        self.samples: dict[str, list[Any]] = {}
        self.windows: dict[str, Any] = {}

    def _called(self, *call: Any) -> None:
        self.calls.append(call)
        if self.error is not None:
            raise self.error

    def changed(self) -> int:
        self._called("changed")
        return self.version

    def studies(self) -> list[StudyRow]:
        self._called("studies")
        return [s.row() for s in self.made]

    def study(self, name: str) -> StudyRow:
        self._called("study", name)
        return self._of(name).row()

    def trials(
        self, name: str, after: int = -1, states: Sequence[TrialState] | None = None
    ) -> list[TrialRecord]:
        self._called("trials", after, tuple(states) if states else None)
        return [t for t in self._of(name).trials if t.number > after and (not states or t.state in states)]

    def best(self, name: str) -> TrialRecord | None:
        self._called("best", name)
        study = self._of(name)
        sign = 1 if study.metric == "accuracy" else -1
        feasible = [t for t in study.trials if t.feasible]
        lam = study.spec.lam
        return max(
            feasible,
            key=lambda t: sign * score(study.metric, t.value or 0.0, t.bytes / t.fp32_bytes, lam),
            default=None,
        )

    def power_devices(self, study_uuid: str) -> list[Any]:
        self._called("power_devices", study_uuid)
        return list(self.devices)

    def power_samples(
        self, device_id: str, since: float, until: float, points: int | None = None
    ) -> list[Any]:
        self._called("power_samples", device_id, since, until, points)
        found = [s for s in self.samples.get(device_id, ()) if since <= s.at <= until]
        return found if points is None else found[:: max(1, -(-len(found) // points))]

    def power_windows(self, study_uuid: str, after: float = 0.0) -> dict[str, Any]:
        self._called("power_windows", study_uuid, after)
        return {key: window for key, window in self.windows.items() if (window.ended or 0.0) > after}

    def close(self) -> None:
        self.closed += 1

    def _of(self, name: str) -> Study:
        for study in self.made:
            if study.name == name:
                return study
        raise StudyNotFoundError(f"no study {name!r} in this storage. 'qslm-opt study list' shows them.")

    def end_running(self, study: Study, value: float = 34.9) -> None:
        """End the running trial as feasible and move the version."""
        for i, t in enumerate(study.trials):
            if t.state == "running":
                over = datetime.fromisoformat(t.started or "") + timedelta(seconds=19)
                slack = {"metric": -0.02, "memory": -0.05}
                study.trials[i] = replace(
                    t, state="complete", value=value, slack=slack, finished=over.isoformat()
                )
        self.version += 1
