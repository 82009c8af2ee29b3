"""WKV for float32 on a CUDA device: one Triton program per window and tile of channels."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from qslm_opt.kernels.products import Current, Scaled
from qslm_opt.kernels.terms import TILE, ahead, new_operand, parts, store_operand


@triton.jit  # type: ignore[untyped-decorator]
def _scan(  # type: ignore[no-untyped-def]
    r, r_scale, k, k_scale, v, v_scale, w, u, state, y, end, tokens, width, plane,
    SCALED: tl.constexpr, FORM: tl.constexpr, TILE: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * TILE + tl.arange(0, TILE)
    inside = channel < width
    at = b * width + channel
    p = tl.load(state + at, mask=inside, other=0.0)
    q = tl.load(state + plane + at, mask=inside, other=0.0)
    o = tl.load(state + 2 * plane + at, mask=inside, other=0.0)
    decay = tl.load(w + channel, mask=inside, other=0.0)
    bonus = tl.load(u + channel, mask=inside, other=0.0)
    r_factor = 1.0
    k_factor = 1.0
    v_factor = 1.0
    if SCALED:
        r_factor = tl.load(r_scale + channel, mask=inside, other=0.0)
        k_factor = tl.load(k_scale + channel, mask=inside, other=0.0)
        v_factor = tl.load(v_scale + channel, mask=inside, other=0.0)
    row = b * tokens
    for t in range(0, tokens, AHEAD):
        keys = ()
        values = ()
        gates = ()
        for n in tl.static_range(AHEAD):
            there = inside & (t + n < tokens)
            place = (row + n) * width + channel
            keys = keys + (tl.load(k + place, mask=there, other=0.0),)  # type: ignore[assignment]  # noqa: RUF005
            values = values + (tl.load(v + place, mask=there, other=0.0),)  # type: ignore[assignment]  # noqa: RUF005
            gates = gates + (tl.load(r + place, mask=there, other=0.0),)  # type: ignore[assignment]  # noqa: RUF005
        for n in tl.static_range(AHEAD):
            live = t + n < tokens
            key = keys[n] * k_factor
            value = values[n] * v_factor
            gap = o - (bonus + key)
            e = tl.exp(-tl.abs(gap))
            old = tl.where(gap >= 0, 1.0, e)
            new = tl.where(gap >= 0, e, 1.0)
            mean = (old * p + new * value) / (old * q + new)
            gated = mean / (1.0 + tl.exp(-(gates[n] * r_factor)))
            store_operand(y, row + n, channel, width, gated, inside & live, FORM)
            decayed = decay + o
            gap = decayed - key
            e = tl.exp(-tl.abs(gap))
            old = tl.where(gap >= 0, 1.0, e)
            new = tl.where(gap >= 0, e, 1.0)
            p = tl.where(live, old * p + new * value, p)
            q = tl.where(live, old * q + new, q)
            o = tl.where(live, tl.maximum(decayed, key), o)
        row += AHEAD
    tl.store(end + at, p, mask=inside)
    tl.store(end + plane + at, q, mask=inside)
    tl.store(end + 2 * plane + at, o, mask=inside)


def gated_wkv(
    r: Current, k: Current, v: Current, w: Tensor, u: Tensor, state: Tensor, form: int
) -> tuple[Tensor, Tensor]:
    """Return ``sigmoid(r)·WKV(k, v)`` as an operand of ``form`` and the state after the last token [3, B, D].

    ``r``, ``k`` and ``v`` are [B, T, D]: all three scaled, or none.
    """
    inputs: list[Any] = [part for current in (r, k, v) for part in parts(current)]
    batch, tokens, width = inputs[0].shape
    y, end = new_operand(inputs[0], form), state.new_empty(state.shape)
    with torch.cuda.device(y.device):
        _scan[batch, triton.cdiv(width, TILE)](
            *inputs, w.contiguous(), u.contiguous(), state.contiguous(), y, end, tokens, width, batch * width,
            SCALED=isinstance(k, Scaled), FORM=form, TILE=TILE, AHEAD=ahead(batch, width), num_warps=2,
            enable_fp_fusion=False,
        )  # fmt: skip
    return y, end
