"""Every grid: which values a code can be, what is nearest, and what fits of scales and zero points gain."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from qslm_opt.errors import SettingError
from qslm_opt.formats import WIDTHS, Format, Layout
from qslm_opt.quant import get_quantizer, is_calibrated, quantize, quantizer_names, sqnr_db
from qslm_opt.quant.base import split_groups
from qslm_opt.quant.gptq import damped

SCOPES = ("tensor", "channel", "group16")
SYMMETRIES = ("affine", "offset", "symmetric", "midrise")


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def formats(symmetries: tuple[str, ...] = SYMMETRIES) -> list[Format]:
    found = []
    for scope, symmetry, bits in product(SCOPES, symmetries, (4, 2, 1.58, 1)):
        found.append(Layout.parse(f"{scope}/{symmetry}").with_bits(bits))
    return list(dict.fromkeys(found))


def values_of(fmt: Format, quantized) -> list[torch.Tensor]:
    """The values that each group's codes may stand for."""
    table = []
    for scale, zero in zip(
        quantized.scale.flatten().tolist(),
        [0.0] * quantized.scale.numel() if quantized.zero is None else quantized.zero.flatten().tolist(),
        strict=True,
    ):
        if fmt.kind == "ternary":
            steps = [-1, 0, 1]
        elif fmt.layout.symmetry == "midrise":
            steps = [2 * c - (2**fmt.bits - 1) for c in range(2**fmt.bits)]
        elif fmt.layout.symmetry == "symmetric":
            steps = list(range(-(2 ** (fmt.bits - 1) - 1), 2 ** (fmt.bits - 1)))
        else:
            steps = [c - zero for c in range(2**fmt.bits)]
        table.append(torch.tensor(steps) * scale)
    return table


@pytest.mark.parametrize("fmt", formats(), ids=str)
def test_a_weight_becomes_the_nearest_value_of_its_grid(fmt):
    weight = normal(6, 40)
    for name in ("rtn", "mse"):
        quantized = quantize(weight, fmt, name)
        groups = split_groups(weight, fmt.layout).flatten(0, 1)
        back = split_groups(quantized.dequantize(), fmt.layout).flatten(0, 1)
        inside = split_groups(torch.ones_like(weight), fmt.layout).flatten(0, 1) > 0
        for row, got, values, real in zip(groups, back, values_of(fmt, quantized), inside, strict=True):
            nearest = (row[:, None] - values).abs().amin(1)
            error = (row - got).abs()
            assert bool((error[real] <= nearest[real] + 1e-6 * values.abs().max()).all())


@pytest.mark.parametrize("fmt", formats(), ids=str)
def test_least_squares_never_loses_to_round_to_nearest(fmt):
    for seed, shift in ((0, 0.0), (1, 2.0)):
        weight = normal(5, 33, seed=seed) ** 3 + shift
        plain, fitted = (quantize(weight, fmt, name).dequantize() for name in ("rtn", "mse"))
        assert sqnr_db(weight, fitted) >= sqnr_db(weight, plain) - 1e-4  # losses are compared in float32


def test_few_bits_gain_much_from_clipping():
    weight = normal(16, 256)
    for text, gain in (("int2/channel/midrise", 4.0), ("int3/channel/affine", 0.2), ("ternary/channel", 0.5)):
        fmt = Format.parse(text)
        plain, fitted = (quantize(weight, fmt, name).dequantize() for name in ("rtn", "mse"))
        assert sqnr_db(weight, fitted) > sqnr_db(weight, plain) + gain


def test_one_bit_is_the_sign_times_the_mean_magnitude():
    weight = normal(4, 64)
    for name in ("rtn", "mse"):
        back = quantize(weight, Format.parse("int1/channel/midrise"), name).dequantize()
        expected = weight.sign() * weight.abs().mean(1, keepdim=True)
        torch.testing.assert_close(back, expected, rtol=1e-3, atol=0)  # the scale is stored as float16


def test_two_bits_of_midrise_reach_the_known_optimum_of_a_normal_distribution():
    """Max (1960): four uniform levels lose 0.1188 of the variance of a normal variable."""
    weight = normal(1, 200_000)
    back = quantize(weight, Format.parse("int2/tensor/midrise"), "mse").dequantize()
    assert float((weight - back).square().mean() / weight.square().mean()) == pytest.approx(0.1188, abs=2e-3)


@pytest.mark.parametrize("fmt", formats(), ids=str)
def test_odd_tensors_are_held_by_every_grid(fmt):
    for name in ("rtn", "mse", "gptq"):
        for weight in (torch.zeros(3, 5), torch.full((3, 5), 0.25), torch.full((2, 3), -7.0), normal(1, 1)):
            back = quantize(weight, fmt, name).dequantize()
            assert back.shape == weight.shape and bool(back.isfinite().all())
            if fmt.layout.symmetry in ("affine", "offset") and not bool(weight.any()):
                assert not bool(back.any())


def test_half_quadratic_fits_float_zero_points_only():
    get_quantizer("hqq").check(Format.parse("int4/group64/offset"))
    with pytest.raises(SettingError, match=r"write int4/channel/offset .* or use quantizer 'mse'"):
        get_quantizer("hqq").check(Format.parse("int4/channel/affine"))


def test_half_quadratic_forgives_outliers():
    """It lowers the sum of |error|^0.7, not that of squares."""
    weight = normal(8, 128)
    weight[:, :2] *= 8
    for bits in (4, 3):
        fmt = Format.parse(f"int{bits}/channel/offset")
        plain, fitted = (
            (weight - quantize(weight, fmt, name).dequantize()).abs().pow(0.7).sum(1)
            for name in ("rtn", "hqq")
        )
        assert bool((fitted <= plain * 1.001).all()) and float(fitted.sum()) < float(plain.sum())


# ---------------------------------------------------------------------------- error compensation


def moment_of(columns: int, rows: int = 2000) -> torch.Tensor:
    mixing = torch.eye(columns) + 0.2 * normal(columns, columns, seed=8)
    inputs = torch.relu(normal(rows, columns, seed=7) @ mixing)
    return inputs.T @ inputs / rows


def product_error(weight, back, moment):
    error = weight - back
    return float(((error @ moment) * error).sum())


@pytest.mark.parametrize("fmt", formats(), ids=str)
def test_compensation_lowers_the_error_of_the_products(fmt):
    weight, moment = normal(12, 40), moment_of(40)
    plain = quantize(weight, fmt, "mse")
    better = quantize(weight, fmt, "gptq", moment)
    assert better.codes.shape == plain.codes.shape and better.scale.dtype == plain.scale.dtype
    half = fmt.levels // 2
    low, high = (-half, half) if fmt.layout.symmetry == "symmetric" else (0, 2**fmt.bits - 1)
    assert low <= int(better.codes.min()) and int(better.codes.max()) <= high
    h = damped(moment)
    assert product_error(weight, better.dequantize(), h) < product_error(weight, plain.dequantize(), h)


def test_codes_are_the_best_there_are_for_a_tiny_matrix():
    """Every row of three ternary weights has 27 choices at the scale that was chosen."""
    weight, moment = normal(6, 3), moment_of(3)
    quantized = quantize(weight, Format.parse("ternary/channel"), "gptq", moment)
    h = damped(moment)
    choices = torch.tensor(list(product((-1.0, 0.0, 1.0), repeat=3)))
    best = 0
    for row, codes, scale in zip(weight, quantized.codes, quantized.scale.float(), strict=True):
        errors = row - choices * scale
        losses = ((errors @ h) * errors).sum(1)
        own = row - codes * scale
        best += float((own @ h) @ own) <= float(losses.min()) * (1 + 1e-4)
    assert best >= 5  # coordinate descent may end in another minimum


def test_uncorrelated_inputs_leave_nothing_to_compensate():
    weight = normal(8, 32)
    fmt = Format.parse("int3/channel/midrise")
    plain, compensated = (
        sqnr_db(weight, quantize(weight, fmt, name, torch.eye(32)).dequantize()) for name in ("mse", "gptq")
    )
    assert compensated == pytest.approx(plain, abs=0.05)


def test_without_a_moment_it_is_least_squares():
    weight, fmt = normal(4, 16), Format.parse("int3/channel/affine")
    assert torch.equal(quantize(weight, fmt, "gptq").codes, quantize(weight, fmt, "mse").codes)


def test_inputs_that_are_always_zero_do_no_harm():
    weight, moment = normal(4, 16), moment_of(16)
    moment[3], moment[:, 3] = 0, 0
    for given in (moment, torch.zeros(16, 16)):
        back = quantize(weight, Format.parse("int2/channel/midrise"), "gptq", given).dequantize()
        assert bool(back.isfinite().all())


def test_the_registry_knows_who_is_calibrated():
    assert [name for name in quantizer_names() if is_calibrated(name)] == ["gptq"]
    assert set(quantizer_names()) == {"gptq", "hqq", "mse", "paper", "rtn"}
    assert WIDTHS[-2:] == (1.58, 1)
