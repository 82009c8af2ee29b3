"""Codes of least quadratic error for float32 matrices on the CPU, rows in parallel.

A row w [K] with codes c is off by e = w - ŵ, and costs e H eᵀ for a symmetric H [K, K]. A code c stands for
the weight (``factor`` c + ``shift`` - zero) scale, and is a whole number from ``low`` to ``high``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from qslm_opt.kernels.vector import FAST

Array = NDArray[np.float32]


@njit(inline="always", fastmath=FAST)  # type: ignore[untyped-decorator]
def _nearest(value: Any, scale: Any, zero: Any, grid: Any) -> Any:
    """Return the code whose weight is nearest to ``value``; ``grid`` is low, high, factor and shift."""
    code = np.rint((value / scale + zero - grid[3]) / grid[2])
    return min(max(code, grid[0]), grid[1])


@njit(inline="always", fastmath=FAST)  # type: ignore[untyped-decorator]
def _weight(code: Any, scale: Any, zero: Any, grid: Any) -> Any:
    return (code * grid[2] + grid[3] - zero) * scale


@njit(parallel=True, fastmath=FAST, cache=True)  # type: ignore[untyped-decorator]
def feedback(weight: Array, upper: Array, scale: Array, zero: Array, grid: Array, codes: Array) -> None:
    """Round column after column and make up for each error in the columns to come; write ``codes`` [N, K].

    ``upper`` [K, K] is the upper Cholesky factor of H⁻¹; ``scale`` and ``zero`` [N, K]; ``grid`` (low, high,
    factor, shift).
    """
    rows, columns = weight.shape
    for n in prange(rows):
        left = weight[n].copy()
        for j in range(columns):
            code = _nearest(left[j], scale[n, j], zero[n, j], grid)
            codes[n, j] = code
            off = (left[j] - _weight(code, scale[n, j], zero[n, j], grid)) / upper[j, j]
            row = upper[j]
            for k in range(j + 1, columns):
                left[k] -= off * row[k]


@njit(parallel=True, fastmath=FAST, cache=True)  # type: ignore[untyped-decorator]
def descend(
    pull: Array, h: Array, scale: Array, zero: Array, grid: Array, codes: Array, changed: NDArray[np.int64]
) -> None:
    """Give every weight in turn the best code with all others held; ``codes`` [N, K] and ``pull`` change.

    ``pull`` [N, K] is e H of the codes that are given. ``changed`` [N] counts the codes that change.
    """
    rows, columns = codes.shape
    for n in prange(rows):
        slope = pull[n]
        for j in range(columns):
            before = codes[n, j]
            held = _weight(before, scale[n, j], zero[n, j], grid)
            code = _nearest(held + slope[j] / h[j, j], scale[n, j], zero[n, j], grid)
            if code == before:
                continue
            codes[n, j] = code
            changed[n] += 1
            moved = _weight(code, scale[n, j], zero[n, j], grid) - held
            row = h[j]
            for k in range(columns):
                slope[k] -= moved * row[k]
