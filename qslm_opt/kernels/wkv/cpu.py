"""WKV for float32 on the CPU: all cores over batch × channel tiles, vector instructions inside a tile."""

from __future__ import annotations

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from qslm_opt.kernels.vector import FAST, exp_nonpositive, sigmoid

TILE = 64
"""Channels of one task: four vectors of 16 floats, and the state of the tile stays in cache."""

Array = NDArray[np.float32]


@njit(parallel=True, fastmath=FAST, cache=True)  # type: ignore[untyped-decorator]
def gated_wkv(
    r: Array, k: Array, v: Array, w: Array, u: Array, state: Array, y: Array, end: Array
) -> None:
    """Write ``sigmoid(r)·WKV(k, v)`` to ``y`` [B, T, D] and the last state to ``end`` [3, B, D]."""
    batch, tokens, width = k.shape
    tiles = (width + TILE - 1) // TILE
    one = np.float32(1.0)
    for task in prange(batch * tiles):
        b = task // tiles
        low = (task % tiles) * TILE
        high = min(low + TILE, width)
        p = state[0, b, low:high].copy()
        q = state[1, b, low:high].copy()
        o = state[2, b, low:high].copy()
        decay, bonus = w[low:high], u[low:high]
        for t in range(tokens):
            keys, values = k[b, t, low:high], v[b, t, low:high]
            gates, out = r[b, t, low:high], y[b, t, low:high]
            for j in range(high - low):
                key, value = keys[j], values[j]
                gap = o[j] - (bonus[j] + key)
                e = exp_nonpositive(-abs(gap))
                old = one if gap >= 0 else e
                new = e if gap >= 0 else one
                mean = (old * p[j] + new * value) / (old * q[j] + new)
                out[j] = mean * sigmoid(gates[j])
                decayed = decay[j] + o[j]
                gap = decayed - key
                e = exp_nonpositive(-abs(gap))
                old = one if gap >= 0 else e
                new = e if gap >= 0 else one
                p[j] = old * p[j] + new * value
                q[j] = old * q[j] + new
                o[j] = max(decayed, key)
        end[0, b, low:high] = p
        end[1, b, low:high] = q
        end[2, b, low:high] = o
