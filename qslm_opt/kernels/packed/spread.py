"""From the bytes of a block to codes, scales and zero points in the scratch of a thread."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from qslm_opt.kernels.packed.arena import (
    AT,
    BITS,
    BLOCK,
    CENTRE,
    COLUMNS,
    FACTOR,
    GROUPS,
    KIND,
    ROWS,
    RUN,
    SCALE_AT,
    SCALE_BYTES,
    STRIDE,
    TERNARY,
    ZERO_AT,
    ZERO_FLOAT,
    ZERO_HALF,
    ZERO_KIND,
    ZERO_UINT8,
    ZERO_UINT16,
    Arena,
    Views,
)
from qslm_opt.kernels.vector import FAST, as_float32, digit3, field8, times8

_UNHALF = np.float32(2.0**112)
"""What the bits of a float16, moved to a float32's places, are to be multiplied by."""
_HALF = np.float32(0.5)

Codes = NDArray[np.uint8]
Array = NDArray[np.float32]
Row = NDArray[np.int64]


class Room(NamedTuple):
    """Scratch of one thread."""

    low: Codes
    high: Codes
    weights: Array
    scales: Array
    zeros: Array


def room(arena: Arena) -> Room:
    """Return scratch for every tensor of an arena."""
    columns = int(arena.table[:, COLUMNS].max(initial=1))
    codes = max(RUN, columns)
    groups = int((arena.table[:, BLOCK] * arena.table[:, GROUPS].clip(1)).max(initial=1))
    return Room(
        np.empty(codes, np.uint8), np.empty(codes, np.uint8), np.empty(columns, np.float32),
        np.empty(groups, np.float32), np.empty(groups, np.float32),
    )  # fmt: skip


@njit(inline="always", fastmath=FAST)  # type: ignore[untyped-decorator]
def _unhalf(bits: Any) -> Any:
    """Return the float32 of a finite float16's bits."""
    whole = np.int32(bits)
    size = as_float32(np.int32((whole & np.int32(0x7FFF)) << np.int32(13))) * _UNHALF
    return -size if whole & np.int32(0x8000) else size


@njit(fastmath=FAST)  # type: ignore[untyped-decorator]
def _factors(views: Views, where: Row, block: int, room: Room) -> None:
    """Write the scales and the zero points of the groups of a block, row after row."""
    data, halves, floats = views
    row = block * where[BLOCK]
    rows = min(where[BLOCK], where[ROWS] - row)
    first, count = row * where[GROUPS], rows * where[GROUPS]
    if where[GROUPS] == 0:
        first, count = 0, 1
    scales, zeros = room.scales[:count], room.zeros[:count]
    factor = np.float32(where[FACTOR])
    if where[SCALE_BYTES] == 2:
        unhalf_all(halves[(where[SCALE_AT] >> 1) + first :], scales, factor)
    elif where[SCALE_BYTES] == 4:
        _copy(floats[(where[SCALE_AT] >> 2) + first :], scales, factor)
    else:
        scales[:] = factor
    kind, at, one = where[ZERO_KIND], where[ZERO_AT], np.float32(1.0)
    if kind == ZERO_UINT8:
        _copy(data[at + first :], zeros, one)
    elif kind == ZERO_UINT16:
        _copy(halves[(at >> 1) + first :], zeros, one)
    elif kind == ZERO_HALF:
        unhalf_all(halves[(at >> 1) + first :], zeros, one)
    elif kind == ZERO_FLOAT:
        _copy(floats[(at >> 2) + first :], zeros, one)
    else:
        zeros[:] = np.float32(where[CENTRE]) * _HALF
    if where[GROUPS] == 0:
        room.scales[1:rows] = scales[0]
        room.zeros[1:rows] = zeros[0]


@njit(fastmath=FAST)  # type: ignore[untyped-decorator]
def unhalf_all(halves: Any, out: Array, factor: Any) -> None:
    """Write ``factor`` times the values of float16 bits."""
    for j in range(out.shape[0]):
        out[j] = _unhalf(halves[j]) * factor


@njit(fastmath=FAST)  # type: ignore[untyped-decorator]
def _copy(values: Any, out: Array, factor: Any) -> None:
    for j in range(out.shape[0]):
        out[j] = np.float32(values[j]) * factor


@njit(fastmath=FAST)  # type: ignore[untyped-decorator]
def _spread(plane: Codes, width: int, shift: int, codes: Codes) -> Any:
    """Put one plane's bits at ``shift`` of a run of codes; return the bytes that were read."""
    count = codes.shape[0]
    per = 8 // width
    wide = (count + per - 1) // per
    source = plane[:wide]
    mask, up = np.uint8((1 << width) - 1), np.uint8(shift)
    for q in range(per):
        part = codes[q * wide : min((q + 1) * wide, count)]
        down = np.uint8(q * width)
        if shift == 0:
            for j in range(part.shape[0]):
                part[j] = field8(source[j], down, mask, up)
        else:
            for j in range(part.shape[0]):
                part[j] |= field8(source[j], down, mask, up)
    return wide


@njit(fastmath=FAST)  # type: ignore[untyped-decorator]
def _spread_ternary(source: Codes, codes: Codes) -> None:
    count = codes.shape[0]
    wide = (count + 4) // 5
    power = np.uint8(1)
    for q in range(5):
        part = codes[q * wide : min((q + 1) * wide, count)]
        for j in range(part.shape[0]):
            part[j] = digit3(times8(source[j], power))
        power = np.uint8(power * 3)


@njit(fastmath=FAST)  # type: ignore[untyped-decorator]
def spread_block(views: Views, where: Row, block: int, room: Room) -> Any:
    """Put a block's codes, low eight bits and the rest apart, and factors in the room; return its rows."""
    _factors(views, where, block, room)
    data = views[0]
    start = where[AT] + block * where[STRIDE]
    rows = min(where[BLOCK], where[ROWS] - block * where[BLOCK])
    count = rows * where[COLUMNS]
    low = room.low[:count]
    if where[KIND] == TERNARY:
        _spread_ternary(data[start:], low)
        return rows
    bits, shift, out = where[BITS], 0, low
    if bits > 8:
        start += _spread(data[start:], 8, 0, low)
        bits, out = bits - 8, room.high[:count]
    for width in (8, 4, 2, 1):
        if bits & width:
            start += _spread(data[start:], width, shift, out)
            shift += width
    return rows
