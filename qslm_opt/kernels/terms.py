"""What the Triton kernels share: storing an activation as an operand, and how far to unroll a scan."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from qslm_opt.kernels.products import ACTIVATION, LOW, Current, Scaled

FP32, FP16, SPLIT = 0, 1, 2
"""Form of an operand: float32, or so many float16 terms (see ``products``)."""
_ACTIVATION: tl.constexpr = tl.constexpr(ACTIVATION)
_LOW: tl.constexpr = tl.constexpr(LOW)

TILE = 64
"""Channels of one program of a scan."""
_FEW = 1024
"""Programs of a scan below which each one waits for memory alone, and reads further ahead."""


@triton.jit  # type: ignore[untyped-decorator]
def store_operand(out, row, channel, width, value, inside, FORM: tl.constexpr):  # type: ignore[no-untyped-def]
    """Store ``value`` at (row, channel) of an operand with ``width`` channels."""
    if FORM == 0:
        tl.store(out + row * width + channel, value, mask=inside)
    else:
        scaled = value * _ACTIVATION
        high = scaled.to(tl.float16)
        if FORM == 1:
            tl.store(out + row * width + channel, high, mask=inside)
        else:
            place = out + row * 2 * width + channel
            tl.store(place, high, mask=inside)
            tl.store(place + width, ((scaled - high.to(tl.float32)) * _LOW).to(tl.float16), mask=inside)


def new_operand(like: Tensor, form: int) -> Tensor:
    """Return memory for an operand with the shape of ``like`` [..., K]."""
    if form == FP32:
        return like.new_empty(like.shape)
    return like.new_empty((*like.shape[:-1], form * like.shape[-1]), dtype=torch.float16)


def parts(current: Current) -> tuple[Tensor, Tensor]:
    """Return the contiguous values of a current and its scale; the values again where it has none."""
    if isinstance(current, Scaled):
        return current.values.contiguous(), current.scale
    whole = current.contiguous()
    return whole, whole


def ahead(batch: int, width: int) -> int:
    """Return how many tokens a program of a scan loads at once."""
    return 16 if batch * triton.cdiv(width, TILE) <= _FEW else 8
