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

import torch

from qslm_opt.quant.base import QuantizedTensor, int_layout, quantize, register
from qslm_opt.quant.grid import SMALLEST_FP32, Grid, stored_scale

if TYPE_CHECKING:
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
        fit = _Fit(weight.detach().float(), start, damped(moment))
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

    Scales are spread to one a weight, [N, K]: a column then looks the same in every layout.
    """

    def __init__(self, weight: Tensor, start: QuantizedTensor, h: Tensor) -> None:
        self.weight, self.h, self.fmt = weight, h, start.fmt
        self.layout, self.grid = int_layout(start.fmt), Grid.of(start.fmt)
        self.start = start
        self.scale = start.scale  # (rows, groups) as stored
        self.zero = None if start.zero is None else start.zero.float()
        self.codes = start.codes.float()
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
        codes = self.best_codes.to(torch.int32)
        return QuantizedTensor(codes, self.best_scale, self.start.zero, self.fmt, self.start.shape)

    def round_with_feedback(self) -> None:
        """Step 1 of the module's text."""
        order = self.h.diagonal().argsort(descending=True, stable=True)
        inverse = torch.linalg.inv(self.h[order][:, order].double())
        upper = torch.linalg.cholesky(inverse, upper=True).float()
        left = self.weight[:, order].clone()
        scale, zero = self.spread(self.scale.float())[:, order], None
        if self.zero is not None:
            zero = self.spread(self.zero)[:, order]
        codes = torch.empty_like(left)
        for j in range(left.shape[1]):
            codes[:, j] = self._nearest(left[:, j], scale[:, j], None if zero is None else zero[:, j])
            back = self._values(codes[:, j], scale[:, j], None if zero is None else zero[:, j])
            error = (left[:, j] - back) / upper[j, j]
            left[:, j + 1 :].addr_(error, upper[j, j + 1 :], alpha=-1)
        self.codes = torch.empty_like(codes).index_copy_(1, order, codes)

    def descend(self) -> bool:
        """Give every weight in turn its best code; return whether any code changed."""
        scale = self.spread(self.scale.float())
        zero = None if self.zero is None else self.spread(self.zero)
        back = self.back()
        pull = ((self.weight - back) @ self.h).T.contiguous()  # (K, N): each column is one piece of memory
        before = self.codes
        codes, held = self.codes.T.contiguous(), back.T.contiguous()
        scale = scale.T.contiguous()
        zero = None if zero is None else zero.T.contiguous()
        diagonal = self.h.diagonal().tolist()
        for j in range(codes.shape[0]):
            offset = None if zero is None else zero[j]
            codes[j] = self._nearest(held[j] + pull[j] / diagonal[j], scale[j], offset)
            moved = self._values(codes[j], scale[j], offset) - held[j]
            pull.addr_(self.h[j], moved, alpha=-1)
        self.codes = codes.T.contiguous()
        return not torch.equal(self.codes, before)

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

    def _nearest(self, values: Tensor, scale: Tensor, zero: Tensor | None) -> Tensor:
        grid = self.grid
        steps = values / scale
        if zero is not None:
            steps = steps + zero
        return ((steps - grid.shift) / grid.factor).round_().clamp_(grid.low, grid.high)

    def _values(self, codes: Tensor, scale: Tensor, zero: Tensor | None) -> Tensor:
        steps = codes * self.grid.factor + self.grid.shift
        return (steps if zero is None else steps - zero) * scale


register(Gptq())
