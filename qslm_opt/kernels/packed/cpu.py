"""Products with packed rows for float32 on the CPU: a block of codes is spread in cache, then multiplied."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from qslm_opt.kernels.packed.arena import (
    AT,
    BITS,
    BLOCK,
    COLUMNS,
    FLOAT16,
    FLOAT32,
    GROUPS,
    KIND,
    ROWS,
    SIZE,
    STRIDE,
    Views,
)
from qslm_opt.kernels.packed.spread import Array, Codes, Room, Row, spread_block, unhalf_all
from qslm_opt.kernels.vector import FAST, SUMS, join8


@njit(fastmath=FAST)  # type: ignore[untyped-decorator]
def _weights(where: Row, r: int, room: Room, out: Array) -> None:
    """Write the weights of row ``r`` of the block whose codes and factors are in the room."""
    columns, size, groups = where[COLUMNS], where[SIZE], max(where[GROUPS], 1)
    at = r * columns
    for group in range(groups):
        scale, zero = room.scales[r * groups + group], room.zeros[r * groups + group]
        first, last = group * size, min((group + 1) * size, columns)
        low, wanted = room.low[at + first : at + last], out[first:last]
        if where[BITS] > 8:
            high = room.high[at + first : at + last]
            for j in range(last - first):
                wanted[j] = (np.float32(join8(low[j], high[j])) - zero) * scale
        else:
            for j in range(last - first):
                wanted[j] = (np.float32(low[j]) - zero) * scale


@njit(fastmath=FAST)  # type: ignore[untyped-decorator]
def read_row(views: Views, where: Row, row: int, room: Room, out: Array) -> None:
    """Write the weights of a row to ``out`` [K]."""
    columns = where[COLUMNS]
    start = where[AT] + row * where[STRIDE]
    if where[KIND] == FLOAT32:
        out[:] = views[2][start >> 2 : (start >> 2) + columns]
    elif where[KIND] == FLOAT16:
        unhalf_all(views[1][start >> 1 : (start >> 1) + columns], out, np.float32(1.0))
    else:
        spread_block(views, where, row // where[BLOCK], room)
        _weights(where, row % where[BLOCK], room, out)


@njit(fastmath=SUMS)  # type: ignore[untyped-decorator]
def _float_rows(weights: Array, stride: int, x: Array, y: Array) -> None:
    """Write ``x · w`` for rows w that lie ``stride`` apart; unsigned places are not tested for a sign."""
    for r in range(y.shape[0]):
        base = np.uint64(r * stride)
        total = np.float32(0.0)
        for j in range(x.shape[0]):
            total += weights[base + np.uint64(j)] * x[np.uint64(j)]
        y[r] = total


@njit(fastmath=SUMS)  # type: ignore[untyped-decorator]
def _code_rows(codes: Codes, scales: Array, zeros: Array, x: Array, y: Array) -> None:
    """Write ``x · (c - z) s`` for rows of codes that follow one another."""
    for r in range(y.shape[0]):
        base = np.uint64(r * x.shape[0])
        total, zero = np.float32(0.0), zeros[r]
        for j in range(x.shape[0]):
            total += (np.float32(codes[base + np.uint64(j)]) - zero) * x[np.uint64(j)]
        y[r] = total * scales[r]


@njit(fastmath=SUMS)  # type: ignore[untyped-decorator]
def _dot_groups(codes: Codes, scales: Array, zeros: Array, size: int, x: Array) -> Any:
    whole, columns = np.float32(0.0), codes.shape[0]
    for group in range(scales.shape[0]):
        first = group * size
        count = min(size, columns - first)
        part, weighed = codes[first : first + count], x[first : first + count]
        total, zero = np.float32(0.0), zeros[group]
        for j in range(count):
            total += (np.float32(part[j]) - zero) * weighed[j]
        whole += total * scales[group]
    return whole


@njit(fastmath=SUMS)  # type: ignore[untyped-decorator]
def _float_product(views: Views, where: Row, block: int, x: Array, y: Array, room: Room) -> None:
    columns, first = where[COLUMNS], block * where[BLOCK]
    rows = min(where[BLOCK], where[ROWS] - first)
    start = where[AT] + first * where[STRIDE]
    if where[KIND] == FLOAT32:
        for b in range(x.shape[0]):
            _float_rows(views[2][start >> 2 :], columns, x[b], y[b, first : first + rows])
        return
    weights = room.weights[:columns]
    for r in range(rows):
        at = (start + r * where[STRIDE]) >> 1
        unhalf_all(views[1][at : at + columns], weights, np.float32(1.0))
        for b in range(x.shape[0]):
            _float_rows(weights, columns, x[b], y[b, first + r : first + r + 1])


@njit(fastmath=SUMS)  # type: ignore[untyped-decorator]
def product_block(views: Views, where: Row, block: int, x: Array, y: Array, room: Room) -> None:
    """Write the columns of ``x · Wᵀ`` that a block of rows gives; x [B, K], y [B, N]."""
    if where[KIND] == FLOAT32 or where[KIND] == FLOAT16:
        _float_product(views, where, block, x, y, room)
        return
    columns, first, groups = where[COLUMNS], block * where[BLOCK], max(where[GROUPS], 1)
    rows = spread_block(views, where, block, room)
    if where[BITS] <= 8 and groups == 1:
        for b in range(x.shape[0]):
            _code_rows(room.low, room.scales, room.zeros, x[b], y[b, first : first + rows])
        return
    for r in range(rows):
        if where[BITS] > 8:
            weights = room.weights[:columns]
            _weights(where, r, room, weights)
            for b in range(x.shape[0]):
                _float_rows(weights, columns, x[b], y[b, first + r : first + r + 1])
        else:
            codes = room.low[r * columns : (r + 1) * columns]
            scales = room.scales[r * groups : (r + 1) * groups]
            zeros = room.zeros[r * groups : (r + 1) * groups]
            for b in range(x.shape[0]):
                y[b, first + r] = _dot_groups(codes, scales, zeros, where[SIZE], x[b])


@njit(fastmath=SUMS)  # type: ignore[untyped-decorator]
def product(views: Views, where: Row, x: Array, y: Array, room: Room) -> None:
    """Write ``x · Wᵀ`` [B, N] to ``y`` for contiguous x [B, K]."""
    for block in range((where[ROWS] + where[BLOCK] - 1) // where[BLOCK]):
        product_block(views, where, block, x, y, room)


@njit(inline="always")  # type: ignore[untyped-decorator]
def _own(where: Row) -> Room:
    codes, groups = where[BLOCK] * where[COLUMNS], where[BLOCK] * max(where[GROUPS], 1)
    return Room(
        np.empty(codes, np.uint8), np.empty(codes, np.uint8), np.empty(where[COLUMNS], np.float32),
        np.empty(groups, np.float32), np.empty(groups, np.float32),
    )  # fmt: skip


@njit(parallel=True, fastmath=SUMS, cache=True)  # type: ignore[untyped-decorator]
def product_parallel(views: Views, where: Row, x: Array, y: Array) -> None:
    """Do the same as ``product`` on all cores."""
    for block in prange((where[ROWS] + where[BLOCK] - 1) // where[BLOCK]):
        product_block(views, where, block, x, y, _own(where))


@njit(parallel=True, fastmath=FAST, cache=True)  # type: ignore[untyped-decorator]
def read_all(views: Views, where: Row, out: Array) -> None:
    """Write all weights to ``out`` [N, K]."""
    for block in prange((where[ROWS] + where[BLOCK] - 1) // where[BLOCK]):
        own, first = _own(where), block * where[BLOCK]
        if where[KIND] == FLOAT32 or where[KIND] == FLOAT16:
            for row in range(first, min(first + where[BLOCK], where[ROWS])):
                read_row(views, where, row, own, out[row])
        else:
            rows = spread_block(views, where, block, own)
            for r in range(rows):
                _weights(where, r, own, out[first + r])


@njit(parallel=True, fastmath=FAST, cache=True)  # type: ignore[untyped-decorator]
def read_rows(views: Views, where: Row, rows: NDArray[np.int64], out: Array) -> None:
    """Write the weights of rows [R] to ``out`` [R, K]."""
    tasks = min(len(rows), 64)
    for task in prange(tasks):
        own = _own(where)
        for i in range(task * len(rows) // tasks, (task + 1) * len(rows) // tasks):
            read_row(views, where, rows[i], own, out[i])
