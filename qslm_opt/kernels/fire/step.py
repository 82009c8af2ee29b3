"""One step of a neuron for numba loops over float32; every scan on the CPU is made of these.

Each is the arithmetic of ``reference`` operation by operation. A loop that is to agree with it bit for bit is
compiled without float liberties, and with the error model of numpy, as a check of a divisor is a branch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

ZERO, ONE, TWO = np.float32(0.0), np.float32(1.0), np.float32(2.0)


@njit(inline="always")  # type: ignore[untyped-decorator]
def charge(u: Any, v: Any, tau: Any) -> Any:
    """Return the potential of a leaky neuron after a current ``u``, before it fires."""
    return v + (u - v) / tau


@njit(inline="always")  # type: ignore[untyped-decorator]
def spike(h: Any, threshold: Any) -> Any:
    """Return 1 where the potential has reached the threshold, else 0; 0 where it is not a number."""
    return ONE if h - threshold >= ZERO else ZERO


@njit(inline="always")  # type: ignore[untyped-decorator]
def hard_reset(h: Any, fired: Any) -> Any:
    """Return the potential that is left of ``h``; not a number where an infinite one fired."""
    return h * (ONE - fired)


@njit(inline="always")  # type: ignore[untyped-decorator]
def soft_reset(h: Any, fired: Any, threshold: Any, keep: Any) -> Any:
    """Return the potential that is left of ``h`` behind a soft reset."""
    return (h - threshold * fired) * keep


@njit(inline="always")  # type: ignore[untyped-decorator]
def third(m: Any, amplitude: Any) -> Any:
    """Return −1, 0 or 1: the potential in amplitudes, halves rounded to even."""
    r = np.rint(m / amplitude)
    r = ONE if r > ONE else r
    return -ONE if r < -ONE else r


@njit(inline="always")  # type: ignore[untyped-decorator]
def side(m: Any, amplitude: Any) -> Any:
    """Return −1 or 1: the sign of the potential in amplitudes; 0 for 0, and what is not a number stays so."""
    q = m / amplitude
    sign = (ONE if q > ZERO else ZERO) - (ONE if q < ZERO else ZERO)
    return sign if q == q else q
