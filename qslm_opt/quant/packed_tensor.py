"""One tensor as a packed file holds it: bytes of codes, and scales and zero points in the stored types."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import torch

from qslm_opt.errors import SettingError
from qslm_opt.formats import Format, matrix_shape
from qslm_opt.quant.base import QuantizedTensor
from qslm_opt.quant.pack import pack_codes, unpack_codes

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class PackedTensor:
    """A quantized tensor in exactly the bytes that ``Format.packed_bytes`` counts, on the CPU."""

    data: Tensor
    """uint8 [code bytes]: the stream of ``pack_codes``."""
    scale: Tensor
    """(rows, groups) in float16 or float32, as stored. Empty for ``sign``."""
    zero: Tensor | None
    """(rows, groups): of affine uint8 up to 8 bits and uint16 above, of offset as ``scale``; None without."""
    fmt: Format
    shape: tuple[int, ...]

    @classmethod
    def of(cls, quantized: QuantizedTensor) -> PackedTensor:
        """Pack codes; raise SettingError for codes that the format's bits cannot hold.

        Affine codes that begin at -2^(b-1) are moved to begin at 0, and their zero points with them.
        """
        codes, zero, fmt = quantized.codes.detach().cpu(), quantized.zero, quantized.fmt
        if zero is not None and fmt.layout is not None and fmt.layout.symmetry == "affine":
            zero = zero.detach().cpu().int()
            if min(int(codes.min()), int(zero.min())) < 0:
                codes, zero = codes + _half(fmt), zero + _half(fmt)
            zero = _whole_zero(zero, fmt)
        elif zero is not None:
            zero = zero.detach().cpu().contiguous()
        scale = quantized.scale.detach().cpu().contiguous()
        return cls(pack_codes(codes, fmt), scale, zero, fmt, quantized.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales and zero points."""
        parts = (self.data, self.scale, self.zero)
        return sum(part.numel() * part.element_size() for part in parts if part is not None)

    def quantized(self) -> QuantizedTensor:
        """Return the codes, scales and zero points to compute with."""
        codes = unpack_codes(self.data, self.fmt, prod(self.shape)).reshape(self.shape)
        zero = self.zero
        if zero is not None and not zero.is_floating_point():
            zero = zero.to(torch.int32)
        return QuantizedTensor(codes, self.scale, zero, self.fmt, self.shape)

    def dequantize(self) -> Tensor:
        """Return the float32 weights in ``shape``: bit for bit what the codes were packed from stand for."""
        return self.quantized().dequantize()


def scale_type(fmt: Format) -> torch.dtype:
    """Return the type of stored scales, float32 for formats without any."""
    return torch.float16 if fmt.scale_bytes == 2 else torch.float32


def zero_type(fmt: Format) -> torch.dtype | None:
    """Return the type of stored zero points; None for formats without any."""
    if not fmt.zero_bytes or fmt.layout is None:
        return None
    if fmt.layout.symmetry == "offset":
        return scale_type(fmt)
    return torch.uint8 if fmt.zero_bytes == 1 else torch.uint16


def scale_shape(fmt: Format, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return (rows, groups) of the stored scales; (0,) for formats without any."""
    if fmt.layout is None:
        return (0,)
    rows = 1 if fmt.layout.granularity == "tensor" else matrix_shape(shape)[0]
    return rows, fmt.scales(shape) // rows


def _half(fmt: Format) -> int:
    return 1 << (int(fmt.bits) - 1)


def _whole_zero(zero: Tensor, fmt: Format) -> Tensor:
    """Return whole zero points in the bytes they are stored in."""
    kind = zero_type(fmt)
    assert kind is not None
    most = (1 << 8 * fmt.zero_bytes) - 1
    low, high = int(zero.min()), int(zero.max())
    if low < 0 or high > most:
        raise SettingError(
            f"zero points from {low} to {high} do not fit the {fmt.zero_bytes} bytes that {fmt} stores "
            f"(0 to {most}); quantize the weights again."
        )
    return zero.contiguous().to(kind)
