"""Differentiable versions of the scans for training: ATan surrogate gradients, no loop where none is needed.

``TRAINING`` is a version of ``kernels.ops`` for whole windows that start from the empty state. Forward values
are those of the reference up to float rounding; gradients are those of the reference with ``atan_spike`` as
its step function.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import pi
from typing import Any

import torch
from torch import Tensor

from qslm_opt.kernels.fire.reference import Neuron, bipolar_reference, fire_reference, ternary_reference
from qslm_opt.kernels.mix.reference import norm_shift_mix_reference
from qslm_opt.kernels.ops import Ops, count_spikes, plain
from qslm_opt.kernels.products import Current

ALPHA = 2.0
"""Slope of the surrogate: at the threshold its gradient is ALPHA / 2."""
_NOTHING = -30.0
"""Exponents below this: keys count as this far below the largest of their window, decayed tokens as gone.
e^-30 is nothing in float32, and products of two such factors stay clear of slow subnormal numbers."""


def atan_gradient(x: Tensor) -> Tensor:
    """Return the surrogate derivative of the step at ``x``: ``(α/2) / (1 + (π/2·α·x)²)``.

    Source: Fang et al., Incorporating learnable membrane time constant (ICCV 2021), ATan surrogate.
    """
    return (ALPHA / 2) / (1 + (pi / 2 * ALPHA * x).square())


class _AtanSpike(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (x >= 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (x,) = ctx.saved_tensors
        return grads[0] * atan_gradient(x)


def atan_spike(x: Tensor) -> Tensor:
    """Return 1 where ``x`` ≥ 0, else 0; backwards the derivative of the arc tangent."""
    spikes: Tensor = _AtanSpike.apply(x)  # type: ignore[no-untyped-call]
    return spikes


class _LifScan(torch.autograd.Function):
    """``h_t = (v_{t-1} + u_t)/2; s_t = H(h_t − 1); v_t = h_t·(1 − s_t)`` from ``v_0 = 0``.

    Backwards, with σ' the surrogate derivative and g the gradient of the spikes:
    ``∂h_t = g_t·σ'_t + ((1 − s_t) − h_t·σ'_t)·∂h_{t+1}/2`` and ``∂u_t = ∂h_t/2``.
    """

    @staticmethod
    def forward(ctx: Any, current: Tensor) -> Tensor:
        h = _potentials(current)
        ctx.save_for_backward(h)
        return (h >= 1).to(h.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (h,) = ctx.saved_tensors
        return _current_gradients(h, grads[0].contiguous())


def _potentials(current: Tensor) -> Tensor:
    """Return h [B, T, D]: by a kernel for float32, else by a loop in torch."""
    current = current.detach().contiguous()
    if current.dtype == torch.float32 and current.is_cuda:
        from qslm_opt.kernels.lif import gradient_cuda

        return gradient_cuda.forward(current)
    h = torch.empty_like(current)
    if current.dtype == torch.float32:
        from qslm_opt.kernels.lif import gradient_cpu

        gradient_cpu.forward(current.numpy(), h.numpy())
        return h
    v = torch.zeros_like(h[:, 0])
    for t in range(h.shape[1]):
        h[:, t] = torch.lerp(v, current[:, t], 0.5)
        v = h[:, t] * (h[:, t] < 1)
    return h


def _current_gradients(h: Tensor, grad: Tensor) -> Tensor:
    """Return ∂u [B, T, D] for the gradient of the spikes, both contiguous."""
    if h.dtype == torch.float32 and h.is_cuda:
        from qslm_opt.kernels.lif import gradient_cuda

        return gradient_cuda.backward(h, grad, ALPHA)
    out = torch.empty_like(h)
    if h.dtype == torch.float32:
        from qslm_opt.kernels.lif import gradient_cpu

        gradient_cpu.backward(h.numpy(), grad.numpy(), ALPHA, out.numpy())
        return out
    slope = atan_gradient(h - 1)
    through = ((h < 1).to(h.dtype) - h * slope) / 2
    after = torch.zeros_like(h[:, 0])
    for t in reversed(range(h.shape[1])):
        after = grad[:, t] * slope[:, t] + through[:, t] * after
        out[:, t] = after / 2
    return out


def lif_scan(current: Tensor) -> Tensor:
    """Return the spikes [B, T, D] of LIF neurons that start at rest, driven by ``current`` [B, T, D]."""
    spikes: Tensor = _LifScan.apply(current)  # type: ignore[no-untyped-call]
    return spikes


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


def _fire(current: Tensor, neuron: Neuron) -> tuple[Tensor, Tensor]:
    return fire_reference(current, neuron, atan_spike)


class _Round(torch.autograd.Function):
    """Rounding whose gradient is that of the identity."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.round(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0]


def straight_round(x: Tensor) -> Tensor:
    """Round to whole numbers; backwards the identity (straight-through estimator, Bengio et al. 2013)."""
    rounded: Tensor = _Round.apply(x)  # type: ignore[no-untyped-call]
    return rounded


def _ternary(x: Tensor, amplitudes: Sequence[Tensor], leak: float) -> Tensor:
    return ternary_reference(x, amplitudes, leak, straight_round)


class _Sign(torch.autograd.Function):
    """Sign whose gradient is that of the identity between −1 and 1, and 0 beyond."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.sign(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (x,) = ctx.saved_tensors
        return grads[0] * (x.abs() <= 1)


def straight_sign(x: Tensor) -> Tensor:
    """Return the sign of ``x``; backwards the identity where |x| ≤ 1 (straight-through estimator)."""
    signs: Tensor = _Sign.apply(x)  # type: ignore[no-untyped-call]
    return signs


def _bipolar(x: Tensor, amplitudes: Sequence[Tensor], leak: float) -> Tensor:
    return bipolar_reference(x, amplitudes, leak, straight_sign)


def _relu2(x: Current) -> Tensor:
    return torch.relu(plain(x)).square()


TRAINING = Ops(
    "training", norm_shift_mix_reference, _gated_wkv, _lif_add, _relu2, fire=_fire, ternary=_ternary,
    bipolar=_bipolar, heaviside=atan_spike, rounding=straight_round,
)  # fmt: skip
"""Whole windows from the empty state only: the states that it returns are those it was given."""
