"""Scans of neurons from rest for float32 on the CPU, bit for bit those of ``reference``.

A scan runs over [B, T, N]: B sequences, T tokens or time steps, N neurons side by side. Inputs are flat, with
the distance of two steps, which is 0 where every step has the same current.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from qslm_opt.kernels.fire.reference import Neuron
from qslm_opt.kernels.fire.step import ONE, ZERO, charge, hard_reset, side, soft_reset, spike, third
from qslm_opt.kernels.vector import SUMS

Array = NDArray[np.float32]


class Kind(NamedTuple):
    """A ``Neuron`` as numba takes it."""

    leaky: bool
    tau: Any
    soft: bool
    keep: Any
    thresholds: Array
    """Of every step [T]."""

    @classmethod
    def of(cls, neuron: Neuron, steps: int) -> Kind:
        """Return ``neuron`` for so many steps; ValueError where it has thresholds for another number."""
        thresholds = np.array(neuron.thresholds(steps), np.float32)
        tau = np.float32(1.0 if neuron.tau is None else neuron.tau)
        return cls(neuron.tau is not None, tau, neuron.soft, np.float32(neuron.keep), thresholds)


@njit(inline="always", error_model="numpy")  # type: ignore[untyped-decorator]
def _charge_row(u: Array, v: Array, kind: Kind) -> None:
    if kind.leaky:
        for j in range(len(v)):
            v[j] = charge(u[j], v[j], kind.tau)
    else:
        for j in range(len(v)):
            v[j] = v[j] + u[j]


@njit(inline="always", error_model="numpy")  # type: ignore[untyped-decorator]
def _fire_row(v: Array, threshold: Any, kind: Kind, fired: Array) -> None:
    if kind.soft:
        for j in range(len(v)):
            s = spike(v[j], threshold)
            v[j] = soft_reset(v[j], s, threshold, kind.keep)
            fired[j] = s
    else:
        for j in range(len(v)):
            s = spike(v[j], threshold)
            v[j] = hard_reset(v[j], s)
            fired[j] = s


@njit(parallel=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def scan(
    current: Array, apart: int, kind: Kind, tile: int, noted: bool, potentials: Array, spikes: Array,
    v_end: Array,
) -> None:  # fmt: skip
    """Write ``spikes`` [B, T, N] and the potentials after the last step, ``v_end`` [B, N].

    Args:
        current: flat; step t of sequence b begins at ``(b·T + t)·apart``.
        tile: neurons of one task.
        noted: whether the potentials before the reset are written to ``potentials`` [B, T, N].
    """
    batch, steps, width = spikes.shape
    tiles = (width + tile - 1) // tile
    for task in prange(batch * tiles):
        b, low = task // tiles, (task % tiles) * tile
        high = min(low + tile, width)
        v = np.zeros(high - low, np.float32)
        for t in range(steps):
            place = (b * steps + t) * apart + low
            _charge_row(current[place : place + high - low], v, kind)
            if noted:
                potentials[b, t, low:high] = v
            _fire_row(v, kind.thresholds[t], kind, spikes[b, t, low:high])
        v_end[b, low:high] = v


@njit(parallel=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def ternary(
    x: Array, apart: int, amplitudes: Array, leak: Any, bipolar: bool, tile: int, noted: bool,
    potentials: Array, out: Array,
) -> None:  # fmt: skip
    """Write ternary or bipolar spikes ``out`` [T, N], and where ``noted`` potentials [T, N]; see ``scan``."""
    steps, width = out.shape
    for task in prange((width + tile - 1) // tile):
        low = task * tile
        high = min(low + tile, width)
        m = np.zeros(high - low, np.float32)
        for t in range(steps):
            place, a = t * apart + low, amplitudes[t]
            u, fired = x[place : place + high - low], out[t, low:high]
            if t == 0 or leak == ZERO:
                m[:] = u
            else:
                before, last = amplitudes[t - 1], out[t - 1, low:high]
                for j in range(high - low):
                    m[j] = leak * m[j] * (before - last[j]) + u[j]
            if noted:
                potentials[t, low:high] = m
            if bipolar:
                for j in range(high - low):
                    fired[j] = a * side(m[j], a)
            else:
                for j in range(high - low):
                    fired[j] = a * third(m[j], a)


@njit(parallel=True, fastmath=SUMS, cache=True)  # type: ignore[untyped-decorator]
def count(spikes: Array, weights: NDArray[np.int64], sums: NDArray[np.float64]) -> None:
    """Write how many of ``spikes`` [R, N] are not 0 to ``sums``, a part for each task; NaN is NaN.

    Row r counts ``weights[r % len(weights)]`` times. Exact up to 2**24 neurons a row.
    """
    rows, width = spikes.shape
    for task in prange(len(sums)):
        total = 0.0
        for r in range(task * rows // len(sums), (task + 1) * rows // len(sums)):
            times = weights[r % len(weights)]
            if times == 0:
                continue
            row, fired = spikes[r], np.float32(0.0)
            for j in range(width):
                fired += (ONE if row[j] != ZERO else ZERO) + row[j] * ZERO
            total += fired * times
        sums[task] = total
