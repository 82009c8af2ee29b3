"""``paper``: the QSLM authors' quantizer, faults included, for parity with their numbers.

Per tensor, affine, over [min, max] without extending it to 0: s = (max - min) / (2^b - 1),
z = clamp(round(qmin - min / s), qmin, qmax) with qmin = -2^(b-1), qmax = 2^(b-1) - 1; codes are
``torch.quantize_per_tensor``'s, clipped at the limits of its container, not of b bits: qint8 up to
8 bits, qint32 above.

* The clamped zero point puts 0 at the end of the range of a tensor of one sign (LayerNorm, time_*), and
  the container saturates it: at 8 bits nothing beyond max - min can be represented, at 6 bits nothing
  beyond 2.5 times that, at 4 bits 9 times. Above 8 bits nothing is clipped.
* At other widths than 8 the codes of such a tensor need more than b bits; its packed bytes are those of
  the authors' claim, not of a file that could exist.

The arithmetic is written out because PyTorch deprecates its own; equal to it on every code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from qslm_opt.errors import SettingError
from qslm_opt.formats import Layout
from qslm_opt.quant.base import QuantizedTensor, check_weights, int_layout, register

if TYPE_CHECKING:
    from torch import Tensor

    from qslm_opt.formats import Format

LAYOUT = Layout("tensor")
"""tensor/affine, the only layout the authors used."""
_QINT8 = (-128.0, 127.0)
_QINT32 = (-(2.0**31) + 2.0**16, 2.0**31 - 2.0**16)
"""The int32 container less the room that subtracting a zero point needs."""
_SMALLEST_SCALE = 2.0**-126


class PaperQuantizer:
    """The authors' per-tensor affine quantizer."""

    name = "paper"

    def check(self, fmt: Format) -> None:
        """Accept integer formats of layout tensor/affine only."""
        layout = int_layout(fmt)
        if layout != LAYOUT:
            raise SettingError(
                f"quantizer 'paper' has no format {fmt}; write int{fmt.bits}/tensor/affine "
                f"(layout tensor/affine), or use quantizer 'rtn' for layout {layout}."
            )

    def quantize(self, weight: Tensor, fmt: Format) -> QuantizedTensor:
        """See Quantizer. A constant tensor is kept exactly."""
        self.check(fmt)
        check_weights(weight, fmt)
        values = weight.detach().float()
        bits = int(fmt.bits)
        scale, zero = _scale_and_zero(values, bits)
        codes = _codes(values, scale, zero, bits)
        one = (1, 1)
        return QuantizedTensor(codes, scale.reshape(one), zero.int().reshape(one), fmt, tuple(weight.shape))


def _scale_and_zero(values: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Return the float32 scale and the whole, clamped zero point of a tensor, both scalars."""
    qmin, qmax = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    low, high = torch.aminmax(values)
    if bool(low == high):
        scale = low.abs() if bool(low != 0) else torch.ones_like(low)
        return scale, torch.zeros_like(low)
    scale = ((high - low) / (qmax - qmin)).clamp(min=_SMALLEST_SCALE)
    return scale, (qmin - low / scale).round().clamp(qmin, qmax)


def _codes(values: Tensor, scale: Tensor, zero: Tensor, bits: int) -> Tensor:
    """Return round(values / scale + zero), rounded as the container's kernel does.

    qint8 kernels use one fused multiply-add (here through float64), qint32 kernels round twice.
    """
    inverse = 1.0 / scale
    if bits <= 8:
        codes = values.double().mul_(inverse.double()).add_(zero.double()).float().round_()
        return codes.clamp_(*_QINT8).to(torch.int32)
    codes = (values * inverse).add_(zero).round_()
    return codes.double().clamp_(*_QINT32).to(torch.int32)


register(PaperQuantizer())
