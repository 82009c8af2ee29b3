"""LIF for float32 on a CUDA device, fused with the gate before it and the residual add after it.

A spike is never stored: it is added to the residual stream where it is fired, and counted.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from qslm_opt.kernels.products import Current, Scaled
from qslm_opt.kernels.terms import TILE, ahead, parts


@triton.jit  # type: ignore[untyped-decorator]
def _scan(  # type: ignore[no-untyped-def]
    x, current, scale, gate, gate_scale, v0, lengths, out, v_end, spikes, tokens, width,
    SCALED: tl.constexpr, GATED: tl.constexpr, GATE_SCALED: tl.constexpr, PADDED: tl.constexpr,
    TILE: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * TILE + tl.arange(0, TILE)
    inside = channel < width
    v = tl.load(v0 + b * width + channel, mask=inside, other=0.0)
    count = tl.zeros((TILE,), tl.float32)
    upto = tokens
    if PADDED:
        upto = tl.load(lengths + b).to(tl.int32)
    factor = 1.0
    if SCALED:
        factor = tl.load(scale + channel, mask=inside, other=0.0)
    gate_factor = 1.0
    if GATE_SCALED:
        gate_factor = tl.load(gate_scale + channel, mask=inside, other=0.0)
    place = b * tokens * width + channel
    for t in range(0, tokens, AHEAD):
        currents = ()
        befores = ()
        gates = ()
        for n in tl.static_range(AHEAD):
            there = inside & (t + n < tokens)
            currents = currents + (tl.load(current + place + n * width, mask=there, other=0.0),)  # type: ignore[assignment]  # noqa: RUF005
            befores = befores + (tl.load(x + place + n * width, mask=there, other=0.0),)  # type: ignore[assignment]  # noqa: RUF005
            if GATED:
                gates = gates + (tl.load(gate + place + n * width, mask=there, other=0.0),)  # type: ignore[assignment]  # noqa: RUF005
        for n in tl.static_range(AHEAD):
            live = t + n < tokens
            i = currents[n] * factor
            if GATED:
                i = i / (1.0 + tl.exp(-(gates[n] * gate_factor)))
            potential = v + (i - v) * 0.5
            fired = tl.where(potential >= 1.0, 1.0, 0.0)
            v = tl.where(live, potential * (1.0 - fired), v)
            tl.store(out + place + n * width, befores[n] + fired, mask=inside & live)
            count += tl.where(t + n < upto, fired, 0.0)
        place += AHEAD * width
    tl.store(v_end + b * width + channel, v, mask=inside)
    # A neuron whose current was not a number stays silent from there on: its count says so.
    tl.store(spikes + b * width + channel, count + v * 0.0, mask=inside)


def lif_add(
    x: Tensor, current: Current, gate: Current | None, v: Tensor, lengths: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """See ``qslm_opt.kernels.ops.LifAdd``."""
    batch, tokens, width = x.shape
    out, v_end, spikes = x.new_empty(x.shape), x.new_empty(batch, width), x.new_empty(batch, width)
    x, v = x.contiguous(), v.contiguous()
    currents, scale = parts(current)
    gates, gate_scale = (currents, scale) if gate is None else parts(gate)
    with torch.cuda.device(x.device):
        _scan[batch, triton.cdiv(width, TILE)](
            x, currents, scale, gates, gate_scale, v, x if lengths is None else lengths, out, v_end, spikes,
            tokens, width, SCALED=isinstance(current, Scaled), GATED=gate is not None,
            GATE_SCALED=isinstance(gate, Scaled), PADDED=lengths is not None,
            TILE=TILE, AHEAD=ahead(batch, width), num_warps=2, enable_fp_fusion=False,
        )  # fmt: skip
    return out, v_end, spikes.sum(dim=1, dtype=torch.float64)
