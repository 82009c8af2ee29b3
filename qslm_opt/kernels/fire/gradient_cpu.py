"""Surrogate gradients of the scans for float32 on the CPU, from the potentials that the scans noted.

``slope`` is the surrogate derivative ``(α/2) / (1 + (π/2·α·x)²)`` at ``x = h − threshold``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from qslm_opt.kernels.fire.scan import Array, Kind
from qslm_opt.kernels.fire.step import ONE, ZERO, side, third
from qslm_opt.kernels.vector import FAST, SUMS

_DIVIDED = SUMS - {"arcp", "afn"}
"""With quotients rounded as those of the forward pass: at a tie, one rounding more is another spike."""


@njit(parallel=True, fastmath=FAST, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def scan(
    potentials: Array, gradient: Array, last: Array, kind: Kind, alpha: Any, tile: int, out: Array
) -> None:
    """Write the gradient of the currents of ``fire.scan.scan``; all [B, T, N].

    With ∂v the gradient of the potential behind a step, g that of its spikes and s the spikes:
    ``∂h = g·slope + ∂v·((1 − s) − h·slope)``, or ``g·slope + ∂v·keep·(1 − threshold·slope)`` behind a soft
    reset; ``∂u = ∂h/τ``, and ``(1 − 1/τ)·∂h`` is ∂v of the step before; without leak both are ∂h.

    Args:
        potentials: before the resets.
        gradient: that of the spikes.
        last: that of the potentials after the last step [B, N].
        alpha: slope of the surrogate.
    """
    batch, steps, width = potentials.shape
    tiles = (width + tile - 1) // tile
    rise, bend = np.float32(alpha / 2), np.float32(np.pi / 2 * alpha)
    gain = ONE / kind.tau
    share = ONE - gain if kind.leaky else ONE
    for task in prange(batch * tiles):
        b, low = task // tiles, (task % tiles) * tile
        high = min(low + tile, width)
        after = last[b, low:high].copy()
        for t in range(steps - 1, -1, -1):
            threshold = kind.thresholds[t]
            h, g, u = potentials[b, t, low:high], gradient[b, t, low:high], out[b, t, low:high]
            for j in range(high - low):
                x = h[j] - threshold
                place = bend * x
                slope = rise / (ONE + place * place)
                if kind.soft:
                    through = kind.keep * (ONE - threshold * slope)
                else:
                    through = (ZERO if x >= ZERO else ONE) - h[j] * slope
                here = g[j] * slope + through * after[j]
                after[j] = here * share
                u[j] = here * gain


@njit(parallel=True, fastmath=_DIVIDED, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def ternary(
    potentials: Array, gradient: Array, amplitudes: Array, leak: Any, bipolar: bool, tile: int, out: Array,
    sums: NDArray[np.float64],
) -> None:  # fmt: skip
    """Write the gradients of the inputs [T, N] of ``fire.scan.ternary`` and of its amplitudes, rounding, or
    the sign of ``bipolar`` spikes, as the identity.

    With o the spikes, g their gradient, and ∂m' and a the next step's potential and this step's amplitude:
    ``∂o = g − leak·m·∂m'``; ``∂m = inside·∂o + leak·(a − o)·∂m'`` where m/a rounds to −1, 0 or 1,
    or of bipolar spikes is between −1 and 1; ``∂a = (o/a − inside·m/a)·∂o + leak·m·∂m'``.

    Args:
        sums: gradient of the amplitudes [tasks, T], to be summed over the tasks.
    """
    steps, width = potentials.shape
    for task in prange(len(sums)):
        low = task * tile
        high = min(low + tile, width)
        after = np.zeros(high - low, np.float32)
        for t in range(steps - 1, -1, -1):
            a, total = amplitudes[t], ZERO
            m, g, x = potentials[t, low:high], gradient[t, low:high], out[t, low:high]
            for j in range(high - low):
                q = m[j] / a
                c, place = (side(m[j], a), q) if bipolar else (third(m[j], a), np.rint(q))
                back = leak * m[j] * after[j]
                spikes = g[j] - back
                inside = ONE if abs(place) <= ONE else ZERO
                here = inside * spikes + leak * (a - a * c) * after[j]
                total += (c - inside * q) * spikes + back
                after[j] = here
                x[j] = here
            sums[task, t] = total
