"""The grids of the formats: codes for given scales, scales as they are stored, and what a fit has lost.

All functions work on groups, float32 (rows, groups, size), with scales and zero points (rows, groups).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from qslm_opt.errors import NumericsError
from qslm_opt.quant.base import FP16_MAX, QuantizedTensor, join_groups

if TYPE_CHECKING:
    from torch import Tensor

    from qslm_opt.formats import Format

SMALLEST_FP16 = 2.0**-24
SMALLEST_FP32 = 2.0**-126
"""Smallest normal float32: a scale below it may be flushed to 0. A range of 0 takes it too."""


@dataclass(frozen=True)
class Grid:
    """The steps that the codes of a format stand for, in units of the scale."""

    low: int
    """Lowest code."""
    high: int
    factor: int = 1
    """A code c is the step ``factor * c + shift``, less the zero point."""
    shift: int = 0
    whole_zeros: bool = True
    """Whether zero points are whole, hence added to what was rounded: 0 keeps an exact code."""

    @classmethod
    def of(cls, fmt: Format) -> Grid:
        """Return the grid of a format with scales."""
        assert fmt.layout is not None
        if fmt.kind == "ternary":
            return cls(-1, 1)
        top = fmt.levels - 1
        if fmt.layout.symmetry == "midrise":
            return cls(0, top, 2, -top)
        if fmt.layout.symmetry == "symmetric":
            return cls(-(top // 2), top // 2)
        return cls(0, top, whole_zeros=fmt.layout.symmetry == "affine")

    @property
    def top(self) -> int:
        """The outermost step: what the largest weight is divided by to give the scale that covers it."""
        return self.factor * self.high + self.shift

    def codes(self, groups: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
        """Return the nearest codes, half to even, as whole float32 numbers."""
        steps = groups / scale.float()[..., None]
        if self.shift or self.factor != 1:
            steps.sub_(self.shift).div_(self.factor)
        if zero is not None and self.whole_zeros:
            return steps.round_().add_(zero.float()[..., None]).clamp_(self.low, self.high)
        if zero is not None:
            steps.add_(zero.float()[..., None])
        return steps.round_().clamp_(self.low, self.high)

    def steps(self, codes: Tensor, zero: Tensor | None = None) -> Tensor:
        """Return what ``codes`` stand for, in units of the scale."""
        steps = codes * self.factor + self.shift if self.shift or self.factor != 1 else codes
        return steps if zero is None else steps - zero.float()[..., None]


def stored_scale(exact: Tensor, fmt: Format, *, cover: bool) -> Tensor:
    """Return float64 scales in the precision in which ``fmt`` stores them.

    With ``cover`` a float16 scale is the next one above, so that a grid still covers its range; without, the
    nearest.
    """
    if fmt.scale_bytes == 4:
        return exact.float().clamp_(min=SMALLEST_FP32)
    nearest = exact.clamp(min=SMALLEST_FP16).half()
    if not cover:
        return nearest.clamp_(max=FP16_MAX)
    below = (nearest.double() < exact).to(torch.int16)
    return (nearest.view(torch.int16) + below).view(torch.float16)  # adding 1 gives the next float16


def check_scale(scale: Tensor, largest: float, low: float, high: float, fmt: Format) -> None:
    """Raise NumericsError with the tensor's range when a scale is too large for float16."""
    if bool(scale.isinf().any()):
        raise NumericsError(
            f"weights range from {low:g} to {high:g}; {fmt} needs a scale of "
            f"{largest:g}, above float16's 65504: use granularity tensor or more than 8 bits, "
            "whose scales are float32."
        )


def losses(
    groups: Tensor, grid: Grid, scale: Tensor, zero: Tensor | None, inside: Tensor | None = None
) -> Tensor:
    """Return the least summed squared error of each group, float32 (rows, groups); see ``inside_groups``."""
    back = grid.steps(grid.codes(groups, scale, zero), zero) * scale.float()[..., None]
    error = (groups - back).square_()
    return (error if inside is None else error.mul_(inside)).sum(-1)


def made(
    groups: Tensor, grid: Grid, scale: Tensor, zero: Tensor | None, fmt: Format, shape: tuple[int, ...]
) -> QuantizedTensor:
    """Return the nearest codes for ``scale`` and ``zero`` as a quantized tensor of ``shape``."""
    codes = join_groups(grid.codes(groups, scale, zero), shape).to(torch.int32)
    if zero is not None and fmt.layout is not None and fmt.layout.symmetry == "affine":
        zero = zero.to(torch.int32)
    return QuantizedTensor(codes, scale, zero, fmt, shape)
