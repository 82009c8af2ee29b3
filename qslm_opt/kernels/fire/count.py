"""How many spikes there are, quickly: a general count of what is not zero takes as long as firing."""

from __future__ import annotations

import torch
from torch import Tensor


def count_spikes(spikes: Tensor, weights: Tensor | None, v: Tensor | None = None) -> Tensor:
    """Return how many spikes [..., B, T, N], of either sign, there are: a float64 scalar.

    Args:
        weights: [B, T] whole numbers or bool, how many tokens each stands for, 0 where it is padding and does
            not count; None when each stands for itself.
        v: membrane potentials after the last step [..., N].

    Returns:
        NaN where a spike that counts, or a potential, is NaN or infinite.
    """
    count = _count(spikes, weights)
    return count if v is None else count + 0 * _count(v, None)


def _count(spikes: Tensor, weights: Tensor | None) -> Tensor:
    if spikes.dtype == torch.float32 and spikes.device.type == "cpu":
        from qslm_opt.kernels.fire import cpu

        return cpu.count(spikes, weights)
    fired = (spikes != 0).to(spikes.dtype) + spikes * 0
    per_token = fired.sum(dim=-1, dtype=torch.float64)  # (…, B, T)
    if weights is not None:
        per_token = torch.where(weights > 0, per_token * weights, 0.0)
    return per_token.sum()
