"""WKV in plain torch: the truth the fast kernels are compared with. Any float dtype, differentiable."""

from __future__ import annotations

import torch
from torch import Tensor

NEVER = -1e38
"""Initial running maximum: no key has been seen."""


def initial_state(batch: int, width: int, like: Tensor) -> Tensor:
    """Return the empty state [3, B, D]: numerator p, denominator q, running maximum o."""
    state = like.new_zeros(3, batch, width)
    state[2] = NEVER
    return state


def wkv_reference(k: Tensor, v: Tensor, w: Tensor, u: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Scan keys and values along the tokens.

    Args:
        k: keys [B, T, D].
        v: values [B, T, D].
        w: decay [D], ``-exp(time_decay)``, at most 0.
        u: bonus of the current token [D], ``time_first``.
        state: (p, q, o) before the first token [3, B, D].

    Returns:
        The weighted means [B, T, D] and the state after the last token [3, B, D].
    """
    p, q, o = state.unbind(0)
    out = []
    for t in range(k.shape[1]):
        kt, vt = k[:, t], v[:, t]
        top = torch.maximum(o, u + kt)
        a, b = torch.exp(o - top), torch.exp(u + kt - top)
        out.append((a * p + b * vt) / (a * q + b))
        top = torch.maximum(w + o, kt)
        a, b = torch.exp(w + o - top), torch.exp(kt - top)
        p, q, o = a * p + b * vt, a * q + b, top
    return torch.stack(out, dim=1), torch.stack((p, q, o))
