"""The registry, the formats without codes, and the signal-to-noise ratio."""

from __future__ import annotations

from math import inf

import pytest
import torch

from qslm_opt.errors import NumericsError, SettingError
from qslm_opt.formats import FP16, FP32, SIGN, Format
from qslm_opt.quant import get_quantizer, quantize, quantize_dequantize, quantizer_names, sqnr_db


def test_every_quantizer_is_known_by_its_name() -> None:
    assert quantizer_names() == ("gptq", "hqq", "mse", "paper", "rtn")
    assert tuple(get_quantizer(name).name for name in quantizer_names()) == quantizer_names()


@pytest.mark.parametrize("fmt", [FP32, FP16, SIGN, Format.parse("int4/tensor/affine")], ids=str)
def test_an_unknown_quantizer_is_refused_whatever_the_format(fmt: Format) -> None:
    with pytest.raises(SettingError, match=r"'papper' is unknown; .* mse, paper, rtn\. Did you mean 'paper'"):
        quantize_dequantize(torch.ones(2), fmt, "papper")


def test_fp32_is_the_tensor_itself() -> None:
    weight = torch.randn(3, 3)
    assert quantize_dequantize(weight, FP32, "paper") is weight


@pytest.mark.parametrize("name", ["rtn", "paper"])
def test_fp16_is_the_round_trip_through_float16(name: str) -> None:
    weight = torch.tensor([1.0 + 2.0**-12, -65504.0, 1e-8, 0.1])
    back = quantize_dequantize(weight, FP16, name)
    assert back.dtype == torch.float32
    assert torch.equal(back, weight.half().float())
    assert back[0] == 1.0


@pytest.mark.parametrize("bad", [65505.0, -1e6, float("inf"), float("nan")])
def test_fp16_refuses_what_it_cannot_hold(bad: float) -> None:
    with pytest.raises(NumericsError, match="weights range from"):
        quantize_dequantize(torch.tensor([1.0, bad]), FP16)


def test_float_formats_have_no_codes_to_store() -> None:
    with pytest.raises(SettingError, match="fp16 has no codes"):
        quantize(torch.ones(2), FP16)


def test_sqnr_by_hand() -> None:
    weight = torch.tensor([3.0, 4.0])
    assert sqnr_db(weight, torch.tensor([3.0, 4.5])) == pytest.approx(20.0)
    assert sqnr_db(weight, weight) == inf
    assert sqnr_db(torch.zeros(2), torch.ones(2)) == -inf
