"""A quantized matrix in training: float weights behind its codes, and its scales."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from qslm_opt.quant.base import QuantizedTensor, int_layout, join_groups, split_groups
from qslm_opt.quant.grid import Grid, stored_scale

if TYPE_CHECKING:
    from torch import Tensor

    from qslm_opt.formats import Format

_INSIDE = 0.95
"""A weight starts at most this share of half a step from its code: the first codes are the quantizer's."""


class Latent:
    """Weights w/s in units of their scales and the logarithm of how scales have changed; both learn.

    The value is that of the nearest codes; its gradient passes to w as if nothing had been rounded (the
    straight-through estimator, Bengio et al. 2013), but not where w lies beyond the grid.
    """

    def __init__(self, weight: Tensor, start: QuantizedTensor) -> None:
        """Begin with the codes and scales of ``start``, a quantization of ``weight``."""
        layout = int_layout(start.fmt)
        self.fmt, self.shape, self._grid = start.fmt, start.shape, Grid.of(start.fmt)
        self._start = start
        self._scale = start.scale.to(weight.device, torch.float32)  # (rows, groups)
        self._zero = None if start.zero is None else start.zero.to(weight.device, torch.float32)
        groups = split_groups(weight.detach().float(), layout)
        codes = self._grid.steps(split_groups(start.codes.to(weight.device).float(), layout), self._zero)
        half = self._grid.factor / 2
        near = _INSIDE * half
        steps = (groups / self._scale[..., None]).clamp(min=codes - near, max=codes + near)
        self.steps = steps.requires_grad_()  # (rows, groups, size)
        self.growth = torch.zeros_like(self._scale).requires_grad_()
        ends = torch.zeros_like(self._scale)[..., None]
        self._low = self._grid.steps(ends + self._grid.low, self._zero) - half
        self._high = self._grid.steps(ends + self._grid.high, self._zero) + half

    def _codes(self, steps: Tensor) -> Tensor:
        return self._grid.codes(steps, torch.ones_like(self._scale), self._zero)

    def value(self) -> Tensor:
        """Return the weights that the model computes with, in the matrix's shape."""
        inside = torch.minimum(torch.maximum(self.steps, self._low), self._high)
        with torch.no_grad():
            rounded = self._grid.steps(self._codes(inside), self._zero)
        steps = inside + (rounded - inside).detach()
        return join_groups(steps * (self._scale * self.growth.exp())[..., None], self.shape)

    def quantized(self) -> QuantizedTensor:
        """Return codes and scales as they are stored."""
        with torch.no_grad():
            codes = join_groups(self._codes(self.steps), self.shape).to(torch.int32)
            exact = self._scale.double() * self.growth.double().exp()
            scale = stored_scale(exact, self.fmt, cover=False)
        zero = None if self._start.zero is None else self._start.zero.to(codes.device)
        return QuantizedTensor(codes, scale, zero, self.fmt, self.shape)

    def changed(self) -> int:
        """Return how many codes are not those of the start."""
        return int((self.quantized().codes != self._start.codes.to(self._scale.device)).sum())


def is_tunable(fmt: Format, shape: tuple[int, ...]) -> bool:
    """Whether a tensor is a matrix of codes with scales."""
    return fmt.layout is not None and len(shape) == 2
