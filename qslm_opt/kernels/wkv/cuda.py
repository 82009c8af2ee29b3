"""WKV for float32 on a CUDA device: one Triton program per window and tile of channels."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 32


@triton.jit  # type: ignore[untyped-decorator]
def _scan(r, k, v, w, u, state, y, end, tokens, width, plane, TILE: tl.constexpr):  # type: ignore[no-untyped-def]
    b = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * TILE + tl.arange(0, TILE)
    inside = channel < width
    at = b * width + channel
    p = tl.load(state + at, mask=inside, other=0.0)
    q = tl.load(state + plane + at, mask=inside, other=0.0)
    o = tl.load(state + 2 * plane + at, mask=inside, other=0.0)
    decay = tl.load(w + channel, mask=inside, other=0.0)
    bonus = tl.load(u + channel, mask=inside, other=0.0)
    place = b * tokens * width + channel
    for _ in tl.range(0, tokens, num_stages=4):
        key = tl.load(k + place, mask=inside, other=0.0)
        value = tl.load(v + place, mask=inside, other=0.0)
        gate = tl.load(r + place, mask=inside, other=0.0)
        gap = o - (bonus + key)
        e = tl.exp(-tl.abs(gap))
        old = tl.where(gap >= 0, 1.0, e)
        new = tl.where(gap >= 0, e, 1.0)
        mean = (old * p + new * value) / (old * q + new)
        tl.store(y + place, mean / (1.0 + tl.exp(-gate)), mask=inside)
        decayed = decay + o
        gap = decayed - key
        e = tl.exp(-tl.abs(gap))
        old = tl.where(gap >= 0, 1.0, e)
        new = tl.where(gap >= 0, e, 1.0)
        p = old * p + new * value
        q = old * q + new
        o = tl.maximum(decayed, key)
        place += width
    tl.store(end + at, p, mask=inside)
    tl.store(end + plane + at, q, mask=inside)
    tl.store(end + 2 * plane + at, o, mask=inside)


def gated_wkv(
    r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Return ``sigmoid(r)·WKV(k, v)`` [B, T, D] and the state after the last token [3, B, D]."""
    batch, tokens, width = k.shape
    y, end = k.new_empty(k.shape), state.new_empty(state.shape)
    inputs = [t.contiguous() for t in (r, k, v, w, u, state)]
    with torch.cuda.device(k.device):
        _scan[batch, triton.cdiv(width, TILE)](
            *inputs, y, end, tokens, width, batch * width, TILE=TILE, num_warps=1
        )
    return y, end
