"""``rtn``: round to nearest (half to even), with the scale that follows from the range of the weights.

The range always includes 0, and no weight is moved by more than half a step (of ``midrise`` a whole one,
whose steps are 2 s apart): symmetric s = max|w| / (2^(b-1) - 1); midrise s = max|w| / (2^b - 1); affine and
offset s = (max - min) / (2^b - 1) with the zero point -min / s, rounded for affine.

Formats of three levels and less would lose most weights that way. They take s = mean |w|, as BitNet b1.58
does: at 1 bit that is the scale of least squared error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from qslm_opt.quant.base import FP16_MAX, QuantizedTensor, check_weights, int_layout, register, split_groups
from qslm_opt.quant.grid import Grid, check_scale, made, stored_scale

if TYPE_CHECKING:
    from torch import Tensor

    from qslm_opt.formats import Format


class RoundToNearest:
    """Round to nearest over the range of each tensor, channel or group."""

    name = "rtn"

    def check(self, fmt: Format) -> None:
        """Accept every format with scales."""
        int_layout(fmt)

    def quantize(self, weight: Tensor, fmt: Format) -> QuantizedTensor:
        """See Quantizer. NumericsError also when a range is too wide for a float16 scale."""
        layout, grid = int_layout(fmt), Grid.of(fmt)
        lowest, highest = check_weights(weight, fmt)
        groups = split_groups(weight.detach().float(), layout)  # (rows, groups, size)
        low, high = groups.amin(-1).clamp(max=0.0), groups.amax(-1).clamp(min=0.0)
        exact = self._exact(groups, low, high, fmt, grid, matrix_columns(weight, fmt))
        scale = stored_scale(exact, fmt, cover=True)
        widest = max(highest, 0.0) - min(lowest, 0.0) if layout.has_zeros else max(-lowest, highest)
        if widest / grid.top > FP16_MAX:  # only then may a scale be too large, and a GPU is asked which is
            check_scale(scale, float(exact.max()), lowest, highest, fmt)
        return made(groups, grid, scale, zero_point(low, scale, fmt), fmt, tuple(weight.shape))

    def _exact(
        self, groups: Tensor, low: Tensor, high: Tensor, fmt: Format, grid: Grid, columns: Tensor | int
    ) -> Tensor:
        """Return the float64 scales, (rows, groups)."""
        if coarse(fmt):
            return groups.abs().double().sum(-1) / columns
        span = torch.maximum(-low, high).double()
        if fmt.layout is not None and fmt.layout.has_zeros:
            span = high.double() - low.double()
        return span / grid.top


def coarse(fmt: Format) -> bool:
    """Whether a format has so few levels that its scale cannot be that of the range."""
    return fmt.kind == "ternary" or fmt.bits == 1


def zero_point(low: Tensor, scale: Tensor, fmt: Format) -> Tensor | None:
    """Return the code of 0.0 for grids that begin at ``low`` (at most 0), as ``fmt`` stores it."""
    if fmt.layout is None or not fmt.layout.has_zeros:
        return None
    zero = -low / scale.float()
    return zero.round_() if fmt.layout.symmetry == "affine" else zero.to(scale.dtype)


def matrix_columns(weight: Tensor, fmt: Format) -> Tensor | int:
    """Return how many weights share each scale: a number, or (groups,) where the last group is short."""
    layout = int_layout(fmt)
    ones = torch.ones_like(weight[:1] if weight.dim() > 1 else weight)
    if layout.granularity == "tensor":
        return weight.numel()
    return split_groups(ones, layout).sum(-1)[0]


register(RoundToNearest())
