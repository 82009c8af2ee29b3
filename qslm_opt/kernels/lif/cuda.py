"""LIF for float32 on a CUDA device, fused with the gate before it and the residual add after it."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 32


@triton.jit  # type: ignore[untyped-decorator]
def _scan(  # type: ignore[no-untyped-def]
    x, current, gate, v0, lengths, out, v_end, spikes, tokens, width,
    GATED: tl.constexpr, PADDED: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * TILE + tl.arange(0, TILE)
    inside = channel < width
    v = tl.load(v0 + b * width + channel, mask=inside, other=0.0)
    count = tl.zeros((TILE,), tl.float32)
    upto = tokens
    if PADDED:
        upto = tl.load(lengths + b).to(tl.int32)
    place = b * tokens * width + channel
    for t in tl.range(0, tokens, num_stages=4):
        i = tl.load(current + place, mask=inside, other=0.0)
        if GATED:
            i = i / (1.0 + tl.exp(-tl.load(gate + place, mask=inside, other=0.0)))
        before = tl.load(x + place, mask=inside, other=0.0)
        v = v + (i - v) * 0.5
        fired = tl.where(v >= 1.0, 1.0, 0.0)
        v = v * (1.0 - fired)
        tl.store(out + place, before + fired, mask=inside)
        count += tl.where(t < upto, fired, 0.0)
        place += width
    tl.store(v_end + b * width + channel, v, mask=inside)
    tl.store(spikes + b * width + channel, count, mask=inside)


def lif_add(
    x: Tensor, current: Tensor, gate: Tensor | None, v: Tensor, lengths: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """See ``qslm_opt.kernels.ops.LifAdd``."""
    batch, tokens, width = x.shape
    out, v_end, spikes = x.new_empty(x.shape), x.new_empty(batch, width), x.new_empty(batch, width)
    x, current, v = x.contiguous(), current.contiguous(), v.contiguous()
    with torch.cuda.device(x.device):
        _scan[batch, triton.cdiv(width, TILE)](
            x, current, current if gate is None else gate.contiguous(), v,
            x if lengths is None else lengths, out, v_end, spikes, tokens, width,
            GATED=gate is not None, PADDED=lengths is not None, TILE=TILE, num_warps=1,
        )  # fmt: skip
    return out, v_end, spikes.sum(dim=1, dtype=torch.float64)
