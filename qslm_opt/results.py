"""What was measured: evaluations, power windows and trial records. Units are in the names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from qslm_opt.items import Items

Metric = Literal["accuracy", "perplexity"]
TrialState = Literal["running", "complete", "pruned", "failed", "waiting"]


@dataclass(frozen=True)
class Evaluation:
    """One run of a setting over a task's data."""

    metric: Metric
    value: float | None
    """Accuracy in 0..1 or perplexity; None when the run was stopped before its end."""
    n: int
    """Size of the whole data: sentences, or predicted tokens."""
    used: int
    """How many of ``n`` were computed before the end or the stop."""
    correct: int | None
    """Right sentences among ``used``; None for perplexity."""
    nll_sum: float
    """Summed negative log likelihood over ``used``, in nats."""
    live_bytes: int
    """Packed bytes of the tensors that are live for the task."""
    fp32_bytes: int
    """Bytes of the same tensors in float32."""
    seconds: float
    """Wall time of the model run; of a tuned setting with its tuning, where that was done for this run."""
    device: str
    dtype: str
    """Arithmetic of the run: ``fp32``, ``fp64``, …"""
    kernel: str
    """Scan kernels used: ``reference``, ``numba``, ``triton``."""
    data_hash: str
    code_version: str
    firing_rate: float | None = None
    """Mean spikes per neuron and step over all neurons and ``used``; None when not counted."""
    silent: tuple[str, ...] = ()
    """Attention blocks none of whose neurons fired even once over ``used``."""
    rates: Mapping[str, float] = field(default_factory=dict)
    """Mean spikes per neuron and step over ``used``, by site: neurons that fire together."""
    items: Items | None = field(default=None, compare=False, repr=False)
    """What each sentence or window came to; None unless asked for, and no part of ``to_json``."""

    @property
    def stopped(self) -> bool:
        """Whether the run ended early because a violation was certain."""
        return self.value is None

    @property
    def loss(self) -> float:
        """Mean negative log likelihood over what was computed, in nats."""
        return self.nll_sum / self.used if self.used else float("inf")

    @property
    def saving(self) -> float:
        """Share of the float32 bytes that the setting saves, 0..1."""
        return 1.0 - self.live_bytes / self.fp32_bytes

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready object."""
        plain = asdict(replace(self, items=None))
        del plain["items"]
        return {**plain, "silent": list(self.silent), "loss": self.loss, "saving": self.saving}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Evaluation:
        """Rebuild from ``to_json``; derived fields are ignored."""
        known = {k: v for k, v in value.items() if k in cls.__dataclass_fields__}
        return cls(**{**known, "silent": tuple(known.get("silent", ()))})


@dataclass(frozen=True)
class Progress:
    """How far a running evaluation is."""

    used: int
    """Sentences or predicted tokens computed so far."""
    n: int
    correct: int | None
    nll_sum: float
    best_case: float | None = None
    """Best metric that is still possible; None without a bound."""


THROTTLES = (
    "clock setting", "power cap", "hardware slowdown", "sync boost", "thermal", "hardware thermal",
    "power brake", "display clocks",
)  # fmt: skip
"""Names of what limits a device's clocks. Stored as bits in this order: append only."""


@dataclass(frozen=True)
class PowerSample:
    """What a device said at one moment; None where it does not tell."""

    at: float
    """Seconds since 1970."""
    power_w: float | None = None
    memory_bytes: int | None = None
    """Device memory in use by everybody."""
    utilization: float | None = None
    """Share of the recent past in which the device computed, 0..1."""
    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    temperature_c: float | None = None
    throttle: tuple[str, ...] = ()
    """What limits the clocks now, names of ``THROTTLES``; empty also where the device does not tell."""


@dataclass(frozen=True)
class PowerDevice:
    """One process's measuring of one device for one study: a lane of samples, or why there are none."""

    id: str
    """Unique in the storage."""
    study_uuid: str
    host: str
    pid: int
    device: str
    """As the run names it: ``cuda:0``, ``cpu``."""
    index: int | None = None
    """NVML's index of the board; None without one."""
    name: str = ""
    """What the device calls itself."""
    source: str = "null"
    """``nvml``, ``rapl``, ``replay`` or ``null``."""
    limit_w: float | None = None
    memory_bytes: int | None = None
    """Memory that the device has."""
    idle_w: float | None = None
    """Mean power at rest; None when not measured."""
    idle_std_w: float | None = None
    rate_hz: float | None = None
    """Samples per second that were reached."""
    started: float = 0.0
    """Seconds since 1970."""
    reason: str | None = None
    """Why there is no reading; None while it works."""


@dataclass(frozen=True)
class PowerWindow:
    """Power sampled while a setting ran."""

    source: str
    """``nvml``, ``rapl`` or ``replay``."""
    samples: int
    rate_hz: float
    """Real sampling rate."""
    mean_w: float
    std_w: float
    energy_j: float | None
    """Energy of the window in joules: the device's counter where it is fit, else the integral."""
    idle_w: float | None = None
    """Power of the device at rest before the window; None when not measured."""
    memory_bytes: int | None = None
    """Device memory in use at the end of the window."""
    seconds: float | None = None
    """Length of the window."""
    counter_j: float | None = None
    """Joules by the device's counter; None without one, and in windows too short for it."""
    integral_j: float | None = None
    """Joules by the power samples; None where only a counter is read."""
    began: float | None = None
    """Seconds since 1970."""
    ended: float | None = None
    repeats: int = 1
    """Runs of the setting that began inside the window; the last may be cut short."""
    domain: str = "instant"
    """What a sample is: ``instant`` power, its ``average`` over the last second, or a ``counter``'s step."""
    steady: bool | None = None
    """Whether the power stayed where it was; None when that cannot be told."""
    steady_reason: str = ""
    """Why it is steady, is not, or cannot be told."""
    limit_w: float | None = None
    temperature_c: float | None = None
    """The device's at the end of the window."""
    throttle: tuple[str, ...] = ()
    """What limited the clocks at any time in the window."""
    items: int | None = None
    """Tokens or sentences that ran inside the window; None when not counted."""
    device: str | None = None
    """As the run names it: ``cuda:0``, ``cpu``."""
    run_items: int | None = None
    """Tokens or sentences of one whole run of the setting; None where every run is taken as it was."""

    @property
    def item_j(self) -> float | None:
        """Joules per token or sentence, the device's rest included; None where one of the two is missing."""
        return self.energy_j / self.items if self.energy_j is not None and self.items else None

    @property
    def run_j(self) -> float | None:
        """Joules per whole run of the setting; None where the energy was not read, or nothing ran.

        Where ``run_items`` is known, a run that was cut short counts for the share that ran.
        """
        if self.energy_j is None:
            return None
        if self.run_items is None or self.items is None:
            return self.energy_j / self.repeats
        return self.energy_j * self.run_items / self.items if self.items else None

    @property
    def counter_difference(self) -> float | None:
        """Counter over integral − 1; None unless both were read."""
        return self.counter_j / self.integral_j - 1 if self.counter_j and self.integral_j else None

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> PowerWindow:
        """Rebuild from ``asdict`` through JSON; what a later release added is ignored."""
        known = {k: v for k, v in value.items() if k in cls.__dataclass_fields__}
        return cls(**{**known, "throttle": tuple(known.get("throttle", ()))})


@dataclass(frozen=True)
class TrialRecord:
    """One trial as the store holds it: enough to rank and to show, nothing that needs a model."""

    number: int
    uuid: str
    state: TrialState
    tier: str
    unit: str
    bits: float
    """Width of the step that was tried: a whole number, or 1.58 for ternary."""
    setting: str
    """Canonical JSON of the QuantSetting."""
    digest: str
    value: float | None
    """Metric; None while running, when failed, or when stopped early."""
    bytes: int
    fp32_bytes: int
    slack: Mapping[str, float] = field(default_factory=dict)
    """Relative slack of ``metric`` and ``memory``, feasible at 0 or below."""
    loss: float | None = None
    used: int = 0
    seconds: float | None = None
    power_w: float | None = None
    """Mean power; None where no meter read it."""
    energy_j: float | None = None
    """Energy of one run of the setting."""
    firing_rate: float | None = None
    started: str | None = None
    """ISO 8601 local time without offset, as Optuna stores it."""
    finished: str | None = None
    extra: bool = False
    """Measured ahead by a worker and never needed: not part of the result."""
    reason: str = ""
    """Why it failed, in words; empty for all others."""
    share: float = 1.0
    """Share of the data that was computed on purpose; below 1 it is a cheap evaluation, no candidate."""

    @property
    def cheap(self) -> bool:
        """Whether only a share of the data was computed: it says nothing about the metric's bound."""
        return self.share < 1

    @property
    def share_text(self) -> str:
        """What a cheap evaluation computed, in words."""
        return f"1/{round(1 / self.share)} of the data" if self.share else "a few hundred tokens"

    @property
    def saving(self) -> float:
        """Share of the float32 bytes that the setting saves, 0..1."""
        return 1.0 - self.bytes / self.fp32_bytes if self.fp32_bytes else 0.0

    @property
    def feasible(self) -> bool:
        """Whether it is part of the result, was measured to the end and meets both constraints."""
        measured = self.state == "complete" and self.value is not None and not self.extra
        return measured and bool(self.slack) and all(s <= 0 for s in self.slack.values())


@dataclass(frozen=True)
class Baseline:
    """The unquantized model on the study's data, measured before anything else."""

    metric: Metric
    value: float
    n: int
    correct: int | None
    nll_sum: float
    bytes: int
    """Bytes of the live tensors in float32."""
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    """The whole Evaluation, for the record."""
    items: Items | None = field(default=None, compare=False, repr=False)
    """What each sentence or window came to; None unless asked for, and no part of ``to_json``."""

    @property
    def firing_rate(self) -> float | None:
        """Mean spikes per neuron and step of the unquantized model; None where they were not counted."""
        rate: float | None = self.evaluation.get("firing_rate")
        return rate

    @classmethod
    def of(cls, run: Evaluation) -> Baseline:
        """Return the baseline that a full evaluation measured."""
        if run.value is None:
            raise ValueError("a stopped evaluation is no baseline")
        whole = run.to_json()
        return cls(
            run.metric, run.value, run.n, run.correct, run.nll_sum, run.fp32_bytes, whole, run.items
        )

    def to_json(self) -> str:
        """Return JSON text."""
        plain = asdict(replace(self, items=None))
        del plain["items"]
        return json.dumps(plain, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Baseline:
        """Rebuild from ``to_json``."""
        return cls(**json.loads(text))


@dataclass(frozen=True)
class Comparison:
    """One setting beside the unquantized model, on the same sentences or windows."""

    metric: str
    """``accuracy`` or ``perplexity``."""
    value: float | None
    """Accuracy in 0..1 or perplexity; None when it could not be measured."""
    n: int
    """Sentences, or predicted tokens."""
    correct: int | None = None
    """Right sentences; None for perplexity."""
    windows: int | None = None
    """Windows of text; None for accuracy."""
    level: float = 0.95
    """Confidence level of every interval here, two-sided."""
    low: float | None = None
    high: float | None = None
    """Interval of ``value``: Wilson's for an accuracy, Student's over windows for a perplexity."""
    error: float | None = None
    """Standard error of a perplexity over windows; None for accuracy."""
    baseline: float | None = None
    """The unquantized model's value on the same data."""
    change: float | None = None
    """Accuracy: value − baseline. Perplexity: value / baseline − 1."""
    change_low: float | None = None
    change_high: float | None = None
    """Interval of ``change``: Tango's for accuracy, a paired bootstrap over windows for perplexity."""
    p: float | None = None
    """Two-sided p value of there being no change: exact McNemar, or the bootstrap's."""
    slack: float | None = None
    """Relative violation of the study's bound by ``value``, set against ``baseline``; met at 0 or below."""
    split: str = ""
    data_hash: str = ""
    seconds: float | None = None
    device: str = ""
    reason: str = ""
    """Why there is no value, in words."""

    @property
    def within(self) -> bool | None:
        """Whether ``value`` meets the study's bound on this data; None when that cannot be told."""
        return None if self.slack is None else self.slack <= 0

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready object."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Comparison:
        """Rebuild from ``to_json``; what a later release added is ignored."""
        return cls(**{k: v for k, v in value.items() if k in cls.__dataclass_fields__})
