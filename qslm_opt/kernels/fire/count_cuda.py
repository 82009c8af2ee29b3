"""Spikes of float32 tensors on a CUDA device, counted in one launch that reads each of them once.

In plain torch a count that tells what is no number is five passes or more, and at the sizes of a site each
launch costs more than its work.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_NUMBERS = 2048
"""Numbers that a program takes at once."""
_WIDEST = 1024
"""Most neurons of a row that it takes at once."""
_PROGRAMS = 1024
"""Most programs: each adds its part to the same number."""


@triton.jit(do_not_specialize=["rows", "tokens", "potentials"])  # type: ignore[untyped-decorator]
def _count(  # type: ignore[no-untyped-def]
    spikes, weights, v, total, rows, width, tokens, potentials,
    WEIGHTED: tl.constexpr, NOTED: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    first, step = tl.program_id(0).to(tl.int64) * ROWS, tl.num_programs(0).to(tl.int64) * ROWS
    found = tl.zeros((ROWS,), tl.float64)
    for start in range(first, rows, step):
        row = start + tl.arange(0, ROWS)
        inside = row < rows
        times = tl.where(inside, 1.0, 0.0).to(tl.float64)
        if WEIGHTED:
            times = tl.load(weights + row % tokens, mask=inside, other=0).to(tl.float64)
        counted = times > 0.0
        fired = tl.zeros((ROWS, TILE), tl.float32)
        for low in range(0, width, TILE):
            j = low + tl.arange(0, TILE)
            there = counted[:, None] & (j < width)[None, :]
            x = tl.load(spikes + row[:, None] * width + j[None, :], mask=there, other=0.0)
            fired += tl.where(x != 0.0, 1.0, 0.0) + x * 0.0
        found += tl.sum(fired, 1).to(tl.float64) * times
    all_found = tl.sum(found, 0)
    if NOTED:
        bad = tl.zeros((ROWS * TILE,), tl.float32)
        far = step * TILE
        for begin in range(first * TILE, potentials, far):
            place = begin + tl.arange(0, ROWS * TILE)
            bad += tl.load(v + place, mask=place < potentials, other=0.0) * 0.0
        all_found += tl.sum(bad, 0).to(tl.float64)
    tl.atomic_add(total, all_found)


def count(spikes: Tensor, weights: Tensor | None, v: Tensor | None) -> Tensor:
    """See ``count.count_spikes``; spikes and potentials are float32. Exact: sums of whole numbers."""
    total = spikes.new_zeros((), dtype=torch.float64)
    values, width = spikes.detach().contiguous(), spikes.shape[-1]
    rows = spikes.shape[:-1].numel()
    potentials = total if v is None else v.detach().contiguous()
    of_tokens = total if weights is None else weights.long().contiguous()
    tile = min(_WIDEST, triton.next_power_of_2(max(width, 16)))
    at_once = _NUMBERS // tile
    with torch.cuda.device_of(spikes):
        _count[(max(1, min(_PROGRAMS, triton.cdiv(rows, at_once))),)](
            values, of_tokens, potentials, total, rows, width, max(1, of_tokens.numel()),
            potentials.numel(), WEIGHTED=weights is not None, NOTED=v is not None, ROWS=at_once,
            TILE=tile, num_warps=4,
        )  # fmt: skip
    return total
