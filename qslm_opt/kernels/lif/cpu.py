"""LIF for float32 on the CPU, fused with the gate before it and the residual add after it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from qslm_opt.kernels.fire.step import ONE, TWO, charge, hard_reset, spike
from qslm_opt.kernels.vector import FAST, sigmoid

TILE = 64

Array = NDArray[np.float32]


@njit(inline="always", fastmath=FAST)  # type: ignore[untyped-decorator]
def _step(i: Any, v: Any) -> tuple[Any, Any]:
    """Return the spike and the membrane potential after one token."""
    potential = charge(i, v, TWO)
    fired = spike(potential, ONE)
    return fired, hard_reset(potential, fired)


@njit(parallel=True, fastmath=FAST, cache=True)  # type: ignore[untyped-decorator]
def lif_add(
    x: Array, current: Array, gate: Array, gated: bool, v0: Array, lengths: NDArray[np.int64],
    out: Array, v_end: Array, spikes: Array,
) -> None:  # fmt: skip
    """Write ``x + LIF(current)`` to ``out`` [B, T, D], membranes to ``v_end`` [B, D].

    ``spikes`` [B, D] counts the spikes at positions below ``lengths`` [B] (exact up to 2**24 tokens).
    """
    batch, tokens, width = current.shape
    tiles = (width + TILE - 1) // TILE
    for task in prange(batch * tiles):
        b = task // tiles
        low = (task % tiles) * TILE
        high = min(low + TILE, width)
        v = v0[b, low:high].copy()
        count = np.zeros(high - low, np.float32)
        for t in range(tokens):
            counts = np.float32(1.0) if t < lengths[b] else np.float32(0.0)
            row, before, after = current[b, t, low:high], x[b, t, low:high], out[b, t, low:high]
            if gated:
                opening = gate[b, t, low:high]
                for j in range(high - low):
                    fired, v[j] = _step(row[j] * sigmoid(opening[j]), v[j])
                    after[j] = before[j] + fired
                    count[j] += fired * counts
            else:
                for j in range(high - low):
                    fired, v[j] = _step(row[j], v[j])
                    after[j] = before[j] + fired
                    count[j] += fired * counts
        v_end[b, low:high] = v
        for j in range(high - low):
            # A neuron whose current was not a number stays silent from there on: its count says so.
            spikes[b, low + j] = count[j] + v[j] * np.float32(0.0)
