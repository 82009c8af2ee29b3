"""LayerNorm, token shift and mixes for float32 on a CUDA device: one Triton program per token."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from qslm_opt.kernels.products import Current, Scaled
from qslm_opt.kernels.terms import FP32, new_operand, parts, store_operand

SPAN = 1024
"""Channels of one program of the elementwise kernels."""


@triton.jit
def _normalise(row, inside, weight, bias, width):  # type: ignore[no-untyped-def]
    mean = tl.sum(row, 0) / width
    centred = tl.where(inside, row - mean, 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(centred * centred, 0) / width + 1e-5)
    return centred * scale * weight + bias


@triton.jit  # type: ignore[untyped-decorator]
def _mix(  # type: ignore[no-untyped-def]
    x, weight, bias, last, mixes, out, end, tokens, width, rows,
    MIXES: tl.constexpr, WIDTH: tl.constexpr, FORM: tl.constexpr,
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
        blend = here * f + before * (1.0 - f)
        store_operand(out, row + m * rows, channel, width, blend, inside, FORM)
    if t == tokens - 1:
        tl.store(end + b * width + channel, here, mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _square(  # type: ignore[no-untyped-def]
    x, scale, out, width, SCALED: tl.constexpr, RELU2: tl.constexpr, FORM: tl.constexpr, SPAN: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * SPAN + tl.arange(0, SPAN)
    inside = channel < width
    value = tl.load(x + row * width + channel, mask=inside, other=0.0)
    if SCALED:
        value = value * tl.load(scale + channel, mask=inside, other=0.0)
    if RELU2:
        value = tl.where(value > 0.0, value * value, value * 0.0)
    store_operand(out, row, channel, width, value, inside, FORM)


def norm_shift_mix(
    x: Tensor, weight: Tensor, bias: Tensor, last: Tensor, mixes: Sequence[Tensor], form: int
) -> tuple[list[Tensor], Tensor]:
    """See ``qslm_opt.kernels.ops.NormShiftMix``; the blends are operands of ``form``."""
    batch, tokens, width = x.shape
    one = new_operand(x, form)
    out, end = one.new_empty(len(mixes), *one.shape), x.new_empty(batch, width)
    padded = triton.next_power_of_2(width)
    with torch.cuda.device(x.device):
        _mix[(batch * tokens,)](
            x.contiguous(), weight, bias, last.contiguous(), torch.stack(tuple(mixes)), out, end,
            tokens, width, batch * tokens, MIXES=len(mixes), WIDTH=padded, FORM=form,
            num_warps=max(1, min(8, padded // 256)),
        )  # fmt: skip
    return list(out.unbind(0)), end


def relu2(x: Current, form: int) -> Tensor:
    """Return ``relu(x)²`` as an operand of ``form``; in place where that is float32 and nothing is scaled."""
    return _elementwise(x, form, relu2=True)


def operand(x: Tensor, form: int) -> Tensor:
    """Return ``x`` [..., K] as an operand of ``form``."""
    return x if form == FP32 else _elementwise(x, form, relu2=False)


def _elementwise(x: Current, form: int, *, relu2: bool) -> Tensor:
    values, scale = parts(x)
    out = values if form == FP32 else new_operand(values, form)
    width = values.shape[-1]
    with torch.cuda.device(values.device):
        _square[values.numel() // width, triton.cdiv(width, SPAN)](
            values, scale, out, width, SCALED=isinstance(x, Scaled), RELU2=relu2, FORM=form,
            SPAN=min(SPAN, triton.next_power_of_2(width)), num_warps=4,
        )  # fmt: skip
    return out
