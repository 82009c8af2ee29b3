"""Differentiable neurons for training: spikes forwards, a surrogate gradient backwards.

Float32 runs in kernels, forwards and backwards; another dtype, and a device that has no kernels, through the
reference and torch's autograd.
Potentials before the reset are all that is kept for the way back.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import pi
from typing import Any

import torch
from torch import Tensor

from qslm_opt.kernels.fire.count import has_triton
from qslm_opt.kernels.fire.layout import per_step
from qslm_opt.kernels.fire.reference import (
    Neuron,
    bipolar_reference,
    fire_reference,
    sign_or_nan,
    ternary_reference,
)

ALPHA = 2.0
"""Slope of the surrogate: at the threshold its gradient is ALPHA / 2."""
_LIF = Neuron(tau=2.0, threshold=1.0)


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


class _Sign(torch.autograd.Function):
    """Sign whose gradient is that of the identity between −1 and 1, and 0 beyond."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return sign_or_nan(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (x,) = ctx.saved_tensors
        return grads[0] * (x.abs() <= 1)


def straight_sign(x: Tensor) -> Tensor:
    """Return the sign of ``x``; backwards the identity where |x| ≤ 1 (straight-through estimator)."""
    signs: Tensor = _Sign.apply(x)  # type: ignore[no-untyped-call]
    return signs


class _Scan(torch.autograd.Function):
    """Neurons from rest, and the potentials after the last step: float32 on the CPU or a CUDA device."""

    @staticmethod
    def forward(ctx: Any, current: Tensor, neuron: Neuron, windows: bool) -> tuple[Tensor, Tensor]:
        forward = _forward(current)
        spikes, v, potentials = forward.fire(current, neuron, noted=True, windows=windows)
        ctx.save_for_backward(potentials)
        ctx.neuron, ctx.windows = neuron, windows
        return spikes, v

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (potentials,) = ctx.saved_tensors
        found = _backward(potentials).fire_gradient(
            potentials, grads[0], grads[1], ctx.neuron, ALPHA, windows=ctx.windows
        )
        return found, None, None


class _TernaryScan(torch.autograd.Function):
    """Ternary or bipolar spikes, rounded straight through: float32 on the CPU or a CUDA device."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, amplitudes: Tensor, leak: float, bipolar: bool) -> Tensor:
        out, potentials = _forward(x).ternary(x, amplitudes, leak, bipolar=bipolar, noted=True)
        ctx.save_for_backward(potentials, amplitudes)
        ctx.leak, ctx.bipolar = leak, bipolar
        return out  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        potentials, amplitudes = ctx.saved_tensors
        found, of_amplitudes = _backward(potentials).ternary_gradient(
            potentials, grads[0], amplitudes, ctx.leak, bipolar=ctx.bipolar
        )
        return found, of_amplitudes, None, None


def _has_kernels(x: Tensor) -> bool:
    """Return whether there are kernels for the dtype and device of ``x``; those of a GPU need Triton."""
    there = x.device.type == "cpu" or (x.is_cuda and has_triton())
    return there and x.dtype == torch.float32


def _forward(x: Tensor) -> Any:
    """Return the module with the scans of the device of ``x``."""
    if x.is_cuda:
        from qslm_opt.kernels.fire import cuda

        return cuda
    from qslm_opt.kernels.fire import cpu

    return cpu


def _backward(x: Tensor) -> Any:
    """Return the module with the gradients of the scans."""
    if x.is_cuda:
        from qslm_opt.kernels.fire import gradient_cuda

        return gradient_cuda
    return _forward(x)


def lif_scan(current: Tensor) -> Tensor:
    """Return the spikes [B, T, D] of LIF neurons that start at rest, driven by ``current`` [B, T, D]."""
    if not _has_kernels(current):
        return fire_reference(current.transpose(0, 1), _LIF, atan_spike)[0].transpose(0, 1)
    spikes: Tensor = _Scan.apply(current, _LIF, True)[0]  # type: ignore[no-untyped-call]
    return spikes


def fire(current: Tensor, neuron: Neuron) -> tuple[Tensor, Tensor]:
    """See ``qslm_opt.kernels.ops.Fire``; the gradient is that of the reference with ``atan_spike``."""
    if not _has_kernels(current):
        return fire_reference(current, neuron, atan_spike)
    spikes, v = _Scan.apply(current, neuron, False)  # type: ignore[no-untyped-call]
    return spikes, v


def ternary(x: Tensor, amplitudes: Sequence[Tensor], leak: float) -> Tensor:
    """See ``qslm_opt.kernels.ops.Ternary``; the gradient is that of the reference with ``straight_round``."""
    if not _has_kernels(x):
        return ternary_reference(x, amplitudes, leak, straight_round)
    out: Tensor = _TernaryScan.apply(x, per_step(x, amplitudes), leak, False)  # type: ignore[no-untyped-call]
    return out


def bipolar(x: Tensor, amplitudes: Sequence[Tensor], leak: float) -> Tensor:
    """See ``qslm_opt.kernels.ops.Ternary``, without a silent state; the gradient of ``straight_sign``."""
    if not _has_kernels(x):
        return bipolar_reference(x, amplitudes, leak, straight_sign)
    out: Tensor = _TernaryScan.apply(x, per_step(x, amplitudes), leak, True)  # type: ignore[no-untyped-call]
    return out
