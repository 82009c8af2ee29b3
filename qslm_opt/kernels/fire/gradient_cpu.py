"""The LIF scan and its surrogate gradient for float32 on the CPU, from the membrane at rest."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from qslm_opt.kernels.vector import FAST

TILE = 64

Array = NDArray[np.float32]


@njit(parallel=True, fastmath=FAST, cache=True)  # type: ignore[untyped-decorator]
def forward(current: Array, potential: Array) -> None:
    """Write the membrane potentials before the reset, [B, T, D], for ``current`` [B, T, D]."""
    batch, tokens, width = current.shape
    tiles = (width + TILE - 1) // TILE
    one, half = np.float32(1.0), np.float32(0.5)
    for task in prange(batch * tiles):
        b, low = task // tiles, (task % tiles) * TILE
        high = min(low + TILE, width)
        v = np.zeros(high - low, np.float32)
        for t in range(tokens):
            row, out = current[b, t, low:high], potential[b, t, low:high]
            for j in range(high - low):
                h = v[j] + (row[j] - v[j]) * half
                out[j] = h
                v[j] = np.float32(0.0) if h >= one else h


@njit(parallel=True, fastmath=FAST, cache=True)  # type: ignore[untyped-decorator]
def backward(potential: Array, gradient: Array, alpha: Any, out: Array) -> None:
    """Write the gradient of the currents for ``gradient``, that of the spikes; all [B, T, D].

    See ``qslm_opt.train.surrogate`` for the formula; ``alpha`` is the surrogate's slope.
    """
    batch, tokens, width = potential.shape
    tiles = (width + TILE - 1) // TILE
    one, half, zero = np.float32(1.0), np.float32(0.5), np.float32(0.0)
    rise, bend = np.float32(alpha / 2), np.float32(np.pi / 2 * alpha)
    for task in prange(batch * tiles):
        b, low = task // tiles, (task % tiles) * TILE
        high = min(low + TILE, width)
        after = np.zeros(high - low, np.float32)
        for t in range(tokens - 1, -1, -1):
            h, g, u = potential[b, t, low:high], gradient[b, t, low:high], out[b, t, low:high]
            for j in range(high - low):
                place = bend * (h[j] - one)
                slope = rise / (one + place * place)
                through = ((one if h[j] < one else zero) - h[j] * slope) * half
                after[j] = g[j] * slope + through * after[j]
                u[j] = after[j] * half
