"""What the machine can do: matrix products per second at each precision, and bytes per second."""

from __future__ import annotations

from collections import Counter
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from qslm_opt.bench.timing import measure
from qslm_opt.kernels.ops import fast_ops, pick_precision
from qslm_opt.kernels.products import HEAD_ALIGN, float32_products, half_terms
from qslm_opt.models.spikegpt import products

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from qslm_opt.kernels.ops import Ops, Weight
    from qslm_opt.models.spikegpt_config import SpikeGPTConfig

GPU_SHAPES = ((8192, 8192, 8192),)
CPU_SHAPES = ((2048, 2048, 2048), (4096, 1024, 1024), (4096, 256, 1024), (1024, 4096, 1024))
"""m, n, k of the products that the rate is taken from: the largest rate counts."""
COPY_BYTES = {"cpu": 2**28, "cuda": 2**30}
"""Size of what is copied, above any cache."""
_TERMS = {"split": 2, "fp16": 1}
_ROWS = {"cpu": 2048, "cuda": 16384}
_SECONDS = 2.0
_REPEATS = 5


@dataclass(frozen=True)
class GemmRate:
    """The rate of matrix products at one precision."""

    mode: str
    flop_per_s: float
    """Of the model: one product of m·n·k counts 2·m·n·k, however many the precision needs."""
    shape: tuple[int, int, int]
    """m, n, k at which it was measured."""
    own_flop_per_s: float
    """The same over the model's own products, each as often as a forward pass has it."""
    own_rows: int
    """Tokens m of those."""


@dataclass(frozen=True)
class Rates:
    """What a device can do."""

    gemm: dict[str, GemmRate]
    """By precision."""
    copy_bytes_per_s: float
    """Of a large copy, bytes read + bytes written."""


def mode_ops(kind: str, mode: str) -> Ops:
    """Return the fastest operations at a precision; DeviceError where this device has it not."""
    return fast_ops(kind, pick_precision(kind, mode))


def measure_rates(
    cfg: SpikeGPTConfig, device: torch.device, modes: Sequence[str], synchronise: Callable[[], None]
) -> Rates:
    """Measure the rates of ``modes`` and of a copy: the best of several timings, what the device can do."""
    shapes = CPU_SHAPES if device.type == "cpu" else GPU_SHAPES
    rows = _ROWS[device.type]
    gemm = {}
    for mode in modes:
        ops = mode_ops(device.type, mode)
        rates = {s: 2.0 * s[0] * s[1] * s[2] / gemm_seconds(ops, device, *s, synchronise) for s in shapes}
        best = max(rates, key=lambda shape: rates[shape])
        counts = Counter(_own_shapes(cfg))
        seconds = {nk: gemm_seconds(ops, device, rows, *nk, synchronise) for nk in counts}
        flop = sum(2.0 * rows * n * k * count for (n, k), count in counts.items())
        own = flop / sum(seconds[nk] * count for nk, count in counts.items())
        gemm[mode] = GemmRate(mode, rates[best], best, own, rows)
    return Rates(gemm, _copy_rate(device, synchronise))


def gemm_seconds(
    ops: Ops, device: torch.device, m: int, n: int, k: int, synchronise: Callable[[], None]
) -> float:
    """Return the shortest time of ``ops.linear`` of [m, k] with a prepared weight [n, k], in seconds."""
    return measure(
        gemm_call(ops, device, m, n, k), repeats=_REPEATS, seconds_limit=_SECONDS, synchronise=synchronise
    ).low_s


def gemm_call(ops: Ops, device: torch.device, m: int, n: int, k: int) -> Callable[[], object]:
    """Return a function that multiplies [m, k] with a prepared weight [n, k] of whole numbers of 8 bits."""
    g = torch.Generator(device).manual_seed(0)
    codes = torch.randint(-127, 128, (n, k), generator=g, device=device).float()
    x = _operand(torch.randn(m, k, generator=g, device=device), ops.precision)
    weight: Weight = codes
    if ops.weight is not None:
        weight = ops.weight(codes, torch.ones(n, device=device), head=False)

    def call() -> object:
        with torch.inference_mode(), _products(device, ops):
            return ops.linear(x, weight)

    return call


class Probes:
    """The same products and the same copy again, to be timed in turns with what is compared with them.

    A rate that was measured a minute ago is no measure of a machine that does other work now.
    """

    def __init__(self, rates: Rates, device: torch.device, modes: Sequence[str]) -> None:
        """Make the operands at the shapes where ``rates`` were best."""
        self._rates = {mode: rates.gemm[mode] for mode in dict.fromkeys(modes)}
        self._device = device
        self.calls: dict[str, Callable[[], object]] = {"copy": copy_call(device)}
        for mode, rate in self._rates.items():
            self.calls[mode] = gemm_call(mode_ops(device.type, mode), device, *rate.shape)

    def rates(self, seconds: Mapping[str, float]) -> Rates:
        """Return the rates that these times of ``calls`` in seconds give."""
        gemm = {
            mode: replace(rate, flop_per_s=2.0 * prod(rate.shape) / seconds[mode])
            for mode, rate in self._rates.items()
        }
        return Rates(gemm, 2 * COPY_BYTES[self._device.type] / seconds["copy"])


def _products(device: torch.device, ops: Ops) -> AbstractContextManager[None]:
    if device.type == "cuda":
        return float32_products(tf32=ops.precision == "tf32")
    return nullcontext()


def _operand(x: Tensor, mode: str) -> Tensor:
    return half_terms(x, _TERMS[mode]) if mode in _TERMS else x


def _own_shapes(cfg: SpikeGPTConfig) -> list[tuple[int, int]]:
    """Return (n, k) of the model's products; a head is padded as ``ops.weight`` pads it on a GPU."""
    shapes = cfg.tensor_shapes()
    sizes = [(shapes[name], head) for name, head in products(cfg).items()]
    return [(-(-n // HEAD_ALIGN) * HEAD_ALIGN if head else n, k) for (n, k), head in sizes]


def copy_call(device: torch.device) -> Callable[[], object]:
    """Return a function that copies ``COPY_BYTES``: it reads and writes as many each."""
    source = torch.ones(COPY_BYTES[device.type] // 4, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def _copy_rate(device: torch.device, synchronise: Callable[[], None]) -> float:
    timing = measure(
        copy_call(device), repeats=_REPEATS, seconds_limit=_SECONDS, synchronise=synchronise
    )
    return 2 * COPY_BYTES[device.type] / timing.low_s
