"""``rtn``: round to nearest (half to even), with the scale of the smallest grid that covers the range.

The range always includes 0, which therefore has an exact code, and no weight is moved by more than
half a step. Symmetric: s = max|w| / (2^(b-1) - 1), codes -(2^(b-1) - 1) … 2^(b-1) - 1. Affine:
s = (max - min) / (2^b - 1), zero point round(-min / s), codes 0 … 2^b - 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from qslm_opt.errors import NumericsError
from qslm_opt.quant.base import (
    FP16_MAX,
    QuantizedTensor,
    check_weights,
    int_layout,
    join_groups,
    register,
    split_groups,
)

if TYPE_CHECKING:
    from torch import Tensor

    from qslm_opt.formats import Format

_SMALLEST_FP16 = 2.0**-24
_SMALLEST_FP32 = 2.0**-126
"""Smallest normal float32: a scale below it may be flushed to 0. A range of 0 takes it too."""


class RoundToNearest:
    """Round to nearest over the range of each tensor, channel or group."""

    name = "rtn"

    def check(self, fmt: Format) -> None:
        """Accept every integer format."""
        int_layout(fmt)

    def quantize(self, weight: Tensor, fmt: Format) -> QuantizedTensor:
        """See Quantizer. NumericsError also when a range is too wide for a float16 scale."""
        layout = int_layout(fmt)
        lowest, highest = check_weights(weight, fmt)
        groups = split_groups(weight.detach().float(), layout)  # (rows, groups, size)
        low, high = groups.amin(-1).clamp(max=0.0), groups.amax(-1).clamp(min=0.0)
        top = 2 ** (fmt.bits - 1) - 1 if layout.symmetric else 2**fmt.bits - 1
        span = torch.maximum(-low, high).double() if layout.symmetric else high.double() - low.double()
        scale = _stored_scale(span / top, fmt)
        widest = max(-lowest, highest) if layout.symmetric else max(highest, 0.0) - min(lowest, 0.0)
        if widest / top > FP16_MAX:  # only then may a scale be too large, and a GPU is asked which is
            _check_scale(scale, float((span / top).max()), lowest, highest, fmt)
        codes, zero, shape = _steps(groups, scale), None, tuple(weight.shape)
        if layout.symmetric:
            codes.clamp_(-top, top)
        else:
            zero = -_steps(low[..., None], scale)[..., 0]  # (rows, groups)
            codes.add_(zero[..., None]).clamp_(0, top)
            zero = zero.to(torch.int32)
        return QuantizedTensor(join_groups(codes, shape).to(torch.int32), scale, zero, fmt, shape)


def _steps(groups: Tensor, scale: Tensor) -> Tensor:
    """Return the nearest whole number of steps, half to even, as float32."""
    return (groups / scale.float()[..., None]).round_()


def _stored_scale(exact: Tensor, fmt: Format) -> Tensor:
    """Return float64 scales in the precision in which ``fmt`` stores them.

    A float16 scale is the next one above, so that the grid still covers the range.
    """
    if fmt.scale_bytes == 4:
        return exact.float().clamp_(min=_SMALLEST_FP32)
    nearest = exact.clamp(min=_SMALLEST_FP16).half()
    below = (nearest.double() < exact).to(torch.int16)
    return (nearest.view(torch.int16) + below).view(torch.float16)  # adding 1 gives the next float16


def _check_scale(scale: Tensor, largest: float, low: float, high: float, fmt: Format) -> None:
    """Raise NumericsError with the tensor's range when a scale is too large for float16."""
    if bool(scale.isinf().any()):
        raise NumericsError(
            f"weights range from {low:g} to {high:g}; {fmt} needs a scale of "
            f"{largest:g}, above float16's 65504: use granularity tensor or more than 8 bits, "
            "whose scales are float32."
        )


register(RoundToNearest())
