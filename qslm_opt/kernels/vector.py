"""Arithmetic that LLVM turns into vector instructions inside numba loops."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

FAST = {"nsz", "arcp", "contract", "afn"}
"""Float liberties the kernels take: none that assumes finite numbers or reorders sums."""

_LOG2E = np.float32(1.4426950408889634)
_LN2_HIGH = np.float32(0.693359375)
_LN2_LOW = np.float32(-2.12194440e-4)
_LOWEST = np.float32(-87.0)
_ONE = np.float32(1.0)
_HALF = np.float32(0.5)


@intrinsic  # type: ignore[untyped-decorator]
def _as_float32(typing_context: Any, bits: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.int32), generate


@njit(inline="always", fastmath=FAST)  # type: ignore[untyped-decorator]
def exp_nonpositive(x: Any) -> Any:
    """Return e**x for float32 x ≤ 0, to 2 ulp; below −87 the result is e**−87 (1.6e-38)."""
    x = max(x, _LOWEST)
    n = np.floor(x * _LOG2E + _HALF)
    r = x - n * _LN2_HIGH
    r = r - n * _LN2_LOW
    p = np.float32(1.9875691500e-4)
    p = p * r + np.float32(1.3981999507e-3)
    p = p * r + np.float32(8.3334519073e-3)
    p = p * r + np.float32(4.1665795894e-2)
    p = p * r + np.float32(1.6666665459e-1)
    p = p * r + _HALF
    p = p * r * r + r + _ONE
    return p * _as_float32(np.int32((np.int32(n) + np.int32(127)) << np.int32(23)))


@njit(inline="always", fastmath=FAST)  # type: ignore[untyped-decorator]
def sigmoid(x: Any) -> Any:
    """Return 1 / (1 + e**−x) for float32 x, without overflow."""
    e = exp_nonpositive(-abs(x))
    return (_ONE if x >= 0 else e) / (_ONE + e)
