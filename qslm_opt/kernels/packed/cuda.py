"""Products with packed weights on a CUDA device: codes go from the file's own bit stream into registers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from qslm_opt.formats import matrix_shape
from qslm_opt.kernels.cuda import triton_ops
from qslm_opt.kernels.packed.reference import as_packed, centre

if TYPE_CHECKING:
    from qslm_opt.formats import Format
    from qslm_opt.kernels.ops import Ops, Weight
    from qslm_opt.kernels.packed.reference import Packed
    from qslm_opt.kernels.products import Current, Precision

FEW_ROWS = 8
"""Rows of float32 activations up to which codes are multiplied as they are."""
_TERNARY, _FLOAT = 0, 32
"""What stands for the bits of formats without a whole number of them."""
_ONE, _ROW, _GROUP = range(3)
"""What shares a scale: the tensor, a row, a group of a row."""
_COLUMNS = 256
"""Columns that a program holds at once."""


@triton.jit  # type: ignore[untyped-decorator]
def _codes(data, total, row, column, columns, inside, BITS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return the codes at (row, column) as float32; float weights as they are."""
    before = row.to(tl.int64) * columns
    if BITS == 32:
        code = tl.load(data + before + column, mask=inside, other=0.0)
    elif BITS == 0:
        place = (before % 5).to(tl.int32) + column
        byte = tl.load(data + before // 5 + place // 5, mask=inside, other=0).to(tl.int32)
        digit = place % 5
        power = tl.where(digit == 0, 1, tl.where(digit == 1, 3, tl.where(digit == 2, 9, 27)))
        power = tl.where(digit == 4, 81, power)
        code = byte // power % 3
    else:
        bit = ((before * BITS) % 8).to(tl.int32) + column * BITS
        first = (before * BITS) // 8 + bit // 8
        code = tl.load(data + first, mask=inside, other=0).to(tl.int32)
        if 8 % BITS != 0:
            code |= tl.load(data + first + 1, mask=inside & (first + 1 < total), other=0).to(tl.int32) << 8
        if BITS > 9:
            code |= tl.load(data + first + 2, mask=inside & (first + 2 < total), other=0).to(tl.int32) << 16
        code = (code >> (bit % 8)) & ((1 << BITS) - 1)
    return code.to(tl.float32)


@triton.jit  # type: ignore[untyped-decorator]
def _shared(values, row, column, groups, size, inside, SHARED: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return the scale or zero point at (row, column) as float32."""
    if SHARED == 0:
        found = tl.load(values)
    elif SHARED == 1:
        found = tl.load(values + row, mask=inside, other=0)
    else:
        found = tl.load(values + row * groups + column // size, mask=inside, other=0)
    return found.to(tl.float32)


@triton.jit  # type: ignore[untyped-decorator]
def _steps(  # type: ignore[no-untyped-def]
    data, zero, total, row, column, columns, groups, size, inside, centre, factor,
    BITS: tl.constexpr, SHARED: tl.constexpr, ZEROS: tl.constexpr,
):  # fmt: skip
    """Return the weights at (row, column) in units of their scales."""
    code = _codes(data, total, row, column, columns, inside, BITS)
    if ZEROS:
        code = code - _shared(zero, row, column, groups, size, inside, SHARED)
    elif BITS != 32:
        code = (code - centre) * factor
    return code


@triton.jit  # type: ignore[untyped-decorator]
def _product(  # type: ignore[no-untyped-def]
    data, scale, zero, x, y, total, rows, columns, groups, size, centre, factor,
    BITS: tl.constexpr, SHARED: tl.constexpr, ZEROS: tl.constexpr, SCALED: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    which = tl.program_id(1)
    sums = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, columns, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        inside = (row[:, None] < rows) & (column[None, :] < columns)
        here = row[:, None] + 0 * column[None, :]
        weight = _steps(
            data, zero, total, here, column[None, :], columns, groups, size, inside, centre, factor,
            BITS, SHARED, ZEROS,
        )  # fmt: skip
        if SCALED and SHARED == 2:
            weight = weight * _shared(scale, here, column[None, :], groups, size, inside, SHARED)
        value = tl.load(x + which * columns + column, mask=column < columns, other=0.0)
        sums += tl.where(inside, weight * value[None, :], 0.0)
    found = tl.sum(sums, 1)
    if SCALED and SHARED != 2:
        found = found * _shared(scale, row, row, groups, size, row < rows, SHARED)
    tl.store(y + which * rows + row, found, mask=row < rows)


@triton.jit  # type: ignore[untyped-decorator]
def _read(  # type: ignore[no-untyped-def]
    data, scale, zero, ids, out, total, columns, groups, size, centre, factor,
    BITS: tl.constexpr, SHARED: tl.constexpr, ZEROS: tl.constexpr, SCALED: tl.constexpr,
    CHOSEN: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    place = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < columns
    row = tl.zeros((COLUMNS,), tl.int64) + place
    if CHOSEN:
        row = tl.zeros((COLUMNS,), tl.int64) + tl.load(ids + place).to(tl.int64)
    weight = _steps(
        data, zero, total, row, column, columns, groups, size, inside, centre, factor, BITS, SHARED, ZEROS
    )
    if SCALED:
        weight = weight * _shared(scale, row, column, groups, size, inside, SHARED)
    tl.store(out + place * columns + column, weight, mask=inside)


@dataclass(frozen=True, eq=False)
class CudaWeight:
    """A packed tensor on a CUDA device, byte for byte as the file has it."""

    data: Tensor
    scale: Tensor
    zero: Tensor | None
    fmt: Format
    shape: tuple[int, ...]

    @classmethod
    def of(cls, tensor: Packed | Tensor, device: torch.device) -> CudaWeight:
        """Copy a packed or float tensor to a device."""
        packed = as_packed(tensor)
        data = packed.data.to(device)
        if packed.fmt.kind == "float":
            data = data.view(torch.float16 if packed.fmt.bits == 16 else torch.float32)
        zero = packed.zero
        if zero is not None and zero.dtype == torch.uint16:
            signed = zero.view(torch.int16)
            zero = zero.to(torch.int32) if bool((signed < 0).any()) else signed
        return cls(
            data, packed.scale.to(device), None if zero is None else zero.to(device), packed.fmt, packed.shape
        )

    @property
    def held_bytes(self) -> int:
        """Bytes on the device."""
        parts = (self.data, self.scale, self.zero)
        return sum(part.numel() * part.element_size() for part in parts if part is not None)

    @property
    def _bits(self) -> int:
        kinds = {"ternary": _TERNARY, "float": _FLOAT}
        return kinds.get(self.fmt.kind, int(self.fmt.bits))

    @property
    def _sharing(self) -> int:
        layout = self.fmt.layout
        if layout is None or layout.granularity == "tensor":
            return _ONE
        return _ROW if layout.granularity == "channel" else _GROUP

    def _grouping(self) -> tuple[int, int]:
        columns = matrix_shape(self.shape)[1]
        layout = self.fmt.layout
        size = layout.group_size if layout is not None and self._sharing == _GROUP else columns
        return -(-columns // size), size

    def product(self, x: Tensor) -> Tensor:
        """Return ``x · weightᵀ`` [..., N] for x [..., K] float32."""
        rows, columns = matrix_shape(self.shape)
        flat = x.reshape(-1, columns).contiguous()
        y = flat.new_empty(len(flat), rows)
        at_once = 4 if rows <= 4096 else 16
        with torch.cuda.device(x.device):
            _product[triton.cdiv(rows, at_once), len(flat)](
                self.data, self.scale, self.zero, flat, y, self.data.numel(), rows, columns,
                *self._grouping(), *centre(self.fmt), BITS=self._bits, SHARED=self._sharing,
                ZEROS=self.zero is not None, SCALED=self.fmt.layout is not None,
                ROWS=at_once, COLUMNS=_COLUMNS, num_warps=4,
            )  # fmt: skip
        return y.reshape(*x.shape[:-1], rows)

    def rows(self, ids: Tensor) -> Tensor:
        """Return the weights of some rows: float32 [*ids, K]."""
        columns = matrix_shape(self.shape)[1]
        flat = ids.reshape(-1).contiguous()
        return self._read(flat, scaled=True).reshape(*ids.shape, columns)

    def whole(self) -> Tensor:
        """Return the float32 weights [N, K]."""
        return self._read(None, scaled=True)

    def vector(self) -> Tensor:
        """Return the float32 weights, flat."""
        return self.data.float() if self.fmt.kind == "float" else self.whole().reshape(-1)

    def factors(self) -> tuple[Tensor, Tensor | None]:
        """Return (values, scale) [N, K] and [N] or None, as ``QuantizedTensor.factors`` does."""
        layout = self.fmt.layout
        if layout is None or self._sharing == _GROUP or layout.symmetry == "offset":
            return self.whole(), None
        rows = matrix_shape(self.shape)[0]
        return self._read(None, scaled=False), self.scale.float().flatten().expand(rows)

    def _read(self, ids: Tensor | None, *, scaled: bool) -> Tensor:
        rows, columns = matrix_shape(self.shape)
        count = rows if ids is None else len(ids)
        out = torch.empty(count, columns, device=self.data.device)
        with torch.cuda.device(self.data.device):
            _read[count, triton.cdiv(columns, _COLUMNS)](
                self.data, self.scale, self.zero, ids, out, self.data.numel(), columns,
                *self._grouping(), *centre(self.fmt), BITS=self._bits, SHARED=self._sharing,
                ZEROS=self.zero is not None, SCALED=scaled and self.fmt.layout is not None,
                CHOSEN=ids is not None, COLUMNS=_COLUMNS, num_warps=2, enable_fp_fusion=False,
            )  # fmt: skip
        return out


def packed_triton_ops(precision: Precision) -> Ops:
    """Return the Triton version over weights that stay packed.

    Large products dequantize a matrix and go on as the plain version does, bit for bit; few rows of float32
    activations are multiplied by the codes.
    """
    base = triton_ops(precision)
    assert base.weight is not None
    make = base.weight

    def product(x: Tensor, weight: Weight) -> Current:
        if not isinstance(weight, CudaWeight):
            return base.linear(x, weight)
        if precision == "fp32" and x.numel() // x.shape[-1] <= FEW_ROWS:
            return weight.product(x)
        return base.linear(x, make(*weight.factors(), head=False))

    def nll(h: Tensor, weight: Weight, targets: Tensor) -> Tensor:
        if isinstance(weight, CudaWeight):
            weight = make(*weight.factors(), head=True)
        return base.nll(h, weight, targets)

    return replace(base, name="triton-packed", linear=product, nll=nll)
