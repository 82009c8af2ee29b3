"""What a forward pass costs by arithmetic: FLOP of the matrix products, and bytes between kernels.

One kernel is one operation of ``kernels.ops.Ops`` or one matrix product; what happens inside a kernel costs
no memory traffic. With D the width, F the hidden width, V the vocabulary, b the bytes of an operand (an
activation as a product reads it) and 4 bytes for everything in float32, per token:

=====================  ==============  ============================================
kernel                 FLOP            bytes read + written
=====================  ==============  ============================================
embed                  0               4D + 4D
norm_shift_mix (k,v,r) 0               4D + 3bD
key, value, receptance 2D² each        bD + 4D each
gated_wkv              0               3·4D + bD
output                 2D²             bD + 4D
lif_add                0               2·4D + 4D
norm_shift_mix (k,r)   0               4D + 2bD
ffn.key                2DF             bD + 4F
relu2                  0               4F + bF
ffn.value              2DF             bF + 4D
ffn.receptance         2D²             bD + 4D
lif_add, gated         0               3·4D + 4D
finish                 0               4D + 4D
head                   2DV             4D + 4V, and 4D + bD where b is not float32's
nll                    0               4V
pool (sentences)       0               4D
=====================  ==============  ============================================

Every weight is read once per forward pass, b bytes each. States are left out: they do not grow with the
window. FLOP of the scans and of LayerNorm are left out: they are no products.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qslm_opt.data import TaskKind
    from qslm_opt.models.spikegpt_config import SpikeGPTConfig

OPERAND_BYTES = {"fp32": 4, "tf32": 4, "split": 4, "fp16": 2}
"""Bytes of one number of an activation or a weight as a product reads it; split has two float16 terms."""


@dataclass(frozen=True)
class Kernel:
    """What one kernel costs at least."""

    name: str
    flop: float
    """Per token."""
    bytes: float
    """Activations, read + written, per token."""
    weight_bytes: float = 0.0
    """Per forward pass."""

    def seconds(self, tokens: int, flop_per_s: float, bytes_per_s: float) -> float:
        """Return the least time for ``tokens``: products and traffic overlap, so the longer of the two."""
        return max(
            tokens * self.flop / flop_per_s, (tokens * self.bytes + self.weight_bytes) / bytes_per_s
        )


def flop_per_token(cfg: SpikeGPTConfig, kind: TaskKind) -> int:
    """Return 2 · the numbers in all product matrices, the language-model head included where it is read."""
    from qslm_opt.models.spikegpt import products

    shapes = cfg.tensor_shapes()
    read = [name for name, head in products(cfg).items() if not head or kind == "lm"]
    return sum(2 * prod(shapes[name]) for name in read)


def kernels(cfg: SpikeGPTConfig, kind: TaskKind, mode: str) -> list[Kernel]:
    """Return every kernel of a forward pass; see the table above for the formula.

    Args:
        mode: precision of the products, a key of ``OPERAND_BYTES``.
    """
    b, d, v = OPERAND_BYTES[mode], cfg.n_embd, cfg.vocab_size
    found = [Kernel("embed", 0, 8 * d)]
    for i in range(cfg.n_layer):
        if cfg.att_name(i) == "att":
            found += _time_mix(d, b)
        else:
            found += _channel_mix(d, cfg.n_ffn, b)
        found += _channel_mix(d, cfg.n_ffn, b)
    found.append(Kernel("finish", 0, 8 * d))
    if kind != "lm":
        return [*found, Kernel("pool", 0, 4 * d)]
    if b != 4 or mode == "split":
        found.append(Kernel("operand", 0, 4 * d + b * d))
    return [*found, _product("head", d, v, b), Kernel("nll", 0, 4 * v)]


def _time_mix(d: int, b: int) -> list[Kernel]:
    return [
        Kernel("norm_shift_mix", 0, 4 * d + 3 * b * d),
        *(_product(name, d, d, b) for name in ("key", "value", "receptance")),
        Kernel("gated_wkv", 0, 12 * d + b * d),
        _product("output", d, d, b),
        Kernel("lif_add", 0, 8 * d + 4 * d),
    ]


def _channel_mix(d: int, f: int, b: int) -> list[Kernel]:
    return [
        Kernel("norm_shift_mix", 0, 4 * d + 2 * b * d),
        _product("ffn.key", d, f, b),
        Kernel("relu2", 0, 4 * f + b * f),
        _product("ffn.value", f, d, b),
        _product("ffn.receptance", d, d, b),
        Kernel("lif_add", 0, 12 * d + 4 * d),
    ]


def _product(name: str, k: int, n: int, b: int) -> Kernel:
    """A product of rows [k] with a weight [n, k]."""
    return Kernel(name, 2 * k * n, b * k + 4 * n, b * k * n)


def floor_seconds(
    found: Sequence[Kernel], tokens: int, flop_per_s: float, bytes_per_s: float
) -> float:
    """Return the least time of a forward pass over ``tokens``: the sum of its kernels' least times.

    ``bytes_per_s`` is that of memory: where what one kernel writes stays in a cache until the next one reads
    it, a run can be faster than this floor.
    """
    return sum(kernel.seconds(tokens, flop_per_s, bytes_per_s) for kernel in found)
