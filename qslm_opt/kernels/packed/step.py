"""The parts of one token's step of a spiking RWKV on the CPU: vectors of one window, float32, no torch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from qslm_opt.kernels.packed.arena import Views
from qslm_opt.kernels.packed.cpu import read_row
from qslm_opt.kernels.packed.spread import Room
from qslm_opt.kernels.vector import FAST, exp_nonpositive, sigmoid

Array = NDArray[np.float32]
_ONE, _HALF = np.float32(1.0), np.float32(0.5)


@njit(fastmath=FAST)  # type: ignore[untyped-decorator]
def vector(views: Views, table: Any, slot: int, room: Room, out: Array) -> Array:
    """Write a vector that is held as one row to ``out``, and return it."""
    read_row(views, table[slot], 0, room, out)
    return out


@njit(fastmath=FAST)  # type: ignore[untyped-decorator]
def blend(here: Array, before: Array, factor: Array, out: Array) -> None:
    """Write ``here · m + before · (1 − m)``."""
    for j in range(out.shape[0]):
        out[j] = here[j] * factor[j] + before[j] * (_ONE - factor[j])


@njit(fastmath=FAST)  # type: ignore[untyped-decorator]
def gated_wkv(
    r: Array, k: Array, v: Array, time_decay: Array, first: Array, p: Array, q: Array, o: Array, y: Array
) -> None:
    """Write ``sigmoid(r) · WKV(k, v)`` to ``y`` and carry the state p, q, o [D] on."""
    for j in range(k.shape[0]):
        e = exp_nonpositive(-abs(time_decay[j]))
        decay = -(e if time_decay[j] <= 0 else _ONE / e)
        gap = o[j] - (first[j] + k[j])
        e = exp_nonpositive(-abs(gap))
        old, new = (_ONE, e) if gap >= 0 else (e, _ONE)
        mean = (old * p[j] + new * v[j]) / (old * q[j] + new)
        y[j] = mean * sigmoid(r[j])
        decayed = decay + o[j]
        gap = decayed - k[j]
        e = exp_nonpositive(-abs(gap))
        old, new = (_ONE, e) if gap >= 0 else (e, _ONE)
        p[j] = old * p[j] + new * v[j]
        q[j] = old * q[j] + new
        o[j] = max(decayed, k[j])


@njit(fastmath=FAST)  # type: ignore[untyped-decorator]
def lif_add(x: Array, current: Array, gate: Array, gated: bool, factor: Any, v: Array) -> int:
    """Add ``LIF(factor · current)``, gated or not, to ``x`` in place; return the spikes."""
    fired = 0
    for j in range(x.shape[0]):
        i = current[j] * factor
        if gated:
            i = i * sigmoid(gate[j])
        potential = v[j] + (i - v[j]) * _HALF
        spike = _ONE if potential >= _ONE else np.float32(0.0)
        v[j] = potential * (_ONE - spike)
        x[j] += spike
        fired += int(spike)
    return fired


@njit(fastmath=FAST)  # type: ignore[untyped-decorator]
def relu2(x: Array) -> None:
    """Square what is positive and drop the rest, in place; NaN stays."""
    for j in range(x.shape[0]):
        x[j] = x[j] * x[j] if x[j] > 0 else x[j] * np.float32(0.0)


@njit(fastmath=FAST)  # type: ignore[untyped-decorator]
def heaviside(x: Array) -> None:
    """Replace values by 1 where they are ≥ 0, else 0, in place."""
    for j in range(x.shape[0]):
        x[j] = _ONE if x[j] >= 0 else np.float32(0.0)
