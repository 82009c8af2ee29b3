"""LIF in plain torch: the truth the fast kernels are compared with. Any float dtype, differentiable."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

THRESHOLD = 1.0
TAU = 2.0


def heaviside(x: Tensor) -> Tensor:
    """Return 1 where ``x`` ≥ 0 (ties fire), else 0, in the dtype of ``x``."""
    return (x >= 0).to(x.dtype)


def lif_reference(
    current: Tensor, v0: Tensor, spike: Callable[[Tensor], Tensor] = heaviside
) -> tuple[Tensor, Tensor]:
    """Run one neuron per (batch, channel) along the tokens.

    ``v ← v + (u − v)/2``; fire when ``v ≥ 1``; a neuron that fired is reset to 0.

    Args:
        current: input currents u [B, T, D].
        v0: membrane potentials before the first token [B, D].
        spike: step function of ``v − 1``; training passes one with a surrogate gradient.

    Returns:
        Spikes in {0, 1} [B, T, D] and the membrane potentials after the last token [B, D].
    """
    v = v0
    spikes = []
    for t in range(current.shape[1]):
        v = v + (current[:, t] - v) / TAU
        fired = spike(v - THRESHOLD)
        v = v * (1 - fired)
        spikes.append(fired)
    return torch.stack(spikes, dim=1), v
