"""LayerNorm, token shift and mixes for float32 on the CPU in one pass over the residual stream."""

from __future__ import annotations

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from qslm_opt.kernels.vector import SUMS

SPAN = 32
"""Tokens of one task; its first token's predecessor is normalised again, 1/32 of the work."""

Array = NDArray[np.float32]


@njit(inline="always", fastmath=SUMS)  # type: ignore[untyped-decorator]
def layer_norm(x: Array, weight: Array, bias: Array, out: Array) -> None:
    """Write LayerNorm (eps 1e-5) of ``x`` [D] to ``out``."""
    width = x.shape[0]
    total = np.float32(0.0)
    for j in range(width):
        total += x[j]
    mean = total / np.float32(width)
    total = np.float32(0.0)
    for j in range(width):
        total += (x[j] - mean) * (x[j] - mean)
    scale = np.float32(1.0) / np.sqrt(total / np.float32(width) + np.float32(1e-5))
    for j in range(width):
        out[j] = (x[j] - mean) * scale * weight[j] + bias[j]


@njit(parallel=True, fastmath=SUMS, cache=True)  # type: ignore[untyped-decorator]
def norm_shift_mix(
    x: Array, weight: Array, bias: Array, last: Array, mixes: Array, out: Array, end: Array
) -> None:
    """Write one blend per row of ``mixes`` [M, D] to ``out`` [M, B, T, D], the last token to ``end``."""
    batch, tokens, width = x.shape
    spans = (tokens + SPAN - 1) // SPAN
    for task in prange(batch * spans):
        b = task // spans
        first = (task % spans) * SPAN
        before = np.empty(width, np.float32)
        here = np.empty(width, np.float32)
        if first == 0:
            before[:] = last[b]
        else:
            layer_norm(x[b, first - 1], weight, bias, before)
        for t in range(first, min(first + SPAN, tokens)):
            layer_norm(x[b, t], weight, bias, here)
            for m in range(mixes.shape[0]):
                for j in range(width):
                    f = mixes[m, j]
                    out[m, b, t, j] = here[j] * f + before[j] * (np.float32(1.0) - f)
            before, here = here, before
        if first + SPAN >= tokens:
            end[b] = before
