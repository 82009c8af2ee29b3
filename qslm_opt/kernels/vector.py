"""Arithmetic that LLVM turns into vector instructions inside numba loops."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

FAST = {"nsz", "arcp", "contract", "afn"}
"""Float liberties the kernels take: none that assumes finite numbers or reorders sums."""
SUMS = FAST | {"reassoc"}
"""Where sums, too, may be reordered into vector lanes."""

_LOG2E = np.float32(1.4426950408889634)
_LN2_HIGH = np.float32(0.693359375)
_LN2_LOW = np.float32(-2.12194440e-4)
_LOWEST = np.float32(-87.0)
_ONE = np.float32(1.0)
_HALF = np.float32(0.5)


@intrinsic  # type: ignore[untyped-decorator]
def as_float32(typing_context: Any, bits: Any) -> Any:
    """Return the float32 with the bits of an int32."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.int32), generate


@intrinsic  # type: ignore[untyped-decorator]
def field8(typing_context: Any, byte: Any, down: Any, mask: Any, up: Any) -> Any:
    """Return ``(byte >> down & mask) << up`` of uint8 numbers, computed in eight bits."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        part = builder.and_(builder.lshr(args[0], args[1]), args[2])
        return builder.shl(part, args[3])

    return types.uint8(types.uint8, types.uint8, types.uint8, types.uint8), generate


@intrinsic  # type: ignore[untyped-decorator]
def times8(typing_context: Any, byte: Any, factor: Any) -> Any:
    """Return the low eight bits of the product of uint8 numbers."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.mul(args[0], args[1])

    return types.uint8(types.uint8, types.uint8), generate


@intrinsic  # type: ignore[untyped-decorator]
def digit3(typing_context: Any, fraction: Any) -> Any:
    """Return the first base-3 digit of the fraction ``uint8 / 256``."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        wide = ir.IntType(16)
        tripled = builder.mul(builder.zext(args[0], wide), ir.Constant(wide, 3))
        return builder.trunc(builder.lshr(tripled, ir.Constant(wide, 8)), ir.IntType(8))

    return types.uint8(types.uint8), generate


@intrinsic  # type: ignore[untyped-decorator]
def join8(typing_context: Any, low: Any, high: Any) -> Any:
    """Return the int32 ``low + 256 high`` of uint8 numbers."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        wide = ir.IntType(32)
        above = builder.shl(builder.zext(args[1], wide), ir.Constant(wide, 8))
        return builder.or_(builder.zext(args[0], wide), above)

    return types.int32(types.uint8, types.uint8), generate


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
    return p * as_float32(np.int32((np.int32(n) + np.int32(127)) << np.int32(23)))


@njit(inline="always", fastmath=FAST)  # type: ignore[untyped-decorator]
def sigmoid(x: Any) -> Any:
    """Return 1 / (1 + e**−x) for float32 x, without overflow."""
    e = exp_nonpositive(-abs(x))
    return (_ONE if x >= 0 else e) / (_ONE + e)
