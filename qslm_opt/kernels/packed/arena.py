"""All weights of a model in one piece of memory, in the order in which vector instructions read codes.

The codes of a block of rows are one run, cut into planes of 8, 4, 2 or 1 bits, the low bits first: 3 bits
are a plane of 2 and one of 1. Byte j of a plane of b bits that is W bytes wide holds the bits of codes j,
j + W, j + 2W, … so that one shift and one mask give neighbours. Ternary codes go five to a byte as the
fraction ``⌈256 (81 u₀ + 27 u₁ + 9 u₂ + 3 u₃ + u₄) / 243⌉``, whose digits come out from the top by multiplying
by 3. Planes begin on a whole byte; everything else is as in the file: the same codes, scales, zero points.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qslm_opt.errors import NumericsError
from qslm_opt.formats import CODES_PER_BYTE, Format, matrix_shape
from qslm_opt.kernels.packed.reference import Packed, as_packed, centre, codes_at

FLOAT32, FLOAT16, INTS, TERNARY = range(4)
"""Kinds of stored values."""
KIND, AT, ROWS, COLUMNS, BITS, BLOCK, STRIDE, GROUPS, SIZE = range(9)
SCALE_AT, SCALE_BYTES, ZERO_AT, ZERO_KIND, CENTRE, FACTOR, FIELDS = range(9, 16)
"""Columns of the table: places are in bytes, BLOCK in rows, CENTRE in halves; STRIDE in bytes of a block, of
floats of a row."""
RUN = 32768
"""Codes of a block, at least one row: spread at once, they stay in the caches of a core."""
ZERO_NONE, ZERO_UINT8, ZERO_UINT16, ZERO_HALF, ZERO_FLOAT = range(5)
_ALIGN = 4
_AT_ONCE = 2**18
"""Codes that are taken apart at once, at least a block: what is needed while a model is laid out."""

Bytes = NDArray[np.uint8]
Codes = NDArray[np.int32]
Table = NDArray[np.int64]
Views = tuple[Bytes, NDArray[np.uint16], NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Arena:
    """Weights of a model on the CPU: bytes, and a table that says where each tensor lies."""

    memory: Bytes
    table: Table
    """[tensors, FIELDS]"""
    index: Mapping[str, int]
    """Name → row of the table."""
    shapes: Mapping[str, tuple[int, ...]]

    @property
    def views(self) -> Views:
        """The memory as bytes, as float16's bits and as float32."""
        return self.memory, self.memory.view(np.uint16), self.memory.view(np.float32)

    @property
    def held_bytes(self) -> int:
        """Bytes that the weights take, their table included."""
        return self.memory.nbytes + self.table.nbytes


def planes(bits: int) -> list[int]:
    """Return the widths of the planes of a code of 1 to 16 bits, low bits first."""
    rest = bits - 8 if bits > 8 else bits
    return [8] * (bits > 8) + [width for width in (8, 4, 2, 1) if rest & width]


def build_arena(tensors: Mapping[str, Packed | Tensor], alone: Collection[str] = ()) -> Arena:
    """Lay packed and float tensors out, one after the other; those that are one object are held once.

    The rows of those named in ``alone`` are read one by one, and are blocks of their own.
    """
    pieces: list[Bytes] = []
    rows: list[list[int]] = []
    index: dict[str, int] = {}
    seen: dict[int, int] = {}
    at = 0
    for name, tensor in tensors.items():
        if id(tensor) not in seen:
            parts, row = _lay_out(as_packed(tensor), at, alone=name in alone)
            seen[id(tensor)] = len(rows)
            rows.append(row)
            pieces += parts
            at += sum(len(part) for part in parts)
        index[name] = seen[id(tensor)]
    memory = np.concatenate(pieces) if pieces else np.zeros(0, np.uint8)
    table = np.array(rows, np.int64).reshape(-1, FIELDS)
    return Arena(memory, table, index, {name: tuple(t.shape) for name, t in tensors.items()})


def _lay_out(tensor: Packed, at: int, *, alone: bool) -> tuple[list[Bytes], list[int]]:
    """Return a tensor's bytes, each piece padded to ``_ALIGN``, and its row of the table."""
    fmt = tensor.fmt
    count, columns = matrix_shape(tensor.shape)
    zero, factor = centre(fmt)
    block = 1 if alone else max(1, RUN // max(columns, 1))
    kind, data, stride = _values(tensor, count, columns, block)
    scale, zeros, zero_kind = _scales(tensor)
    parts = [_padded(piece) for piece in (data, scale, zeros)]
    places = np.cumsum([at, *(len(part) for part in parts)])
    groups, size = _grouping(fmt, columns)
    row = [
        kind, int(places[0]), count, columns, int(fmt.bits) if kind == INTS else 0,
        block, stride, groups, size,
        int(places[1]), fmt.scale_bytes, int(places[2]), zero_kind, int(2 * zero), int(factor),
    ]  # fmt: skip
    return parts, row


def _grouping(fmt: Format, columns: int) -> tuple[int, int]:
    """Return (groups a row, columns a group); no group where one scale is everybody's."""
    if fmt.layout is None or fmt.layout.granularity == "tensor":
        return 0, columns
    if fmt.layout.granularity == "channel":
        return 1, columns
    return -(-columns // fmt.layout.group_size), fmt.layout.group_size


def _values(tensor: Packed, rows: int, columns: int, block: int) -> tuple[int, Bytes, int]:
    """Return the kind, the bytes of all values, and those of a block, of floats of a row."""
    fmt = tensor.fmt
    if fmt.kind == "float":
        kind, size = (FLOAT16, 2) if fmt.bits == 16 else (FLOAT32, 4)
        return kind, tensor.data.reshape(-1).view(torch.uint8).numpy(), size * columns
    stride = len(_run(np.zeros((1, block * columns), np.int32), fmt).reshape(-1))
    at_once = block * max(1, _AT_ONCE // (block * columns))
    parts = []
    for first in range(0, rows, at_once):
        index = torch.arange(first * columns, min(first + at_once, rows) * columns)
        codes = codes_at(tensor.data, fmt, index).to(torch.int32).numpy()
        whole = len(codes) // (block * columns) * block * columns
        parts.append(_run(codes[:whole].reshape(-1, block * columns), fmt).reshape(-1))
        if whole < len(codes):
            parts.append(_run(codes[whole:].reshape(1, -1), fmt).reshape(-1))
    return (TERNARY if fmt.kind == "ternary" else INTS), np.concatenate(parts), stride


def _run(codes: Codes, fmt: Format) -> Bytes:
    """Return [blocks, bytes of a block] of codes [blocks, codes of a block]."""
    return _ternary(codes) if fmt.kind == "ternary" else _in_planes(codes, int(fmt.bits))


def _in_planes(codes: Codes, bits: int) -> Bytes:
    found, shift = [], 0
    for width in planes(bits):
        per = 8 // width
        part = _strided((codes >> shift & (1 << width) - 1).astype(np.uint8), per)
        found.append((part << (width * np.arange(per, dtype=np.uint8))[:, None]).sum(axis=1, dtype=np.uint8))
        shift += width
    return np.concatenate(found, axis=1)


def _ternary(codes: Codes) -> Bytes:
    digits = _strided(codes.astype(np.uint16), CODES_PER_BYTE)
    value = (digits * np.array([81, 27, 9, 3, 1], np.uint16)[:, None]).sum(axis=1, dtype=np.uint16)
    fraction: NDArray[np.int32] = (256 * value.astype(np.int32) + 242) // 243
    return fraction.astype(np.uint8)


def _strided(codes: NDArray[Any], per: int) -> NDArray[Any]:
    """Return codes [blocks, n] as [blocks, per, W], zeros behind the last."""
    blocks, count = codes.shape
    wide = -(-count // per)
    return np.pad(codes, ((0, 0), (0, per * wide - count))).reshape(blocks, per, wide)


def _scales(tensor: Packed) -> tuple[Bytes, Bytes, int]:
    none = np.zeros(0, np.uint8)
    if tensor.fmt.layout is None:
        return none, none, ZERO_NONE
    scale = _bytes(tensor.scale.to(torch.float16 if tensor.fmt.scale_bytes == 2 else torch.float32))
    if tensor.zero is None:
        return scale, none, ZERO_NONE
    if tensor.fmt.layout.symmetry == "offset":
        half = tensor.fmt.zero_bytes == 2
        zero = tensor.zero.to(torch.float16 if half else torch.float32)
        return scale, _bytes(zero), ZERO_HALF if half else ZERO_FLOAT
    zero, most = tensor.zero.long(), 256 ** tensor.fmt.zero_bytes - 1
    if zero.numel() and not (int(zero.min()) >= 0 and int(zero.max()) <= most):
        raise NumericsError(
            f"zero points from {int(zero.min())} to {int(zero.max())} do not fit {tensor.fmt}, which has 0 "
            f"to {most}; quantize the weights again."
        )
    narrow = tensor.fmt.zero_bytes == 1
    found = zero.numpy().astype(np.uint8 if narrow else np.uint16).reshape(-1)
    return scale, found.view(np.uint8), ZERO_UINT8 if narrow else ZERO_UINT16


def _bytes(values: Tensor) -> Bytes:
    return values.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def _padded(piece: Bytes) -> Bytes:
    return np.pad(piece, (0, -len(piece) % _ALIGN))
