"""StudySpec: everything that decides a study, from TOML or flags, with strict keys."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from fractions import Fraction
from hashlib import sha256
from pathlib import Path
from typing import Any

from qslm_opt.errors import SpecError, UsageError, did_you_mean
from qslm_opt.formats import WIDTHS, Bits, Format, Layout, plain_bits

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEFAULT_PRECISIONS = (16, 12, 10, 8, 6, 5, 4, 3, 2)
MATMULS = ("auto", "fp32", "tf32", "fp16", "split")
TASKS = ("demo", "demo-classify", "sst2", "wikitext2")
_UNITS = {
    "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30
}  # fmt: skip
_SIZE = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,18})?)\s*([A-Za-z%]*)")
BOUNDS = ("max_drop", "min_accuracy", "max_increase", "max_perplexity")
STRATEGIES: Mapping[str, tuple[str, ...]] = {
    "tiered": ("sensitivity", "global", "block", "module"),
    "beam": ("sensitivity", "global", "gate", "block", "module", "postponed"),
    "knapsack": ("global", "steps", "allocation", "gate", "refinement", "postponed"),
    "tpe": ("global", "sampled"),
    "nsga2": ("global", "sampled"),
    "random": ("global", "sampled"),
}
"""How the settings are searched → the tiers of the search; ``gate`` and ``postponed`` only with a gate."""
SAMPLERS: Mapping[str, int] = {"tpe": 200, "nsga2": 200, "random": 200}
"""Optuna's own samplers → their evaluations where the study does not say how many."""
GATED = ("gate", "postponed")
TUNED = "tuned"
"""The tier that comes last in a study whose settings are tuned."""
_LATER = (
    "calibration_split", "calibration", "hold_back", "report_split", "confidence", "strategy", "beam_width",
    "evaluations", "gate", "every", "tune", "exclude", "ties", "family", "tokenizer", "timesteps", "config",
)  # fmt: skip
"""Keys that earlier releases had not: left out of the hash where they are as if not given."""
_NOT_DECIDING = ("name", "device", "matmul", "lam", "seed", "model", "data", "tokenizer", "power_window")
"""Keys that the spec's hash leaves out: what model, data, tokenizer, device and matmul lead to is in the
fingerprint."""
MOST_POWER_WINDOW = 600.0
MOST_TUNE_STEPS = 100_000
MOST_HELD_BACK = 0.9


@dataclass(frozen=True)
class StudySpec:
    """What to search, on which model and data, under which constraints."""

    name: str
    model: str
    """``demo``, a local folder, a ``.pth`` file, or a Hugging Face id ``ORG/NAME[@REVISION]``, each with
    ``#sha256=HEX`` behind it where the bytes of its checkpoint are to be checked."""
    task: str
    memory_budget: str
    """At most this many packed bytes: ``400MB``, ``26.5MiB``, or ``12%`` of the float32 bytes."""
    max_drop: float | None = None
    """Accuracy may be lower than the baseline by at most this (0.02 is two points)."""
    min_accuracy: float | None = None
    """Accuracy must be at least this."""
    max_increase: str | None = None
    """Perplexity may exceed the baseline by at most this: ``1.0``, or ``3.8%`` of the baseline."""
    max_perplexity: float | None = None
    """Perplexity must be at most this."""
    lam: float = 0.2
    """λ of Eq. 1: weight of the memory ratio in the score. Ranks only; decides no verdict."""
    precisions: tuple[Bits, ...] = DEFAULT_PRECISIONS
    """Bits that are tried, descending: 16 to 2, 1.58 (ternary) and 1."""
    sensitivity_precisions: tuple[Bits, ...] | None = None
    """Bits of the sensitivity sweep; None means all of ``precisions``."""
    layout: str = "channel/affine"
    """Scales of the searched formats: tensor, channel or groupN / affine, offset, symmetric or midrise."""
    quantizer: str = "rtn"
    """Algorithm that chooses scales and codes: rtn, mse, hqq, gptq or paper."""
    calibration_split: str | None = None
    """Split that a calibrated quantizer (gptq) looks at; None takes the task's own."""
    calibration: int | None = None
    """How many windows or sentences of it; None takes the task's own."""
    fixed: str = "fp16"
    """Format of the live tensors that are not searched (LayerNorm, time_*)."""
    sign_embedding: bool = True
    """Store tensors of which only the sign matters in the lossless 1-bit format."""
    pins: Mapping[str, str] = field(default_factory=dict)
    """Unit → format that the search must keep."""
    exclude: tuple[str, ...] = ()
    """Units, or patterns such as ``attention.*/att.key``, that stay in float32 and are counted so."""
    ties: tuple[str, ...] = ()
    """Modules that always have the same bits: a pattern, or units and patterns separated by commas, each."""
    data: str | None = None
    """Folder with the task's parquet files; None loads them from the Hugging Face hub."""
    split: str | None = None
    """Data split; None takes the task's own (validation for sst2, test for wikitext2)."""
    hold_back: float = 0.0
    """Share of the sentences or windows that the search never sees; its result is measured on them."""
    report_split: str | None = None
    """Another split that the result is measured on, in place of ``hold_back``."""
    confidence: float | None = None
    """Confidence with which the metric bound must hold; None holds the measured metric against it."""
    window: int | None = None
    """Predicted tokens per window (language modelling); None takes the task's own."""
    limit: int | None = None
    """Use only the first so many windows or sentences."""
    embed_spike: str = "on"
    """Heaviside on the embedding: on, off or auto (auto: on only for a vocabulary of 77)."""
    rescale_every: int = 0
    """Halve the residual after every so many blocks; 0 never, 6 is the authors' RNN form."""
    family: str | None = None
    """Name of the model family, or a mapping file; None finds it by the tensors' names."""
    tokenizer: str | None = None
    """A ``tokenizer.json`` or ``vocab.txt`` elsewhere than beside the model."""
    timesteps: int | None = None
    """Steps over which every token is presented; None takes the model's own."""
    config: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    """Keys of the model's config that its files do not say, or that are to be others."""
    strategy: str = "tiered"
    """How settings are searched: tiered, beam, knapsack, tpe, nsga2 or random."""
    beam_width: int = 4
    """Incumbents that the beam keeps."""
    evaluations: int | None = None
    """Most evaluations of the search, a cheap one counted as its share; None: ours end by themselves."""
    gate: bool = False
    """Whether membrane drift orders and postpones settings (beam and knapsack)."""
    every: int | None = None
    """The knapsack's sensitivities are measured on every so many-th window or sentence, 2 or more; None: 2 to
    8 by the size of the data."""
    tune: int = 0
    """Steps by which settings of a last tier are tuned on calibration text; 0: there is no such tier."""
    seed: int = 0
    """Seed of the Optuna sampler; the tiers themselves have no randomness."""
    device: str = "auto"
    matmul: str = "auto"
    """Precision of the matrix products: fp32, tf32, fp16 or split; auto takes the fastest exact enough."""
    window_batch: int | None = None
    """Windows or sentences per batch; None picks a size for the device."""
    power_window: float = 2.0
    """Seconds that the power of a candidate is measured at least, where there is a meter; 0: no longer."""

    def __post_init__(self) -> None:
        _check_name(self.name)
        _check_task(self)
        _check_precisions("precisions", self.precisions)
        if self.sensitivity_precisions is not None:
            _check_precisions("sensitivity_precisions", self.sensitivity_precisions)
        if not 0 <= self.lam < float("inf"):
            raise SpecError(f"lambda {self.lam} is out of range; it must be 0 or more and finite.")
        _check_strategy(self)
        if not 0 <= self.tune <= MOST_TUNE_STEPS:
            raise SpecError(
                f"tune {self.tune} is out of range; it is the steps of tuning, 0 to {MOST_TUNE_STEPS:,}."
            )
        for key in (
            "window", "limit", "window_batch", "calibration", "beam_width", "evaluations", "timesteps"
        ):  # fmt: skip
            value = getattr(self, key)
            if value is not None and value < 1:
                raise SpecError(f"{key} {value} is out of range; it must be at least 1.")
        if self.embed_spike not in ("on", "off", "auto"):
            raise SpecError(f"embed_spike {self.embed_spike!r} is unknown; use on, off or auto.")
        if self.matmul not in MATMULS:
            raise SpecError(
                f"matmul {self.matmul!r} is unknown; use one of {', '.join(MATMULS)}."
                f"{did_you_mean(self.matmul, MATMULS)}"
            )
        if not 0 <= self.power_window <= MOST_POWER_WINDOW:
            raise SpecError(
                f"power_window {self.power_window} is out of range; "
                f"it is seconds from 0 (off) to {MOST_POWER_WINDOW:g}."
            )
        _check_holding(self)
        if self.rescale_every < 0:
            raise SpecError(f"rescale_every {self.rescale_every} is negative; use 0 (never) or 6.")
        Layout.parse(self.layout), Format.parse(self.fixed)
        for text in self.pins.values():
            Format.parse(text)
        for key in ("exclude", "ties"):
            if not all(part.strip() for text in getattr(self, key) for part in text.split(",")):
                raise SpecError(f"{key} {list(getattr(self, key))} holds an empty name; remove it.")
        parse_size(self.memory_budget)
        if self.max_increase is not None:
            parse_increase(self.max_increase)

    def reading(self) -> dict[str, Any]:
        """Return how the model is read, as keywords of ``load_model``."""
        steps = {} if self.timesteps is None else {"timesteps": self.timesteps}
        return {
            "embed_spike": self.embed_spike, "rescale_every": self.rescale_every, "family": self.family,
            "tokenizer": self.tokenizer, "overrides": {**self.config, **steps},
        }  # fmt: skip

    @property
    def compares(self) -> bool:
        """Whether settings are compared with the baseline sentence by sentence, or window by window."""
        return self.reports or self.confidence is not None

    @property
    def reports(self) -> bool:
        """Whether the result is measured on data that the search never sees."""
        return self.hold_back > 0 or self.report_split is not None

    @property
    def metric(self) -> str:
        """``accuracy`` or ``perplexity``, by the task."""
        return "accuracy" if self.task in ("sst2", "demo-classify") else "perplexity"

    @property
    def tiers(self) -> tuple[str, ...]:
        """The tiers of the search, in order."""
        found = (t for t in STRATEGIES[self.strategy] if self.gate or t not in GATED)
        return (*found, TUNED) if self.tune else tuple(found)

    def budget_bytes(self, fp32_bytes: int) -> int:
        """Return the memory budget in bytes for a model of ``fp32_bytes``."""
        number, unit = parse_size(self.memory_budget)
        return int(fp32_bytes * Fraction(str(number)) / 100) if unit == "%" else int(number)

    def to_json(self) -> str:
        """Return canonical JSON text."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> StudySpec:
        """Rebuild from ``to_json``."""
        return cls.from_mapping(json.loads(text))

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> StudySpec:
        """Build from decoded TOML, JSON or flags; raise SpecError on an unknown or bad key."""
        known = {f.name for f in fields(cls)} | {"lambda"}
        merged: dict[str, Any] = {}
        for key, value in values.items():
            if key not in known:
                raise SpecError(f"spec key {key!r} is unknown.{did_you_mean(key, known)}")
            if value is not None:
                merged["lam" if key == "lambda" else key] = _typed(key, value)
        for key in ("name", "model", "task", "memory_budget"):
            if key not in merged:
                given = "NAME" if key == "name" else f"--{key.replace('_', '-')}"
                more = " (100% rules nothing out)" if key == "memory_budget" else ""
                raise SpecError(f"the study has no {key}; give {given} or the key {key!r} in --spec{more}.")
        return cls(**merged)

    @classmethod
    def from_toml(cls, path: Path, overrides: Mapping[str, Any] | None = None) -> StudySpec:
        """Read a TOML file; ``overrides`` (flags, None means not given) win over its keys."""
        given = {k: v for k, v in (overrides or {}).items() if v is not None}
        return cls.from_mapping({"name": path.stem, **read_toml(path), **given})

    def decides(self) -> dict[str, Any]:
        """Return the keys that decide the study's results; name, λ, device and paths do not.

        The seed does with Optuna's own samplers, which are random.
        """
        usual = {f.name: {} if f.name == "config" else json.loads(json.dumps(f.default))
                 for f in fields(self) if f.name in _LATER}  # fmt: skip
        values = json.loads(self.to_json()).items()
        left_out = set(_NOT_DECIDING) - ({"seed"} if self.strategy in SAMPLERS else set())
        if self.family is not None and self.family.endswith(".toml"):  # the fingerprint has its content
            left_out.add("family")
        return {k: v for k, v in values if k not in left_out and (k not in usual or v != usual[k])}

    def hash(self) -> str:
        """Return 16 hex digits over ``decides()``."""
        text = json.dumps(self.decides(), sort_keys=True, separators=(",", ":"))
        return sha256(text.encode()).hexdigest()[:16]

    def renamed(self, name: str) -> StudySpec:
        """Return a copy under another name."""
        return replace(self, name=name)

    def located(self, folder: Path) -> StudySpec:
        """Return a copy whose local paths are absolute, so that it can be resumed anywhere.

        What does not exist below ``folder`` (``demo``, a hub id) stays as it is.
        """
        model = self.model if self.model == "demo" else _absolute(self.model, folder)
        data, family, tokenizer = (
            text and _absolute(text, folder) for text in (self.data, self.family, self.tokenizer)
        )
        return replace(self, model=model, data=data, family=family, tokenizer=tokenizer)


def _absolute(text: str, folder: Path) -> str:
    """Return an absolute path where there is a file; a pinned checksum behind it stays."""
    name, mark, sums = text.partition("#sha256=")
    try:
        path = folder / Path(name).expanduser()
        return f"{path.resolve()}{mark}{sums}" if name and path.exists() else text
    except (OSError, ValueError, RuntimeError):  # name too long, NUL byte, no such user
        return text


def read_toml(path: Path, what: str = "spec file") -> dict[str, Any]:
    """Read a TOML file; raise UsageError or SpecError with the path and what it is."""
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{what} {str(path)!r} does not exist; give the path of a TOML file.") from None
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{what} {str(path)!r} cannot be read: {error}.") from None
    except ValueError as error:  # TOMLDecodeError, or a number of thousands of digits
        raise SpecError(f"{what} {str(path)!r} is not TOML: {error}.") from None


def parse_size(text: str) -> tuple[float, str]:
    """Return (bytes, "") or (percent, "%") of ``400MB``, ``26.5MiB``, ``1000``, ``12%``."""
    match = _SIZE.fullmatch(text.strip())
    unit = match[2] if match else ""
    if not match or (unit not in ("", "%") and unit.upper() not in _UNITS):
        raise SpecError(
            f"memory budget {text!r} is not a size; write for instance 400MB, 382MiB or 12%."
        )
    number = Fraction(match[1])  # exact: 2.3 * 10**9 in floats is a byte short
    if unit == "%":
        return float(number), "%"
    return float(number * _UNITS.get(unit.upper(), 1)), ""


def parse_increase(text: str) -> tuple[float, bool]:
    """Return (increase, is_percent) of ``1.0`` or ``3.8%``."""
    body = text.strip()
    percent = body.endswith("%")
    try:
        value = float(body[:-1] if percent else body)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise SpecError(
            f"max_increase {text!r} is not an increase of perplexity; "
            "write a number of 0 or more such as 1.0, or a share such as 3.8%."
        )
    return value, percent


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise SpecError(
            f"study name {name[:120]!r} cannot be used; take 1 to 100 letters, digits, '.', '_' or '-', "
            "starting with a letter or digit."
        )


def _check_task(spec: StudySpec) -> None:
    if spec.task not in TASKS:
        raise SpecError(
            f"task {spec.task!r} is unknown; use one of {', '.join(TASKS)}."
            f"{did_you_mean(spec.task, TASKS)}"
        )
    allowed = BOUNDS[:2] if spec.metric == "accuracy" else BOUNDS[2:]
    given = [key for key in BOUNDS if getattr(spec, key) is not None]
    flags = " or ".join("--" + key.replace("_", "-") for key in allowed)
    if len(given) != 1 or given[0] not in allowed:
        named = ", ".join("--" + key.replace("_", "-") for key in given) or "no bound"
        raise SpecError(f"task {spec.task} has {named}; give exactly one of {flags}.")
    for key in ("max_drop", "min_accuracy"):
        value = getattr(spec, key)
        if value is not None and not 0 <= value <= 1:
            raise SpecError(f"{key} {value} is out of range; it is a share in 0..1 (0.02 is two points).")
    if spec.max_perplexity is not None and not 1 <= spec.max_perplexity < float("inf"):
        raise SpecError(f"max_perplexity {spec.max_perplexity} is out of range; it must be 1 or more.")


def _check_strategy(spec: StudySpec) -> None:
    if spec.strategy not in STRATEGIES:
        raise SpecError(
            f"strategy {spec.strategy!r} is unknown; use one of {', '.join(STRATEGIES)}."
            f"{did_you_mean(spec.strategy, STRATEGIES)}"
        )
    if spec.every is not None and spec.every < 2:
        raise SpecError(f"every {spec.every} is out of range; it must be at least 2.")
    if spec.gate and not set(GATED) & set(STRATEGIES[spec.strategy]):
        raise SpecError(
            f"the gate does nothing with strategy {spec.strategy!r}; leave it out, or use beam or knapsack."
        )


def _check_holding(spec: StudySpec) -> None:
    if not 0 <= spec.hold_back <= MOST_HELD_BACK:
        raise SpecError(
            f"hold_back {spec.hold_back} is out of range; it is a share from 0 (off) to {MOST_HELD_BACK}."
        )
    if spec.hold_back and spec.report_split is not None:
        raise SpecError(
            f"--hold-back {spec.hold_back} and --report-split {spec.report_split} both say what the result "
            "is measured on; give one of them."
        )
    if spec.confidence is not None and not 0.5 <= spec.confidence < 1:
        raise SpecError(
            f"confidence {spec.confidence} is out of range; it must be at least 0.5 and below 1, "
            "for instance 0.95."
        )


def _check_precisions(key: str, bits: tuple[Bits, ...]) -> None:
    if not bits or any(b not in WIDTHS for b in bits):
        raise SpecError(f"{key} {list(bits)} must hold one or more widths of 2 to 16 bits, 1.58 or 1.")
    if list(bits) != sorted(set(bits), reverse=True):
        raise SpecError(f"{key} {list(bits)} must fall strictly, for instance 8,6,4.")


def _typed(key: str, value: Any) -> Any:
    """Coerce a decoded value to the field's type; raise SpecError when it cannot be."""
    kinds: dict[str, tuple[type[Any], ...]] = {
        "lam": (int, float), "lambda": (int, float), "max_drop": (int, float),
        "min_accuracy": (int, float), "max_perplexity": (int, float), "power_window": (int, float),
        "hold_back": (int, float), "confidence": (int, float),
        "max_increase": (int, float, str), "memory_budget": (int, str),
        "window": (int,), "limit": (int,), "window_batch": (int,), "seed": (int,), "calibration": (int,),
        "beam_width": (int,), "evaluations": (int,), "every": (int,), "tune": (int,), "gate": (bool,),
        "rescale_every": (int,), "sign_embedding": (bool,), "pins": (dict,), "timesteps": (int,),
        "config": (dict,),
        "precisions": (list, tuple), "sensitivity_precisions": (list, tuple),
        "exclude": (list, tuple), "ties": (list, tuple),
    }  # fmt: skip
    allowed = kinds.get(key, (str,))
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
        names = " or ".join(kind.__name__ for kind in allowed)
        raise SpecError(f"spec key {key!r} is {value!r}, a {type(value).__name__}; write a {names}.")
    if key in ("max_increase", "memory_budget"):
        return str(value)
    if key in ("precisions", "sensitivity_precisions"):
        if not all(isinstance(b, (int, float)) and not isinstance(b, bool) for b in value):
            raise SpecError(f"{key} {value!r} must hold numbers such as 8, 4, 1.58.")
        return tuple(plain_bits(b) for b in value)
    if key in ("exclude", "ties"):
        if not all(isinstance(text, str) for text in value):
            raise SpecError(f'{key} {value!r} must hold texts, for instance ["attention.*/att.key"].')
        return tuple(value)
    if key == "config":
        for name, item in value.items():
            if not isinstance(item, (str, int, float, bool)):
                raise SpecError(f"config key {name!r} is {item!r}; write a number, a text, true or false.")
        return dict(value)
    if key == "pins":
        for unit, text in value.items():
            if not isinstance(text, str):
                raise SpecError(
                    f"pin {unit!r} is {text!r}, not a format; write the unit in quotes and the format as "
                    'text, for instance "attention.0" = "int8/channel/affine".'
                )
        return dict(value)
    return value
