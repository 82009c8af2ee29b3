"""Tokens per second of the plain truth, of a compiled version and of ours, at batch sizes and precisions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from qslm_opt.bench.compiled import CannotCompileError, compiled_ops
from qslm_opt.bench.forward import WHOLE, Forward, Load
from qslm_opt.bench.memory import is_out_of_memory, peak_growth
from qslm_opt.bench.model_cost import floor_seconds, flop_per_token, kernels
from qslm_opt.bench.rates import Probes, mode_ops
from qslm_opt.bench.timing import Timing, Variant, interleaved
from qslm_opt.kernels.ops import REFERENCE

if TYPE_CHECKING:
    from qslm_opt.bench.rates import Rates
    from qslm_opt.bench.shapes import Subject
    from qslm_opt.kernels.ops import Ops

VERSIONS = (*WHOLE, "fast")
"""Plain torch, the truth; that through torch.compile; what an evaluation uses."""
PLAIN_MODE = "fp32"
"""Precision of the first two."""
OUT_OF_MEMORY = "out of memory"
_PROBE = "probe"


@dataclass(frozen=True)
class Row:
    """One version at one precision and load."""

    load: Load
    version: str
    mode: str
    timing: Timing | None = None
    """Of one forward pass; None where it was not measured, and ``note`` says why."""
    note: str = ""
    loss_nats: float | None = None
    """Mean loss of that pass: what the versions must agree on."""
    peak_memory_bytes: int | None = None
    """Weights of this version, and what a pass needs beside them; None where the system does not tell."""
    ratio_to_reference: float | None = None
    """Speed over that of the plain truth at the same load."""
    ratio_to_compiled: float | None = None
    gemm_share: float | None = None
    """Tokens per second over what the rate of products allows, measured in turns with them."""
    gemm_flop_per_s: float | None = None
    """The rate that ``gemm_share`` is against, of this row's precision."""
    copy_bytes_per_s: float | None = None
    """The bandwidth that ``floor_share`` is against, beside that rate."""
    floor_share: float | None = None
    """Tokens per second over what products and traffic between kernels allow: see ``floor_seconds``."""

    @property
    def tokens_per_s(self) -> float | None:
        """Tokens per second at the median."""
        return self.load.tokens / self.timing.median_s if self.timing else None

    @property
    def sentences_per_s(self) -> float | None:
        """Sentences or windows per second at the median."""
        return self.load.batch / self.timing.median_s if self.timing else None

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready object with units in the keys."""
        timing = asdict(self.timing) if self.timing else None
        own = {
            "batch": self.load.batch, "window_tokens": self.load.window, "version": self.version,
            "mode": self.mode, "tokens_per_s": self.tokens_per_s,
            "sentences_per_s" if self.load.kind == "classification" else "windows_per_s":
                self.sentences_per_s,
            "pass": timing, "peak_memory_bytes": self.peak_memory_bytes, "loss_nats": self.loss_nats,
        }  # fmt: skip
        shares = (
            "ratio_to_reference", "ratio_to_compiled", "gemm_share", "floor_share", "gemm_flop_per_s",
            "copy_bytes_per_s", "note",
        )  # fmt: skip
        return {**own, **{name: getattr(self, name) for name in shares}}


def measure_speeds(
    subject: Subject,
    loads: Sequence[Load],
    *,
    modes: Sequence[str],
    versions: Sequence[str],
    rates: Rates,
    repeats: int,
    seconds_limit: float,
    synchronise: Callable[[], None],
    tell: Callable[[str], None],
) -> list[Row]:
    """Measure every version at every load; those of one load are timed in turns.

    A row that runs out of memory, or that torch cannot compile, says so in its note and the rest goes on.

    Args:
        modes: precisions of ``fast``; the other versions compute in float32.
        rates: of this device, ``PLAIN_MODE`` among them where other versions are asked for: they say at which
            shapes to measure again, in turns with the rows, for the shares.
        seconds_limit: see ``interleaved``; by row.
        tell: told what is measured now.
    """
    rows: list[Row] = []
    for load in loads:
        tell(f"batch {load.batch}, {load.window} tokens")
        rows += _one_load(
            subject, load, modes, versions, rates, _Clock(repeats, seconds_limit, synchronise), tell
        )
    return rows


@dataclass(frozen=True)
class _Clock:
    repeats: int
    seconds_limit: float
    synchronise: Callable[[], None]


def _one_load(
    subject: Subject,
    load: Load,
    modes: Sequence[str],
    versions: Sequence[str],
    rates: Rates,
    clock: _Clock,
    tell: Callable[[str], None],
) -> list[Row]:
    plain = [(version, PLAIN_MODE) for version in WHOLE if version in versions]
    fast = [("fast", mode) for mode in modes] if "fast" in versions else []
    rows: dict[tuple[str, str], Row] = {}
    passes: dict[tuple[str, str], Forward] = {}
    for key in [*plain, *fast]:
        rows[key] = Row(load, *key)
        try:
            ops = _ops(subject, load, key, tell)
            passes[key], memory = _prepared(subject, load, ops)
            rows[key] = replace(rows[key], peak_memory_bytes=memory)
        except CannotCompileError as error:
            rows[key] = replace(rows[key], note=str(error))
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            rows[key] = replace(rows[key], note=OUT_OF_MEMORY)
            _release(subject.device)
    probes = _probes(rates, subject.device, [mode for _, mode in passes])
    variants = {key: Variant(one, _warm_up(one)) for key, one in passes.items()}
    variants |= {(_PROBE, name): Variant(call) for name, call in (probes.calls if probes else {}).items()}
    found = interleaved(
        variants, repeats=clock.repeats, seconds_limit=clock.seconds_limit, synchronise=clock.synchronise
    )
    seconds: dict[str, float] = {}
    for key, timing in found.items():
        if key[0] == _PROBE:
            seconds |= {key[1]: timing.median_s} if isinstance(timing, Timing) else {}
        elif isinstance(timing, Timing):
            rows[key] = replace(rows[key], timing=timing, loss_nats=passes[key].loss)
        else:
            rows[key] = replace(rows[key], note=OUT_OF_MEMORY)
    if probes is not None and seconds.keys() == probes.calls.keys():
        rates = probes.rates(seconds)
    return compared(list(rows.values()), subject, rates)


def _probes(rates: Rates, device: torch.device, modes: Sequence[str]) -> Probes | None:
    """Return the rates to measure again; None where memory is too short, and the earlier rates must do."""
    try:
        return Probes(rates, device, modes)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return None


def _ops(subject: Subject, load: Load, key: tuple[str, str], tell: Callable[[str], None]) -> Ops:
    version, mode = key
    if version == "fast":
        return mode_ops(subject.device.type, mode)
    if version == "compiled":
        tell(f"compiling for batch {load.batch}")
        return compiled_ops(subject.config, load.batch, load.window, subject.device)
    return REFERENCE


def _prepared(subject: Subject, load: Load, ops: Ops) -> tuple[Forward, int | None]:
    """Return a version's pass over the load, and the bytes that its weights and one such pass take."""
    Forward(subject, replace(load, batch=1, window=min(2, load.window)), ops)()  # kernels are compiled here
    forward = Forward(subject, load, ops)
    growth = peak_growth(_warm_up(forward) or forward, subject.device)
    return forward, None if growth is None else subject.weight_bytes(load.kind, ops) + growth


def _warm_up(forward: Forward) -> Callable[[], object] | None:
    """Return one block of a version that loops over tokens in Python: the others do the same."""
    return (lambda: forward(1)) if forward.ops.name in WHOLE else None


def _release(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()


def compared(rows: Sequence[Row], subject: Subject, rates: Rates) -> list[Row]:
    """Return the rows of one load with ratios and shares, these against ``rates``; None without a term."""
    seconds = {row.version: row.timing.median_s for row in rows if row.timing and row.version != "fast"}
    return [_compared(row, seconds, subject, rates) for row in rows]


def _compared(row: Row, seconds: dict[str, float], subject: Subject, rates: Rates) -> Row:
    if row.timing is None:
        return row
    own, load = row.timing.median_s, row.load
    rate = rates.gemm[row.mode].flop_per_s
    floor = floor_seconds(
        kernels(subject.config, load.kind, row.mode), load.tokens, rate, rates.copy_bytes_per_s
    )
    return replace(
        row,
        ratio_to_reference=seconds["reference"] / own if "reference" in seconds else None,
        ratio_to_compiled=seconds["compiled"] / own if "compiled" in seconds else None,
        gemm_share=load.tokens * flop_per_token(subject.config, load.kind) / rate / own,
        gemm_flop_per_s=rate,
        copy_bytes_per_s=rates.copy_bytes_per_s,
        floor_share=floor / own,
    )
