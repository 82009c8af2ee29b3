"""``gptq``: codes and scales of least error of the products, not of the weights, over calibration text.

For a matrix W [N, K] that reads inputs x with mean moment H = E[x xᵀ], the error of the products is
E ‖(W - Ŵ) x‖² = tr (W - Ŵ) H (W - Ŵ)ᵀ: one quadratic a row. From the scales of ``mse``

1. weights are rounded one column after another, and each error is made up for by the columns that are still
   to come (Frantar et al., "GPTQ", 2022), inputs of the largest moment first;
2. codes are improved one column at a time, each to its best value with all others held (coordinate
   descent), and after every sweep the scales to theirs, until nothing changes.

Neither step of 2 lets the error rise. A matrix keeps whatever of 0, 1 and 2 had the least error, row by
row. What no matrix product reads has no moment and is quantized by ``mse``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.weak import WeakIdKeyDictionary

from qslm_opt.kernels.descent import cpu as kernel
from qslm_opt.quant.base import QuantizedTensor, int_layout, quantize, register
from qslm_opt.quant.grid import SMALLEST_FP32, Grid, stored_scale

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from qslm_opt.formats import Format

DAMPING = 0.01
"""Share of the mean squared input that is added to each: inputs that hardly vary must not be overfitted."""
SWEEPS = 12


class Gptq:
    """Compensate errors over calibration text."""

    name = "gptq"
    calibrated = True

    def check(self, fmt: Format) -> None:
        """Accept every format with scales."""
        int_layout(fmt)

    def quantize(self, weight: Tensor, fmt: Format, moment: Tensor | None = None) -> QuantizedTensor:
        """See Quantizer; ``moment`` [K, K] is E[x xᵀ] of what the matrix reads, None: nothing is known."""
        self.check(fmt)
        start = quantize(weight, fmt, "mse")
        if moment is None or weight.dim() != 2:
            return start
        fit = _Fit(weight, start, *_factors(moment))
        fit.keep()
        fit.round_with_feedback()
        fit.keep()
        for _ in range(SWEEPS):
            fit.rescale()
            changed = fit.descend()
            fit.keep()
            if not changed:
                break
        return fit.result()


def damped(moment: Tensor) -> Tensor:
    """Return ``moment`` with ``DAMPING`` of its mean diagonal (of 1 where all inputs are 0) added to it."""
    h = moment.clone()
    diagonal = h.diagonal()
    mean = float(diagonal.mean()) or 1.0
    diagonal.add_(DAMPING * mean)
    return h


class _Fit:
    """Codes, scales and zero points of a matrix, and the best so far of each row.

    Scales are spread to one a weight, [N, K]: a column then looks the same in every layout. All of it is on
    the CPU, whose kernels take a row at a time: a GPU would wait for one column after another.
    """

    def __init__(
        self, weight: Tensor, start: QuantizedTensor, h: Tensor, order: Tensor, upper: Tensor
    ) -> None:
        weight = weight.detach().float().cpu()
        self.weight, self.h, self.cholesky, self.fmt = weight, h, (order, upper), start.fmt
        self.layout, self.grid = int_layout(start.fmt), Grid.of(start.fmt)
        self._grid = np.array(
            [self.grid.low, self.grid.high, self.grid.factor, self.grid.shift], np.float32
        )
        self.start = start
        self.scale = start.scale.cpu()  # (rows, groups) as stored
        self.zero = None if start.zero is None else start.zero.float().cpu()
        self.codes = start.codes.float().cpu()
        self.best_codes, self.best_scale = self.codes.clone(), self.scale.clone()
        self.least = torch.full(weight.shape[:1], float("inf"), device=weight.device)
        if self.layout.granularity == "tensor":
            self.least = self.least[:1]

    def spread(self, values: Tensor) -> Tensor:
        """Return (rows, groups) values as one a weight, [N, K]."""
        n, k = self.weight.shape
        if self.layout.granularity == "tensor":
            return values.expand(n, k)
        size = self.layout.group_size or k
        return values.repeat_interleave(size, dim=1)[:, :k]

    def back(self) -> Tensor:
        """Return the weights that codes and scales stand for."""
        zero = None if self.zero is None else self.spread(self.zero)
        steps = self.codes * self.grid.factor + self.grid.shift
        return (steps if zero is None else steps - zero) * self.spread(self.scale.float())

    def keep(self) -> None:
        """Keep the rows (of a scale per tensor: all) that are better than ever before."""
        error = self.weight - self.back()
        loss = ((error @ self.h) * error).sum(1)
        if self.layout.granularity == "tensor":
            loss = loss.sum().reshape(1)
        better = loss < self.least
        self.least = torch.where(better, loss, self.least)
        self.best_codes = torch.where(better[:, None], self.codes, self.best_codes)
        self.best_scale = torch.where(better[:, None], self.scale, self.best_scale)

    def result(self) -> QuantizedTensor:
        """Return the best of each row."""
        device, start = self.start.codes.device, self.start
        codes, scale = self.best_codes.to(device, torch.int32), self.best_scale.to(device)
        return QuantizedTensor(codes, scale, start.zero, self.fmt, start.shape)

    def round_with_feedback(self) -> None:
        """Step 1 of the module's text."""
        order, upper = self.cholesky
        zero = torch.zeros_like(self.weight) if self.zero is None else self.spread(self.zero)
        codes = torch.empty_like(self.weight)
        inputs = (self.weight[:, order], upper, self.spread(self.scale.float())[:, order], zero[:, order])
        kernel.feedback(*(_array(t) for t in inputs), self._grid, codes.numpy())
        self.codes = torch.empty_like(codes).index_copy_(1, order, codes)

    def descend(self) -> bool:
        """Give every weight in turn its best code; return whether any code changed."""
        zero = torch.zeros_like(self.weight) if self.zero is None else self.spread(self.zero)
        pull = (self.weight - self.back()) @ self.h
        self.codes = self.codes.contiguous().clone()
        changed = np.zeros(self.weight.shape[0], np.int64)
        inputs = (pull, self.h, self.spread(self.scale.float()), zero)
        kernel.descend(*(_array(t) for t in inputs), self._grid, self.codes.numpy(), changed)
        return bool(changed.any())

    def rescale(self) -> None:
        """Give every group the scale that is best for its codes, one group of the row after another."""
        steps = self.codes * self.grid.factor + self.grid.shift
        if self.zero is not None:
            steps = steps - self.spread(self.zero)
        if self.layout.granularity == "tensor":
            along = steps @ self.h
            best = (along * self.weight).sum() / (along * steps).sum().clamp(min=SMALLEST_FP32)
            self.scale = self._stored(best.reshape(1, 1), self.scale)
            return
        size = self.layout.group_size or steps.shape[1]
        for g, first in enumerate(range(0, steps.shape[1], size)):
            part = slice(first, first + size)
            along = steps[:, part] @ self.h[part]  # (N, K)
            square = (along[:, part] * steps[:, part]).sum(1)
            wanted = (along * (self.weight - self.back())).sum(1) / square.clamp(min=SMALLEST_FP32)
            best = torch.where(square > 0, self.scale[:, g].float() + wanted, self.scale[:, g].float())
            self.scale = self.scale.clone()
            self.scale[:, g] = self._stored(best, self.scale[:, g])

    def _stored(self, best: Tensor, before: Tensor) -> Tensor:
        """Return scales as they are stored; one that would be negative or nothing stays as it was."""
        return torch.where(best > 0, stored_scale(best.double().clamp(min=0), self.fmt, cover=False), before)


_FACTORS: WeakIdKeyDictionary = WeakIdKeyDictionary()
"""Moment → (H, order, upper Cholesky factor of H⁻¹ in that order): the same for every format of a matrix."""


def _factors(moment: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    known: tuple[Tensor, Tensor, Tensor] | None = _FACTORS.get(moment)
    if known is None:
        h = damped(moment.detach().float().cpu())
        order = h.diagonal().argsort(descending=True, stable=True)
        inverse = torch.linalg.inv(h[order][:, order].double())
        known = h, order, torch.linalg.cholesky(inverse, upper=True).float()
        _FACTORS[moment] = known
    return known


def _array(tensor: Tensor) -> NDArray[np.float32]:
    return tensor.contiguous().numpy()


register(Gptq())
