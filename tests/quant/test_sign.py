"""The 1-bit format: lossless for a tensor that is read through the Heaviside."""

from __future__ import annotations

import pytest
import torch

from qslm_opt.errors import NumericsError
from qslm_opt.formats import SIGN, Format
from qslm_opt.quant import quantize, quantize_dequantize


def heaviside(x: torch.Tensor) -> torch.Tensor:
    return (x >= 0).float()


def test_both_zeros_fire() -> None:
    weight = torch.tensor([-1.5, -0.0, 0.0, 1e-45, -1e-45, float("inf"), float("-inf")])
    assert quantize_dequantize(weight, SIGN).tolist() == [-1.0, 1.0, 1.0, 1.0, -1.0, 1.0, -1.0]


@pytest.mark.parametrize("name", ["rtn", "paper"])
def test_sign_is_lossless_through_the_heaviside_and_eight_affine_bits_are_not(name: str) -> None:
    weight = torch.randn(500, 64, generator=torch.Generator().manual_seed(0))
    spikes = heaviside(weight)
    assert torch.equal(heaviside(quantize_dequantize(weight, SIGN, name)), spikes)
    affine = quantize_dequantize(weight, Format.parse("int8/tensor/affine"), name)
    assert not torch.equal(heaviside(affine), spikes)


def test_one_bit_a_weight_and_nothing_else_is_stored() -> None:
    quantized = quantize(torch.randn(5, 7), SIGN)
    assert quantized.codes.unique().tolist() == [-1, 1]
    assert quantized.codes.shape == (5, 7)
    assert (quantized.scale.numel(), quantized.zero) == (0, None)
    assert SIGN.packed_bytes((5, 7)) == -(-quantized.codes.numel() // 8)


def test_nan_has_no_sign() -> None:
    with pytest.raises(NumericsError, match="2 of 3 weights are NaN"):
        quantize_dequantize(torch.tensor([float("nan"), 1.0, float("nan")]), SIGN)
