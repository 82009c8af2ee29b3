"""Packed weights in plain torch: the truth the fast kernels are compared with, by random access.

Bits lie as in the packed file: code i of a tensor, row-major, fills the bits [i b, (i + 1) b) of a
little-endian stream; ternary codes go five to a byte, ``Σ 3^k u[5k']``; see ``qslm_opt.quant.pack``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from qslm_opt.formats import CODES_PER_BYTE, FP16, FP32, Format, matrix_shape


class Packed(Protocol):
    """What the kernels read of a packed tensor."""

    @property
    def data(self) -> Tensor:
        """uint8 [bytes]: the stream of codes; the values themselves in a float format."""

    @property
    def scale(self) -> Tensor:
        """(rows, groups) float16 or float32 as stored; empty for ``sign``."""

    @property
    def zero(self) -> Tensor | None:
        """(rows, groups): whole for affine, float for offset; None without."""

    @property
    def fmt(self) -> Format:
        """Format of the codes."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight."""


@dataclass(frozen=True, eq=False)
class Floats:
    """A tensor that is stored as float16 or float32, as the kernels read it."""

    data: Tensor
    scale: Tensor
    fmt: Format
    shape: tuple[int, ...]
    zero: Tensor | None = None


def as_packed(tensor: Packed | Tensor) -> Packed:
    """Return a packed tensor as it is, and a float one as its bytes: float16 as such, others as float32."""
    if not isinstance(tensor, Tensor):
        return tensor
    half = tensor.dtype == torch.float16
    values = tensor.detach() if half else tensor.detach().float()
    data = values.contiguous().reshape(-1).view(torch.uint8)
    return Floats(data, data.new_empty(0, dtype=torch.float32), FP16 if half else FP32, tuple(tensor.shape))


def centre(fmt: Format) -> tuple[float, float]:
    """Return (z, f): a code stands for ``(u - z) f s`` where ``fmt`` stores no zero points."""
    if fmt.kind == "ternary":
        return 1.0, 1.0
    if fmt.kind == "sign" or (fmt.layout is not None and fmt.layout.symmetry == "midrise"):
        return (fmt.levels - 1) / 2, 2.0
    return (fmt.levels - 1) / 2, 1.0


def codes_at(data: Tensor, fmt: Format, index: Tensor) -> Tensor:
    """Return the codes u ≥ 0 (int64, shape of ``index``) at flat positions ``index`` of the stream."""
    if fmt.kind == "ternary":
        powers = torch.tensor((1, 3, 9, 27, 81), device=data.device)
        return data[index // CODES_PER_BYTE].long() // powers[index % CODES_PER_BYTE] % 3
    bits = int(fmt.bits)
    first, last = index * bits // 8, len(data) - 1
    spread = [data[(first + k).clamp(max=last)].long() << 8 * k for k in range(3)]
    return (spread[0] | spread[1] | spread[2]) >> index * bits % 8 & (1 << bits) - 1


def dequantize_rows(weight: Packed, rows: Tensor) -> Tensor:
    """Return the weights of some rows: float32 [*rows, K] for row numbers of any shape."""
    fmt = weight.fmt
    columns = matrix_shape(weight.shape)[1]
    if fmt.kind == "float":
        kind = torch.float16 if fmt.bits == 16 else torch.float32
        return weight.data.view(kind).reshape(-1, columns)[rows].float()
    column = torch.arange(columns, device=rows.device)
    codes = codes_at(weight.data, fmt, rows[..., None] * columns + column).float()
    zero, factor = centre(fmt)
    if fmt.layout is None:
        return (codes - zero) * factor
    size = fmt.layout.group_size if fmt.layout.granularity == "group" else columns
    place = rows.new_zeros(rows.shape) if fmt.layout.granularity == "tensor" else rows
    group = place[..., None], column // size
    if weight.zero is not None:
        return (codes - weight.zero.float()[group]) * weight.scale.float()[group]
    return (codes - zero) * (factor * weight.scale.float()[group])


def dequantize(weight: Packed) -> Tensor:
    """Return the float32 weights in the shape of the weight."""
    rows = matrix_shape(weight.shape)[0]
    return dequantize_rows(weight, torch.arange(rows, device=weight.data.device)).reshape(weight.shape)


def linear(x: Tensor, weight: Packed) -> Tensor:
    """Return ``x · weightᵀ`` [..., N] for x [..., K]."""
    return torch.nn.functional.linear(x, dequantize(weight))
