"""``mse``: the scale of each tensor, channel or group that gives the least squared error of the weights.

Outliers may be clipped. The range of ``rtn`` is shrunk in ``SHRINKS`` steps; from the best of them scale and
codes are improved in turn: for given codes of steps v the best scale is Σ w v / Σ v², for a given scale the
best codes are the nearest. The error never rises, and never exceeds that of ``rtn``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from qslm_opt.quant.base import QuantizedTensor, inside_groups, int_layout, quantize, register, split_groups
from qslm_opt.quant.grid import SMALLEST_FP32, Grid, losses, made, stored_scale
from qslm_opt.quant.rtn import coarse, zero_point

if TYPE_CHECKING:
    from torch import Tensor

    from qslm_opt.formats import Format

SHRINKS = 40
SMALLEST_SHARE = 0.3
"""Least share of the range that is tried; grids of few levels start from a tenth of it."""
ROUNDS = 10


@dataclass
class Fit:
    """The best scales and zero points so far, with the squared error of each group, (rows, groups)."""

    scale: Tensor
    zero: Tensor | None
    loss: Tensor

    def offer(self, scale: Tensor, zero: Tensor | None, loss: Tensor) -> None:
        """Take what is better, group by group."""
        better = loss < self.loss
        self.loss = torch.where(better, loss, self.loss)
        self.scale = torch.where(better, scale, self.scale)
        if self.zero is not None and zero is not None:
            self.zero = torch.where(better, zero, self.zero)


class LeastSquares:
    """Clip each group where its squared error is least."""

    name = "mse"

    def check(self, fmt: Format) -> None:
        """Accept every format with scales."""
        int_layout(fmt)

    def quantize(self, weight: Tensor, fmt: Format) -> QuantizedTensor:
        """See Quantizer."""
        start = quantize(weight, fmt, "rtn")
        groups = split_groups(weight.detach().float(), int_layout(fmt))
        fit = fitted(groups, start, fmt, inside_groups(weight, int_layout(fmt)))
        return made(groups, Grid.of(fmt), fit.scale, fit.zero, fmt, tuple(weight.shape))


def fitted(groups: Tensor, start: QuantizedTensor, fmt: Format, inside: Tensor | None) -> Fit:
    """Return the best fit found from the scales of ``start``; see ``inside_groups``."""
    grid = Grid.of(fmt)
    fit = _first(groups, grid, start, inside)
    low, high = groups.amin(-1).clamp(max=0.0), groups.amax(-1).clamp(min=0.0)
    widest = high - low if start.zero is not None else torch.maximum(-low, high)
    least = SMALLEST_SHARE / 10 if coarse(fmt) or fmt.levels <= 4 else SMALLEST_SHARE
    for share in torch.linspace(1.0, least, SHRINKS).tolist():
        scale = stored_scale(widest.double() * share / grid.top, fmt, cover=False)
        zero = zero_point(low * share, scale, fmt)
        fit.offer(scale, zero, losses(groups, grid, scale, zero, inside))
    return refined(groups, grid, fit, fmt, inside)


def refined(groups: Tensor, grid: Grid, fit: Fit, fmt: Format, inside: Tensor | None) -> Fit:
    """Improve scale and codes in turn, for as long as any group gets better."""
    for _ in range(ROUNDS):
        before = fit.loss
        steps = grid.steps(grid.codes(groups, fit.scale, fit.zero), fit.zero)
        steps = steps if inside is None else steps * inside
        square = steps.square().sum(-1)
        best = (groups * steps).sum(-1) / square.clamp(min=SMALLEST_FP32)
        scale = stored_scale(best.double().clamp(min=0.0), fmt, cover=False)
        scale = torch.where(square > 0, scale, fit.scale)
        fit.offer(scale, fit.zero, losses(groups, grid, scale, fit.zero, inside))
        if torch.equal(before, fit.loss):
            break
    return fit


def _first(groups: Tensor, grid: Grid, start: QuantizedTensor, inside: Tensor | None) -> Fit:
    zero = start.zero
    if zero is not None and grid.whole_zeros:
        zero = zero.float()
    return Fit(start.scale, zero, losses(groups, grid, start.scale, zero, inside))


register(LeastSquares())
