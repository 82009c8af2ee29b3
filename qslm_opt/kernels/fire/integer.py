"""Integer spikes: activations as whole numbers of spikes per channel, scaled token by token.

``s = clip((max x − min x)/(2^b − 1), 1e-5, 1e4)``, ``z = round(clip(−min x/s, ±1e4))`` and
``q = clip(round(x/s) + z, 0, 2^b − 1)``, halves to even; a channel gives ``q − z`` spikes of size s. The
range is that of the whole token and need not hold 0. Source: Xing et al., SpikeLLM (ICLR 2025), and its
released code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    Round = Callable[[Tensor], Tensor]

SCALES = 1e-5, 1e4
"""Least and most size of a spike."""
MOST_ZERO = 1e4
"""Most distance of the zero point."""


@dataclass(frozen=True)
class IntegerSpikes:
    """Activations [..., K] in the form ``(code − zero)·scale``."""

    code: Tensor
    """Whole numbers from 0 to 2^bits − 1 [..., K]."""
    zero: Tensor
    """Zero point of each token [..., 1]."""
    scale: Tensor
    """Size of a spike of each token [..., 1]."""

    def values(self) -> Tensor:
        """Return the activations that the spikes stand for [..., K]."""
        return (self.code - self.zero) * self.scale


def integer_spikes(x: Tensor, bits: int, rounding: Round = torch.round) -> IntegerSpikes:
    """Return the spikes of activations [..., K] at ``bits`` bits, in the dtype of ``x``.

    Args:
        rounding: rounds to whole numbers; training passes one with a straight-through gradient.
    """
    low, high = torch.aminmax(x, dim=-1, keepdim=True)
    most = 2**bits - 1
    scale = ((high - low) / most).clamp(*SCALES)
    zero = rounding((-low / scale).clamp(-MOST_ZERO, MOST_ZERO))
    return IntegerSpikes((rounding(x / scale) + zero).clamp(0, most), zero, scale)


def salient_channels(weight: Tensor, moment: Tensor, share: float) -> Tensor:
    """Return 1 for the input channels [K] whose error costs a matrix most, else 0.

    The score of channel k is the mean over tokens of ``((x Wᵀ) W)_k · x_k``; those strictly above the
    ``int((1 − share)·K)``-th smallest are salient.

    Args:
        weight: the matrix W [N, K].
        moment: the mean of x xᵀ over its inputs x [K, K].
    """
    return above_share((weight * (weight @ moment)).sum(dim=0), share)


def above_share(score: Tensor, share: float) -> Tensor:
    """Return 1 where a score [K] is strictly above the ``int((1 − share)·K)``-th smallest, else 0."""
    below = int(round(1 - share, 12) * len(score))  # 1 − 0.9 is a little under 0.1
    if below == 0:
        return torch.ones_like(score)
    return (score > score.kthvalue(below).values).to(score.dtype)
