"""The authors' quantizer: equal to torch's own, faults included."""

from __future__ import annotations

import warnings

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from qslm_opt.errors import SettingError
from qslm_opt.formats import Format, Layout
from qslm_opt.quant import get_quantizer, quantize, quantize_dequantize, sqnr_db

BITS = (2, 3, 4, 5, 6, 8, 10, 12, 16)
needs_torch_quantizer = pytest.mark.skipif(
    not hasattr(torch, "quantize_per_tensor"), reason="this PyTorch has no torch.quantize_per_tensor any more"
)


def tensor_affine(bits: int) -> Format:
    return Format("int", bits, Layout.parse("tensor/affine"))


def by_torch(weight: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes and values of the authors' recipe on torch's quantized tensors."""
    qmin, qmax = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    scale = (weight.max() - weight.min()) / (qmax - qmin)
    zero = int(torch.round(qmin - weight.min() / scale).clamp(qmin, qmax))
    container = torch.qint8 if bits <= 8 else torch.qint32
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated: the reason why ours is written out
        made = torch.quantize_per_tensor(weight, float(scale), zero, container)
        return made.int_repr().to(torch.int32), made.dequantize()


@needs_torch_quantizer
@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**31),
    st.integers(2, 3000),
    st.sampled_from(BITS),
    st.floats(-4, 3),
    st.sampled_from([0.0, 0.0, 1.2, -7.0]),
)
def test_every_code_and_value_equals_torchs(
    seed: int, n: int, bits: int, magnitude: float, shift: float
) -> None:
    weight = torch.randn(n, generator=torch.Generator().manual_seed(seed)) + shift
    weight = weight.half().float() * 10.0**magnitude
    assume(float(weight.max()) > float(weight.min()))
    codes, values = by_torch(weight, bits)
    ours = quantize(weight, tensor_affine(bits), "paper")
    assert torch.equal(ours.codes, codes)
    assert torch.equal(ours.dequantize(), values)


@needs_torch_quantizer
@pytest.mark.parametrize("bits", BITS)
def test_every_code_of_a_large_matrix_equals_torchs(bits: int) -> None:
    weight = torch.randn(1000, 257, generator=torch.Generator().manual_seed(bits)) * 0.07
    codes, values = by_torch(weight, bits)
    ours = quantize(weight, tensor_affine(bits), "paper")
    assert torch.equal(ours.codes, codes)
    assert torch.equal(ours.dequantize(), values)


def test_codes_by_hand() -> None:
    quantized = quantize(torch.tensor([-1.0, -0.4, 0.0, 0.6, 2.0]), tensor_affine(2), "paper")
    assert (float(quantized.scale), int(quantized.zero)) == (1.0, -1)
    assert quantized.codes.tolist() == [-2, -1, -1, 0, 1]
    assert quantized.dequantize().tolist() == [-1.0, 0.0, 0.0, 1.0, 2.0]


def test_up_to_eight_bits_a_code_is_rounded_once() -> None:
    """-0.1464… / s - 2 is just above -3.5: rounded to float32 before adding the zero point, it is -4."""
    weight = torch.tensor([-0.5962566137313843, 0.8682218194007874, -0.14644783735275269])
    quantized = quantize(weight, tensor_affine(4), "paper")
    assert quantized.codes.tolist() == [-8, 7, -3]


def layer_norm_weight() -> torch.Tensor:
    return 1.0 + 0.35 * torch.rand(256, generator=torch.Generator().manual_seed(0))


def test_a_tensor_of_one_sign_saturates_at_eight_bits_and_rtn_does_not() -> None:
    weight = layer_norm_weight()
    span = float(weight.max() - weight.min())
    paper = quantize(weight, tensor_affine(8), "paper")
    assert int(paper.zero) == -128
    assert set(paper.codes.tolist()) == {127}  # every weight is beyond [0, max - min]
    assert float(paper.dequantize().max()) == pytest.approx(span, rel=1e-6)
    assert sqnr_db(weight, paper.dequantize()) < 5
    assert sqnr_db(weight, quantize_dequantize(weight, tensor_affine(8))) > 50


def test_the_container_hides_that_the_codes_of_one_sign_do_not_fit() -> None:
    weight = layer_norm_weight()
    paper = quantize(weight, tensor_affine(4), "paper")
    assert int(paper.zero) == -8
    assert int(paper.codes.max()) > 7  # more than 4 bits hold
    assert float((paper.dequantize() - weight).abs().max()) <= float(paper.scale) / 2 * 1.001


def test_above_eight_bits_nothing_is_clipped() -> None:
    weight = layer_norm_weight()
    for bits in (9, 12, 16):
        paper = quantize(weight, tensor_affine(bits), "paper")
        assert float((paper.dequantize() - weight).abs().max()) <= float(paper.scale) / 2 + 2.0**-22


@pytest.mark.parametrize("value", [0.0, -0.0, 3.25, -1e-9, 1e20])
@pytest.mark.parametrize("bits", [2, 8, 16])
def test_a_constant_tensor_is_kept_exactly(value: float, bits: int) -> None:
    weight = torch.full((4, 3), value)
    quantized = quantize(weight, tensor_affine(bits), "paper")
    assert torch.equal(quantized.dequantize(), weight)
    assert -(2 ** (bits - 1)) <= int(quantized.codes.min()) <= int(quantized.codes.max()) < 2 ** (bits - 1)


@pytest.mark.parametrize("bits", [2, 8, 9, 16])
def test_narrow_and_tiny_ranges_stay_finite(bits: int) -> None:
    narrow = torch.tensor([1.0, 1.0 + 2.0**-23] * 5)
    tiny = torch.tensor([-1e-42, 3e-45, 2e-42])
    huge = torch.tensor([8e37, 8.4e37])
    for weight in (narrow, tiny, huge):
        back = quantize_dequantize(weight, tensor_affine(bits), "paper")
        assert bool(back.isfinite().all())
        assert float(back.abs().max()) <= float(weight.abs().max()) * 1.3 + 2.0**-126
        assert float(back.min()) > 0 or weight is tiny  # no container wraps around


@pytest.mark.parametrize("text", ["int4/channel/affine", "int4/tensor/symmetric", "int8/group64/affine"])
def test_another_layout_is_refused_with_the_fix(text: str) -> None:
    bits = text[3]
    with pytest.raises(SettingError, match=rf"{text}; write int{bits}/tensor/affine .* quantizer 'rtn'"):
        quantize(torch.randn(8, 8), Format.parse(text), "paper")
    with pytest.raises(SettingError, match="paper"):
        get_quantizer("paper").check(Format.parse(text))
