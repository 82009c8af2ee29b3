"""Round to nearest: error, range, zero, scales and hand-computed cases."""

from __future__ import annotations

from itertools import pairwise
from math import prod

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from qslm_opt.errors import NumericsError, SettingError
from qslm_opt.formats import FP16, Format, Layout
from qslm_opt.quant import get_quantizer, quantize, quantize_dequantize, sqnr_db
from qslm_opt.quant.base import join_groups, split_groups

LAYOUTS = [
    Layout.parse(f"{where}/{symmetry}")
    for where in ("tensor", "channel", "group1", "group7", "group64")
    for symmetry in ("affine", "symmetric")
]
SHAPES = [(1,), (5,), (1, 1, 33), (1, 9), (6, 1), (4, 13), (8, 64), (3, 2, 5)]


def random_weight(shape: tuple[int, ...], seed: int, magnitude: float, shift: float) -> torch.Tensor:
    """Heavy-tailed weights; a shift beyond 3 gives tensors of one sign."""
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(shape, generator=generator)
    return (normal * normal.abs() + shift) * 10.0**magnitude


weights = st.builds(
    random_weight,
    st.sampled_from(SHAPES),
    st.integers(0, 2**31),
    st.floats(-12, 2),
    st.sampled_from([0.0, 0.0, 5.0, -5.0, 100.0]),
)
formats = st.builds(Format, st.just("int"), st.integers(2, 16), st.sampled_from(LAYOUTS))


def step_of_each(weight: torch.Tensor, fmt: Format) -> torch.Tensor:
    """The stored scale that every weight was divided by, in the weight's shape."""
    quantized = quantize(weight, fmt)
    groups = split_groups(weight, fmt.layout)
    return join_groups(quantized.scale.float()[..., None].expand_as(groups), tuple(weight.shape))


@settings(max_examples=150, deadline=None)
@given(weights, formats)
def test_no_weight_moves_by_more_than_half_a_step(weight: torch.Tensor, fmt: Format) -> None:
    error = (quantize_dequantize(weight, fmt) - weight).abs().double()
    span = float(weight.amax().clamp(min=0) - weight.amin().clamp(max=0))
    assert bool((error <= step_of_each(weight, fmt).double() / 2 + 4 * 2.0**-24 * span).all())


@settings(max_examples=100, deadline=None)
@given(weights, formats)
def test_codes_and_zero_points_fit_their_bits(weight: torch.Tensor, fmt: Format) -> None:
    quantized = quantize(weight, fmt)
    low, high = int(quantized.codes.min()), int(quantized.codes.max())
    if fmt.layout.symmetry == "symmetric":
        assert quantized.zero is None
        assert -(2 ** (fmt.bits - 1)) < low <= high < 2 ** (fmt.bits - 1)
    else:
        assert 0 <= low <= high < 2**fmt.bits
        assert 0 <= int(quantized.zero.min()) <= int(quantized.zero.max()) < 2**fmt.bits


@settings(max_examples=100, deadline=None)
@given(weights, formats, st.integers(0, 10**6))
def test_zero_stays_exactly_zero(weight: torch.Tensor, fmt: Format, place: int) -> None:
    flat = weight.flatten()
    flat[place % flat.numel()] = 0.0
    flat[(place + 1) % flat.numel()] = -0.0
    back = quantize_dequantize(weight, fmt)
    assert bool((back[weight == 0] == 0).all())


@settings(max_examples=100, deadline=None)
@given(weights, formats)
def test_the_bytes_of_the_format_are_those_of_the_elements(weight: torch.Tensor, fmt: Format) -> None:
    quantized = quantize(weight, fmt)
    assert quantized.codes.shape == weight.shape
    zeros = 0 if quantized.zero is None else quantized.zero.numel() * (1 if fmt.bits <= 8 else 2)
    scales = quantized.scale.numel() * quantized.scale.element_size()
    counted = -(-quantized.codes.numel() * fmt.bits // 8) + scales + zeros
    assert counted == fmt.packed_bytes(tuple(weight.shape))


@settings(max_examples=60, deadline=None)
@given(weights, formats)
def test_dequantize_is_code_minus_zero_times_scale_in_float32(weight: torch.Tensor, fmt: Format) -> None:
    quantized = quantize(weight, fmt)
    codes = quantized.codes.reshape(-1, prod(weight.shape))
    steps = step_of_each(weight, fmt).reshape(1, -1)
    zero = torch.zeros_like(codes)
    if quantized.zero is not None:
        groups = split_groups(quantized.codes, fmt.layout)
        zero = join_groups(quantized.zero[..., None].expand_as(groups), tuple(weight.shape)).reshape(1, -1)
    expected = (codes - zero).float() * steps
    back = quantized.dequantize()
    assert back.dtype == torch.float32
    assert torch.equal(back.reshape(1, -1), expected)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(SHAPES), st.integers(0, 2**31), st.integers(2, 16), st.sampled_from(LAYOUTS))
def test_a_symmetric_grid_quantizes_to_itself(
    shape: tuple[int, ...], seed: int, bits: int, layout: Layout
) -> None:
    fmt = Format("int", bits, Layout(layout.granularity, layout.group_size, "symmetric"))
    once = quantize(random_weight(shape, seed, 0.0, 0.0), fmt)
    assume(float(once.scale.min()) >= 2.0**-14)  # float16 subnormals are too coarse for it
    twice = quantize(once.dequantize(), fmt)
    assert torch.equal(twice.codes, once.codes)
    torch.testing.assert_close(twice.dequantize(), once.dequantize(), rtol=2.0**-22, atol=0.0)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_the_ends_of_the_range_are_not_saturated(layout: Layout) -> None:
    weight = random_weight((16, 128), 3, 0.0, 0.0)
    for bits in (2, 3, 4, 8, 12, 16):
        fmt = Format("int", bits, layout)
        back, step = quantize_dequantize(weight, fmt), step_of_each(weight, fmt)
        for end in (weight.argmin(), weight.argmax()):
            error = float((back.flatten()[end] - weight.flatten()[end]).abs())
            assert error <= float(step.flatten()[end]) * 0.501


def test_affine_codes_by_hand() -> None:
    quantized = quantize(torch.tensor([-1.0, -0.4, 0.0, 0.5, 2.0]), Format.parse("int2/tensor/affine"))
    assert float(quantized.scale) == 1.0
    assert int(quantized.zero) == 1
    assert quantized.codes.tolist() == [0, 1, 1, 1, 3]  # 0.5 is half way and goes to the even 0
    assert quantized.dequantize().tolist() == [-1.0, 0.0, 0.0, 0.0, 2.0]


def test_symmetric_codes_by_hand() -> None:
    weight = torch.tensor([[-3.0, 1.0, 1.5, 2.5], [0.0, 6.0, -2.0, 1.0]])
    quantized = quantize(weight, Format.parse("int3/channel/symmetric"))
    assert quantized.scale.dtype == torch.float16
    assert quantized.scale.flatten().tolist() == [1.0, 2.0]
    assert quantized.codes.tolist() == [[-3, 1, 2, 2], [0, 3, -1, 0]]  # half to even


def test_a_range_of_one_sign_is_extended_to_zero() -> None:
    quantized = quantize(torch.tensor([8.0, 10.0, 15.0]), Format.parse("int4/tensor/affine"))
    assert (float(quantized.scale), int(quantized.zero)) == (1.0, 0)
    assert quantized.dequantize().tolist() == [8.0, 10.0, 15.0]
    negative = quantize(torch.tensor([-8.0, -10.0, -15.0]), Format.parse("int4/tensor/affine"))
    assert int(negative.zero) == 15
    assert negative.dequantize().tolist() == [-8.0, -10.0, -15.0]


def test_both_ends_half_way_between_codes_stay_within_the_bits() -> None:
    quantized = quantize(torch.tensor([-3.5, 0.0, 11.5]), Format.parse("int4/tensor/affine"))
    assert (float(quantized.scale), int(quantized.zero)) == (1.0, 4)
    assert quantized.codes.tolist() == [0, 4, 15]  # 12 + 4 would be a fifth bit
    assert quantized.dequantize().tolist() == [-4.0, 0.0, 11.0]


def test_the_last_group_of_a_row_may_be_short() -> None:
    weight = torch.tensor([[1.0, 2.0, 3.0, 4.0, 100.0], [5.0, 5.0, 6.0, 7.0, 0.25]])
    quantized = quantize(weight, Format.parse("int8/group2/affine"))
    assert quantized.scale.shape == (2, 3)
    assert torch.equal(quantized.scale[:, 2], (weight[:, 4] / 255).half().nextafter(torch.tensor(1e4).half()))
    back = quantized.dequantize()
    assert back.shape == weight.shape
    assert float((back - weight).abs().max()) <= 0.2


def test_a_float16_scale_is_rounded_up() -> None:
    weight = random_weight((512, 40), 1, 0.0, 0.0)
    quantized = quantize(weight, Format.parse("int8/channel/symmetric"))
    exact = weight.abs().amax(1).double() / 127
    stored = quantized.scale.flatten().double()
    assert bool((stored >= exact).all())
    assert bool((stored <= exact * (1 + 2.0**-10)).all())
    assert not bool((exact.half().double() >= exact).all())  # rounding to nearest would have fallen below


def test_a_row_of_zeros_gives_zeros_and_leaves_the_others_alone() -> None:
    weight = torch.tensor([[0.0, -0.0, 0.0], [1.0, -2.0, 3.0]])
    for text in ("int4/channel/affine", "int4/channel/symmetric", "int12/channel/affine"):
        quantized = quantize(weight, Format.parse(text))
        back = quantized.dequantize()
        assert back[0].tolist() == [0.0, 0.0, 0.0]
        assert quantized.codes[0].tolist() == [0, 0, 0]
        assert float(quantized.scale.min()) > 0
        assert float((back[1] - weight[1]).abs().max()) < 0.36


@pytest.mark.parametrize("magnitude", [1e-6, 1e-9, 1e-30, 1e-40, 1e-45])
@pytest.mark.parametrize("text", ["int8/channel/affine", "int4/group2/symmetric", "int16/tensor/affine"])
def test_a_row_of_tiny_weights_stays_tiny(magnitude: float, text: str) -> None:
    weight = torch.tensor([[-1.0, 0.5, 1.0], [1.0, 1.0, 1.0]]) * magnitude
    back = quantize_dequantize(weight, Format.parse(text))
    assert bool(back.isfinite().all())
    assert float((back - weight).abs().max()) <= max(2.0**-25, magnitude / 7)


def test_weights_too_wide_for_a_float16_scale_are_refused_with_their_range() -> None:
    weight = torch.tensor([[-3e6, 1.0], [0.0, 1.0]])
    with pytest.raises(NumericsError, match=r"from -3e\+06 to 1; .* scale of 200000, .* granularity tensor"):
        quantize(weight, Format.parse("int4/channel/affine"))
    back = quantize_dequantize(weight, Format.parse("int4/tensor/affine"))
    assert float(back[0, 0]) == pytest.approx(-3e6, rel=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf"), 3e38])
@pytest.mark.parametrize("name", ["rtn", "paper"])
def test_weights_that_no_grid_can_hold_are_refused(bad: float, name: str) -> None:
    with pytest.raises(NumericsError, match="weights range from"):
        quantize(torch.tensor([0.0, bad, 1.0]), Format.parse("int8/tensor/affine"), name)


def test_a_tensor_without_weights_is_refused() -> None:
    with pytest.raises(NumericsError, match=r"shape \(3, 0\) has no weights"):
        quantize(torch.empty(3, 0), Format.parse("int8/channel/affine"))


def test_a_float_format_has_no_codes() -> None:
    with pytest.raises(SettingError, match="fp16 has no codes"):
        get_quantizer("rtn").quantize(torch.ones(3), FP16)


LARGE_GROUPS = [x for x in LAYOUTS if x.group_size in (0, 64)]
"""Below about 16 weights a group, a group's own ends are too many of its weights for the rule."""


@pytest.mark.parametrize("layout", LARGE_GROUPS, ids=str)
def test_the_sqnr_grows_by_six_db_a_bit_on_gaussian_weights(layout: Layout) -> None:
    weight = torch.randn(64, 512, generator=torch.Generator().manual_seed(0))
    levels = [sqnr_db(weight, quantize_dequantize(weight, Format("int", b, layout))) for b in range(4, 13)]
    gains = [after - before for before, after in pairwise(levels)]
    assert all(5.3 < gain < 7.3 for gain in gains), gains
    assert abs(sum(gains) / len(gains) - 6.02) < 0.25


@pytest.mark.parametrize("symmetry", ["affine", "symmetric"])
def test_finer_scales_lose_less(symmetry: str) -> None:
    weight = random_weight((64, 256), 5, 0.0, 0.0) * torch.logspace(-1, 1, 64)[:, None]
    for bits in (3, 4, 6, 8):
        by_scale = [
            sqnr_db(weight, quantize_dequantize(weight, Format.parse(f"int{bits}/{where}/{symmetry}")))
            for where in ("group32", "channel", "tensor")
        ]
        assert by_scale == sorted(by_scale, reverse=True)


def test_the_weight_itself_is_never_changed_and_views_work() -> None:
    base = random_weight((12, 20), 9, 0.0, 0.0)
    weight = base.t()[2:9]
    before = weight.clone()
    for text in ("int4/group3/affine", "int4/channel/symmetric", "int4/tensor/affine"):
        back = quantize_dequantize(weight, Format.parse(text))
        assert torch.equal(back, quantize_dequantize(before, Format.parse(text)))
        assert back.is_contiguous()
    assert torch.equal(weight, before)
