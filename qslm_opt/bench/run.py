"""The sections of one benchmark: what is measured, in which order, on what."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from qslm_opt import __version__
from qslm_opt.bench.forward import Load
from qslm_opt.bench.memory import is_out_of_memory
from qslm_opt.bench.model_cost import flop_per_token
from qslm_opt.bench.rates import Rates, measure_rates, mode_ops
from qslm_opt.bench.scaling import Scaling, measure_scaling
from qslm_opt.bench.shapes import FULL_BITS, Subject
from qslm_opt.bench.speeds import OUT_OF_MEMORY, PLAIN_MODE, Row, measure_speeds
from qslm_opt.bench.study import StudySpeeds, measure_studies, variants
from qslm_opt.errors import DeviceError, UsageError
from qslm_opt.evaluate.device import pick_device
from qslm_opt.formats import WIDTHS
from qslm_opt.kernels.ops import available_precisions, pick_precision

if TYPE_CHECKING:
    from qslm_opt.bench.neurons import NeuronRow
    from qslm_opt.bench.packed import PackedSpeeds
    from qslm_opt.bench.storage import StorageCost
    from qslm_opt.bench.study import StartWorkers
    from qslm_opt.bench.workers import Shared
    from qslm_opt.data import TaskKind
    from qslm_opt.spec import StudySpec

SENTENCE_BATCHES = (12, 64, 256, 1024)
SENTENCE_TOKENS = 40
"""An SST-2 sentence has 25 tokens on average; a batch is padded to its longest."""
SECONDS_LIMIT = 20.0
"""A row is timed no further once its timings sum to this."""
MOST_ROUNDS = 3
"""A study is run at most so often with each of its switches."""


@dataclass(frozen=True)
class Options:
    """What to measure."""

    model: str = "demo"
    shape: str | None = None
    """Random weights of this shape in place of ``model``."""
    device: str = "auto"
    bits: int = 8
    """Of the weights; 32 leaves them unquantized."""
    batches: tuple[int, ...] = (4, 16, 32)
    window: int = 1024
    modes: tuple[str, ...] | None = None
    """Precisions of products; None takes all that the device has."""
    versions: tuple[str, ...] = ("reference", "compiled", "fast")
    repeats: int = 5
    workers: int = 2
    trials: int = 1000
    """Of the storage section."""
    storage: str | None = None
    """Of the workers section; None takes a temporary SQLite file."""


class Bench:
    """Measures one section after the other; what several need is made once."""

    def __init__(self, options: Options, tell: Callable[[str], None]) -> None:
        """Look for the device; UsageError or DeviceError when a choice cannot be."""
        if options.bits != FULL_BITS and options.bits not in WIDTHS:
            raise UsageError(
                f"--bits {options.bits} is out of range; use 1 to {max(WIDTHS)}, or {FULL_BITS} for "
                "unquantized weights."
            )
        self.options, self._tell = options, tell
        self.device = pick_device(options.device)
        kind = self.device.type
        there = available_precisions(kind)
        self.modes = list(options.modes or there)
        for mode in self.modes:
            if mode not in there:
                raise DeviceError(
                    f"--modes {mode!r} needs a CUDA device with Triton and torch 2.8 or later, "
                    f"not {self.device}; use {','.join(there)}."
                )

    @cached_property
    def subject(self) -> Subject:
        """The model; loaded when it is first needed."""
        o = self.options
        self._tell(f"loading model {o.shape or o.model}")
        return Subject.of(o.model, o.shape, self.device, o.bits)

    @cached_property
    def rates(self) -> Rates:
        """What the device can do; measured when it is first needed."""
        self._tell("measuring the rates of this device")
        plain = set(self.options.versions) - {"fast"}
        wanted = [PLAIN_MODE, *self.modes] if plain else self.modes
        return measure_rates(
            self.subject.config, self.device, list(dict.fromkeys(wanted)), self._synchronise
        )

    def throughput(self) -> list[Row] | str:
        """Language modelling: rows for every batch size; a sentence where the model cannot do it."""
        o = self.options
        return self._speeds([Load("lm", batch, o.window) for batch in o.batches])

    def sentences(self) -> list[Row] | str:
        """Classification of sentences of ``SENTENCE_TOKENS`` tokens."""
        return self._speeds([Load("classification", n, SENTENCE_TOKENS) for n in SENTENCE_BATCHES])

    def _speeds(self, loads: Sequence[Load]) -> list[Row] | str:
        o = self.options
        missing = self._missing(loads[0].kind)
        if missing:
            return missing
        return measure_speeds(
            self.subject, loads, modes=self.modes, versions=o.versions, rates=self.rates,
            repeats=o.repeats, seconds_limit=SECONDS_LIMIT, synchronise=self._synchronise, tell=self._tell,
        )  # fmt: skip

    def _missing(self, kind: TaskKind) -> str:
        if self.subject.has(kind):
            return ""
        head = "language-model head" if kind == "lm" else "classification head"
        return f"model {self.subject.model.source!r} has no {head}"

    def scaling(self) -> Scaling | str:
        """Parts of the model and of the window, at the first batch size."""
        o = self.options
        missing = self._missing("lm")
        if missing:
            return missing
        precision = pick_precision(self.device.type)
        ops = mode_ops(self.device.type, precision if precision in self.modes else self.modes[0])
        self._tell("blocks and tokens")
        try:
            return measure_scaling(
                self.subject, Load("lm", o.batches[0], o.window), ops,
                repeats=o.repeats, seconds_limit=SECONDS_LIMIT, synchronise=self._synchronise,
            )  # fmt: skip
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            return OUT_OF_MEMORY

    def packed(self) -> PackedSpeeds | str:
        """Packed weights against float ones: one token at a time, and the first batch size at once."""
        from qslm_opt.bench.packed import measure_packed

        o = self.options
        missing = self._missing("lm")
        if missing:
            return missing
        if self.device.type == "cuda" and not find_spec("triton"):
            return "packed kernels need Triton on a GPU"
        return measure_packed(
            self.subject, o.batches[0], o.window, rounds=o.repeats, synchronise=self._synchronise,
            tell=self._tell,
        )  # fmt: skip

    def neurons(self) -> list[NeuronRow]:
        """Kernels of multi-step neurons against plain torch; needs no model."""
        from qslm_opt.bench.neurons import measure_neurons

        return measure_neurons(
            self.device, repeats=self.options.repeats, seconds_limit=SECONDS_LIMIT,
            synchronise=self._synchronise, tell=self._tell,
        )  # fmt: skip

    def studies(self, specs: Sequence[StudySpec], start_workers: StartWorkers) -> list[StudySpeeds]:
        """Each study with each of its switches on and off."""
        o = self.options
        return [
            measure_studies(
                spec, variants(o.workers), rounds=min(o.repeats, MOST_ROUNDS),
                start_workers=start_workers, tell=self._tell,
            )
            for spec in specs
        ]  # fmt: skip

    def storage(self) -> StorageCost:
        """Cost of storage and sampler per trial."""
        from qslm_opt.bench.storage import storage_cost

        self._tell(f"storage, {self.options.trials} trials")
        return storage_cost(self.options.trials)

    def shared(self) -> list[Shared]:
        """One study shared by 1, 2, 4, … processes, up to ``workers``."""
        from qslm_opt.bench.workers import COST_SECONDS, LEAST_TRIALS, measure_workers

        o, counts = self.options, [1]
        while 2 * counts[-1] <= o.workers:
            counts.append(2 * counts[-1])
        return measure_workers(
            [*counts, o.workers], url=o.storage, trials=LEAST_TRIALS, cost_s=COST_SECONDS, tell=self._tell
        )

    def _synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    # ---------------------------------------------------------------------------- what it was

    def machine(self) -> dict[str, Any]:
        """Return device and versions, ready for JSON."""
        packages = ("torch", "numba", "optuna", *(["triton"] if find_spec("triton") else []))
        found = {name: _version(name) for name in packages}
        return {
            "device": str(self.device), "device_name": device_name(self.device),
            "cpu_threads": torch.get_num_threads(),
            "versions": {
                "qslm-opt": __version__, "python": platform.python_version(), **found,
                "cuda": torch.version.cuda,
            },
        }  # fmt: skip

    def what(self) -> dict[str, Any]:
        """Return the model that speeds are of, ready for JSON."""
        cfg = self.subject.config
        return {
            "model": self.subject.model.source, "weight_bits": self.options.bits, "blocks": cfg.n_layer,
            "width": cfg.n_embd, "hidden_width": cfg.n_ffn, "vocabulary": cfg.vocab_size,
            "parameters": sum(prod(shape) for shape in cfg.tensor_shapes().values()),
            "flop_per_token": flop_per_token(cfg, "lm" if cfg.has_head else "classification"),
        }  # fmt: skip

    def rates_json(self) -> dict[str, Any]:
        """Return the rates of this device, ready for JSON."""
        return {
            "copy_bytes_per_s": self.rates.copy_bytes_per_s,
            "gemm": [asdict(rate) for rate in self.rates.gemm.values()],
        }


def device_name(device: torch.device) -> str:
    """Return what the maker calls the device; the architecture where a CPU does not say."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
