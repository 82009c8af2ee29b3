"""Whether a packed model is the simulated one: the same codes, and what logits differ by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from qslm_opt.kernels.ops import fast_ops
from qslm_opt.kernels.products import float32_products
from qslm_opt.models.family import Fired, Inputs
from qslm_opt.models.packing import codes_equal
from qslm_opt.models.registry import family_of
from qslm_opt.quant import QuantizedTensor

if TYPE_CHECKING:
    from torch import Tensor

    from qslm_opt.models.packed import PackedModel

WINDOWS = {"lm": 4, "classification": 64}
"""Windows of random tokens whose logits are compared, by kind of task: a window of a classifier has few."""
TOKENS = 64
"""Tokens of a window."""


@dataclass(frozen=True)
class Agreement:
    """A packed model beside the codes that its setting makes of the original."""

    tensors: int
    """Stored tensors that were compared."""
    different: tuple[str, ...]
    """Those whose bytes are not the same, by name."""
    logits: int
    """Logits that were compared."""
    max_difference: float
    """Largest difference of two of them; infinite where one is NaN."""


def agreement(
    packed: PackedModel, codes: Mapping[str, QuantizedTensor | Tensor], device: torch.device
) -> Agreement:
    """Compare a packed model with ``codes``, name → codes or float tensor of every stored tensor.

    Logits are those of random tokens, the same ones each time.
    """
    stored = {name: value for name, value in packed.tensors.items() if name not in packed.ties}
    different = [n for n, value in stored.items() if n not in codes or not codes_equal(value, codes[n])]
    different += [name for name in codes if name not in stored]
    simulated = {name: _weights(codes[name]) for name in stored if name in codes}
    if len(simulated) < len(stored):
        return Agreement(len(stored), tuple(different), 0, float("inf"))
    simulated |= {name: simulated[source] for name, source in packed.ties.items()}
    ids = _tokens(packed).to(device)
    ours, theirs = (_logits(packed, p, ids) for p in (packed.weights(), simulated))
    apart = float((ours - theirs).abs().max())
    return Agreement(
        len(stored), tuple(different), ours.numel(), apart if apart == apart else float("inf")
    )


def _weights(value: QuantizedTensor | Tensor) -> Tensor:
    return value.dequantize() if isinstance(value, QuantizedTensor) else value.float()


def _tokens(packed: PackedModel) -> Tensor:
    made = torch.Generator().manual_seed(0)
    shape = (WINDOWS[packed.kind], min(TOKENS, packed.config.longest or TOKENS))
    return torch.randint(packed.config.vocabulary, shape, generator=made)


def _logits(packed: PackedModel, weights: Mapping[str, Tensor], ids: Tensor) -> Tensor:
    """Return next-token logits [B, T, V], or class logits [B, C]."""
    p = {name: tensor.to(ids.device) for name, tensor in weights.items()}
    ops = replace(fast_ops(ids.device.type, "fp32"), weight=None)
    with torch.inference_mode(), float32_products(tf32=False):
        return family_of(packed.config).logits(p, packed.config, Inputs(ids, None), ops, Fired(None))
