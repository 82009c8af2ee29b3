"""``hqq``: half-quadratic fit of float zero points (layouts ``…/offset``), without calibration data.

After Badri and Shaji, "Half-Quadratic Quantization of Large Machine Learning Models" (2023): the scale is
that of the range, and the zero point minimizes the lp norm (p < 1) of the error, which forgives the few
large errors of outliers. An auxiliary error e splits the problem in two that have closed forms::

    e ← shrink(w - ŵ; β, p) = sign(x) max(|x| - |x|^(p-1) / β, 0)
    z ← mean(codes - (w - e) / s)

with β growing by ``KAPPA`` each round. A group keeps the zero point with its least lp error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from qslm_opt.errors import SettingError
from qslm_opt.quant.base import QuantizedTensor, inside_groups, int_layout, quantize, register, split_groups
from qslm_opt.quant.grid import Grid, made

if TYPE_CHECKING:
    from torch import Tensor

    from qslm_opt.formats import Format

P_NORM = 0.7
BETA = 10.0
KAPPA = 1.01
ROUNDS = 20
_TINY = 1e-12


class HalfQuadratic:
    """Fit float zero points by half-quadratic splitting."""

    name = "hqq"

    def check(self, fmt: Format) -> None:
        """Accept integer formats with float zero points, and those of so few bits that they have none."""
        layout = int_layout(fmt)
        if layout.symmetry != "offset" and fmt.bits >= 2:
            raise SettingError(
                f"quantizer 'hqq' fits float zero points, which {fmt} has not; "
                f"write int{fmt.bits}/{layout.scope}/offset (layout {layout.scope}/offset), or use "
                "quantizer 'mse'."
            )

    def quantize(self, weight: Tensor, fmt: Format) -> QuantizedTensor:
        """See Quantizer. Formats below two bits have no zero point and are fitted as by ``mse``."""
        self.check(fmt)
        if fmt.bits < 2:
            return quantize(weight, fmt, "mse")
        start = quantize(weight, fmt, "rtn")
        groups = split_groups(weight.detach().float(), int_layout(fmt))
        assert start.zero is not None
        inside = inside_groups(weight, int_layout(fmt))
        zero = fit_zero(groups, Grid.of(fmt), start.scale, start.zero.float(), inside)
        stored = zero.clamp(-65504.0, 65504.0).to(start.scale.dtype)
        return made(groups, Grid.of(fmt), start.scale, stored, fmt, tuple(weight.shape))


def fit_zero(
    groups: Tensor, grid: Grid, scale: Tensor, zero: Tensor, inside: Tensor | None = None
) -> Tensor:
    """Return zero points, float32 (rows, groups), whose lp error is not above that of ``zero``."""
    steps = scale.float()[..., None]
    size = groups.abs().amax(-1, keepdim=True).clamp(min=_TINY)  # the formulas are for weights of about 1
    best, least, beta = zero, None, BETA
    share = torch.ones_like(groups[:1]) if inside is None else inside
    for _ in range(ROUNDS):
        codes = grid.codes(groups, scale, zero)
        error = groups - grid.steps(codes, zero) * steps
        norm = (error.abs().pow(P_NORM) * share).sum(-1)
        least = norm if least is None else least
        better = norm < least
        best, least = torch.where(better, zero, best), torch.where(better, norm, least)
        wanted = codes - (groups - _shrink(error / size, beta) * size) / steps
        zero = (wanted * share).sum(-1) / share.sum(-1)
        beta *= KAPPA
    return best


def _shrink(x: Tensor, beta: float) -> Tensor:
    """Return the proximal step of |x|^p."""
    magnitude = x.abs()
    return x.sign() * (magnitude - magnitude.clamp(min=_TINY).pow(P_NORM - 1) / beta).clamp(min=0.0)


register(HalfQuadratic())
