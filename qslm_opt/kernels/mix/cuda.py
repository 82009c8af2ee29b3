"""LayerNorm, token shift and mixes for float32 on a CUDA device: one Triton program per token."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _normalise(row, inside, weight, bias, width):  # type: ignore[no-untyped-def]
    mean = tl.sum(row, 0) / width
    centred = tl.where(inside, row - mean, 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(centred * centred, 0) / width + 1e-5)
    return centred * scale * weight + bias


@triton.jit  # type: ignore[untyped-decorator]
def _mix(  # type: ignore[no-untyped-def]
    x, weight, bias, last, mixes, out, end, tokens, width, total,
    MIXES: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    b, t = row // tokens, row % tokens
    channel = tl.arange(0, WIDTH)
    inside = channel < width
    scale = tl.load(weight + channel, mask=inside, other=0.0)
    shift = tl.load(bias + channel, mask=inside, other=0.0)
    here = tl.load(x + row * width + channel, mask=inside, other=0.0)
    here = _normalise(here, inside, scale, shift, width)
    if t == 0:
        before = tl.load(last + b * width + channel, mask=inside, other=0.0)
    else:
        before = tl.load(x + (row - 1) * width + channel, mask=inside, other=0.0)
        before = _normalise(before, inside, scale, shift, width)
    for m in tl.static_range(MIXES):
        f = tl.load(mixes + m * width + channel, mask=inside, other=0.0)
        tl.store(out + m * total + row * width + channel, here * f + before * (1.0 - f), mask=inside)
    if t == tokens - 1:
        tl.store(end + b * width + channel, here, mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _square(x, count, SPAN: tl.constexpr):  # type: ignore[no-untyped-def]
    place = tl.program_id(0).to(tl.int64) * SPAN + tl.arange(0, SPAN)
    inside = place < count
    value = tl.maximum(tl.load(x + place, mask=inside, other=0.0), 0.0)
    tl.store(x + place, value * value, mask=inside)


def norm_shift_mix(
    x: Tensor, weight: Tensor, bias: Tensor, last: Tensor, mixes: Sequence[Tensor]
) -> tuple[list[Tensor], Tensor]:
    """See ``qslm_opt.kernels.mix.reference.norm_shift_mix_reference``."""
    batch, tokens, width = x.shape
    out, end = x.new_empty(len(mixes), *x.shape), x.new_empty(batch, width)
    padded = triton.next_power_of_2(width)
    with torch.cuda.device(x.device):
        _mix[(batch * tokens,)](
            x.contiguous(), weight, bias, last.contiguous(), torch.stack(tuple(mixes)), out, end,
            tokens, width, x.numel(), MIXES=len(mixes), WIDTH=padded,
            num_warps=max(1, min(8, padded // 256)),
        )  # fmt: skip
    return list(out.unbind(0)), end


def relu2(x: Tensor) -> Tensor:
    """See ``qslm_opt.kernels.ops.Relu2``; works in place."""
    x = x.contiguous()
    span = 4096
    with torch.cuda.device(x.device):
        _square[(triton.cdiv(x.numel(), span),)](x, x.numel(), SPAN=span, num_warps=8)
    return x
