"""Matrix products at a stated precision: what the factors look like, and what comes out.

``fp32``: float32 throughout. ``tf32``: float32 whose mantissa the tensor cores cut to 10 bits.
``fp16``: both factors rounded to float16, 10 bits of mantissa as well, products summed in float32.
``split``: an activation is the sum of two float16 terms (22 bits of mantissa) and a weight is exact, or two
terms as well; products summed in float32. Codes of up to 11 bits are whole numbers that float16 holds, hence
one term; their scale is applied to the product. Weights that were stored as float16 are exact as they are.

A split activation [..., 2K] is ``high | low``, with ``value = (high + low / LOW) / ACTIVATION``: the powers
of two keep large values inside float16 and the low term clear of its subnormal numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

Precision: TypeAlias = Literal["fp32", "tf32", "fp16", "split"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "tf32", "fp16", "split")

HEAD_ALIGN = 8
"""A head has its rows padded to a multiple of this on a GPU, where an odd number of columns is slow."""
ACTIVATION = 2.0**-4
"""Factor of an activation in float16: values up to 1,048,064 fit."""
LOW = 2.0**11
"""Further factor of the low term."""
_LARGEST = 11
"""Weights are scaled by a power of two to stay below 2**11, up to where float16 holds whole numbers."""


@dataclass(frozen=True)
class Scaled:
    """A product that is still to be multiplied by one factor per channel."""

    values: Tensor
    """float32 [..., N]"""
    scale: Tensor
    """float32 [N]"""

    def whole(self) -> Tensor:
        """Return ``values · scale``."""
        return self.values * self.scale


Current: TypeAlias = "Tensor | Scaled"


@dataclass(frozen=True)
class HalfWeight:
    """A weight [N, K] for products in float16."""

    main: Tensor
    """float16 [N, K], or [N, 2K] ``high | high / LOW`` to meet a split activation."""
    rest: Tensor | None
    """float16 [N, K]: what ``main`` leaves of weights that are not exact; None when nothing is left."""
    scale: Tensor
    """float32 [N]: factor of the product."""

    @property
    def shape(self) -> torch.Size:
        """Shape of what the products use."""
        return self.main.shape


def half_weight(values: Tensor, scale: Tensor | None, *, terms: int) -> HalfWeight:
    """Return ``values · scale`` as float16 terms.

    Args:
        values: float32 [N, K]: weights, or codes less their zero points.
        scale: float32 [N] of codes; None is 1.
        terms: 1 rounds to nearest; 2 keeps 22 bits of mantissa and meets split activations.
    """
    _, exponent = torch.frexp(values.abs().amax().float())
    power = torch.exp2((_LARGEST - exponent).clamp(-100, 100).float())
    raised = values * power
    high = raised.half()
    rows = torch.ones(len(values), device=values.device) if scale is None else scale.float()
    rows = rows / (power * ACTIVATION)
    if terms == 1:
        return HalfWeight(high, None, rows)
    left = raised - high.float()
    rest = left.half() if bool(left.any()) else None
    return HalfWeight(torch.cat((high, (high.float() / LOW).half()), dim=1), rest, rows)


def half_terms(x: Tensor, terms: int) -> Tensor:
    """Return an activation [..., K] as float16 ``high`` [..., K], or ``high | low`` [..., 2K]."""
    scaled = x.float() * ACTIVATION
    high = scaled.half()
    if terms == 1:
        return high
    return torch.cat((high, ((scaled - high.float()) * LOW).half()), dim=-1)


def whole_activation(terms: Tensor, count: int) -> Tensor:
    """Undo ``half_terms``: float32 [..., K]."""
    if count == 1:
        return terms.float() / ACTIVATION
    high, low = terms.float().chunk(2, dim=-1)
    return (high + low / LOW) / ACTIVATION


def whole_weight(weight: HalfWeight, terms: int) -> Tensor:
    """Undo ``half_weight``: float32 [N, K]."""
    high = weight.main if terms == 1 else weight.main.chunk(2, dim=1)[0]
    total = high.float() if weight.rest is None else high.float() + weight.rest.float()
    return total * (weight.scale * ACTIVATION)[:, None]


def half_product(a: Tensor, weight: HalfWeight) -> Scaled:
    """Return ``a · weightᵀ`` of float16 terms, summed in float32, without its scale.

    Args:
        a: [..., K] or split [..., 2K], as ``weight.main`` has columns.
    """
    flat = a.flatten(0, -2)
    y = _product(flat, weight.main)
    if weight.rest is not None:
        y += _product(flat[:, : weight.rest.shape[1]], weight.rest)
    return Scaled(y.unflatten(0, a.shape[:-1]), weight.scale)


def _product(a: Tensor, w: Tensor) -> Tensor:
    if a.device.type == "cuda":
        return torch.mm(a, w.t(), out_dtype=torch.float32)
    return torch.mm(a.float(), w.float().t())  # the same terms, for checks where no tensor core is


def has_half_products() -> bool:
    """Return whether this torch sums float16 products in float32 on a CUDA device (2.8 and later do)."""
    return "dtype" in torch.ops.aten.mm.overloads()


@contextmanager
def float32_products(tf32: bool) -> Iterator[None]:
    """Let float32 products inside use TF32, or forbid it; what was set before comes back."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = tf32
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
