"""How many spikes there are, quickly: a general count of what is not zero takes as long as firing."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor


def count_spikes(spikes: Tensor, weights: Tensor | None, v: Tensor | None = None) -> Tensor:
    """Return how many spikes [..., B, T, N], of either sign, there are: a float64 scalar on their device.

    Args:
        weights: [B, T] whole numbers or bool, how many tokens each stands for, 0 where it is padding and does
            not count; None when each stands for itself.
        v: membrane potentials after the last step [..., N].

    Returns:
        NaN where a spike that counts, or a potential, is NaN or infinite. The device is not waited for.
    """
    if spikes.dim() > 3 and spikes.stride(0) == 0 and len(spikes) > 1:  # the same at every step
        return count_spikes(spikes[0], weights, v) * len(spikes)
    if spikes.is_cuda and spikes.dtype == torch.float32 and has_triton() and _is_float(v):
        from qslm_opt.kernels.fire import count_cuda

        return count_cuda.count(spikes, weights, v)
    count = _count(spikes, weights)
    return count if v is None else count + 0 * _finite(v)


def _is_float(v: Tensor | None) -> bool:
    return v is None or v.dtype == torch.float32


@cache
def has_triton() -> bool:
    """Return whether kernels for a CUDA device can be compiled."""
    return find_spec("triton") is not None


def _count(spikes: Tensor, weights: Tensor | None) -> Tensor:
    if spikes.dtype == torch.float32 and spikes.device.type == "cpu":
        from qslm_opt.kernels.fire import cpu

        return cpu.count(spikes, weights)
    fired = torch.ne(spikes, 0, out=torch.empty_like(spikes.detach()))
    wide = torch.promote_types(spikes.dtype, torch.float32)
    per_token = fired.add_(spikes.detach(), alpha=0).sum(dim=-1, dtype=wide).double()  # (…, B, T), exact
    if weights is not None:
        per_token = torch.where(weights > 0, per_token * weights, 0.0)
    return per_token.sum()


def _finite(v: Tensor) -> Tensor:
    """Return 0 as a float64 scalar, or NaN where a potential is NaN or infinite."""
    if v.dtype == torch.float32 and v.device.type == "cpu":
        return _count(v, None) * 0
    return (v.detach() * 0).sum().double()
