"""Differentiable versions of the operations for training: no loop over tokens where none is needed.

``TRAINING`` is a version of ``kernels.ops`` for whole windows that start from the empty state. Forward values
are those of the reference up to float rounding; gradients are those of the reference with ``atan_spike`` as
its step function.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qslm_opt.kernels.mix.reference import norm_shift_mix_reference
from qslm_opt.kernels.ops import Ops, count_spikes, plain
from qslm_opt.kernels.products import Current
from qslm_opt.train.neurons import atan_spike, bipolar, fire, lif_scan, straight_round, ternary

_NOTHING = -30.0
"""Exponents below this: keys count as this far below the largest of their window, decayed tokens as gone.
e^-30 is nothing in float32, and products of two such factors stay clear of slow subnormal numbers."""


class _Turn(torch.autograd.Function):
    """Swap the first and the last axis, contiguous both ways: batched products of strided views are slow."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.transpose(0, 2).contiguous()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0].transpose(0, 2).contiguous()


def _turn(x: Tensor) -> Tensor:
    turned: Tensor = _Turn.apply(x)  # type: ignore[no-untyped-call]
    return turned


def wkv_window(k: Tensor, v: Tensor, w: Tensor, u: Tensor) -> Tensor:
    """Return WKV [B, T, D] over whole windows from the empty state, as one matrix product per channel.

    ``y_t = (Σ_{i<t} e^{w·(t−1−i)} e^{k_i} v_i + e^{u+k_t} v_t) / (the same with v = 1)``

    Args:
        k: keys [B, T, D].
        v: values [B, T, D].
        w: decay [D], at most 0.
        u: bonus of the current token [D].
    """
    place = torch.arange(k.shape[1], device=k.device)
    gap = place[:, None] - place - 1  # (T, T): tokens between i and t
    exponent = w[:, None, None] * gap.clamp(min=0)
    seen = (gap >= 0) & (exponent > _NOTHING)
    weights = torch.exp(exponent.clamp(min=_NOTHING)) * seen
    weights = weights + torch.exp(u)[:, None, None] * (gap == -1)  # (D, T, T)
    top = k.detach().amax(dim=1, keepdim=True)
    e = torch.exp(_turn(k - top).clamp(min=_NOTHING))  # (D, T, B)
    return _turn((weights @ (e * _turn(v))) / (weights @ e))


def _gated_wkv(
    r: Current, k: Current, v: Current, w: Tensor, u: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    return torch.sigmoid(plain(r)) * wkv_window(plain(k), plain(v), w, u), state


def _lif_add(
    x: Tensor, current: Current, gate: Current | None, v: Tensor, lengths: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    current = plain(current)
    if gate is not None:
        current = torch.sigmoid(plain(gate)) * current
    spikes = lif_scan(current)
    return x + spikes, v, count_spikes(spikes.detach(), lengths)


def _relu2(x: Current) -> Tensor:
    return torch.relu(plain(x)).square()


TRAINING = Ops(
    "training", norm_shift_mix_reference, _gated_wkv, _lif_add, _relu2, fire=fire, ternary=ternary,
    bipolar=bipolar, heaviside=atan_spike, rounding=straight_round,
)  # fmt: skip
"""Whole windows from the empty state only: the states that it returns are those it was given."""
