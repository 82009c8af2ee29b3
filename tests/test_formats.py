"""Number formats: their text, their limits, and their bytes counted by hand."""

from __future__ import annotations

from fractions import Fraction
from math import ceil, prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qslm_opt.errors import SettingError
from qslm_opt.formats import (
    FP16,
    FP32,
    SIGN,
    SYMMETRIES,
    TERNARY_BITS,
    WIDTHS,
    Format,
    Layout,
    matrix_shape,
    plain_bits,
)

layouts = st.one_of(
    st.builds(Layout, st.sampled_from(["tensor", "channel"]), st.just(0), st.sampled_from(SYMMETRIES)),
    st.builds(Layout, st.just("group"), st.integers(1, 4096), st.sampled_from(SYMMETRIES)),
)
widths = st.sampled_from(WIDTHS)
formats = st.one_of(
    st.sampled_from([FP32, FP16, SIGN]),
    st.deferred(lambda: st.builds(made, widths, layouts)),
)


def made(bits: float, layout: Layout) -> Format:
    """A format of that width, or of the widest that a layout with float zero points has."""
    return layout.with_bits(min(bits, 8) if layout.symmetry == "offset" else bits)


shapes = st.lists(st.integers(1, 300), min_size=0, max_size=4).map(tuple)


@given(formats)
def test_a_format_is_read_back_from_its_text(fmt):
    assert Format.parse(str(fmt)) == fmt


@given(layouts)
def test_a_layout_is_read_back_from_its_text(layout):
    assert Layout.parse(str(layout)) == layout


@given(st.text(max_size=30).filter(lambda text: "/" not in text and text not in ("fp32", "fp16", "sign")))
def test_any_other_text_is_refused_with_a_setting_error(text):
    for parse in (Format.parse, Layout.parse):
        with pytest.raises(SettingError, match=r"such as|for instance"):
            parse(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("int4", "intBITS/GRANULARITY/SYMMETRY"),
        ("int4/row/affine", "intBITS/GRANULARITY/SYMMETRY"),
        ("INT4/channel/affine", "intBITS/GRANULARITY/SYMMETRY"),
        ("int4/channel/affine ", "intBITS/GRANULARITY/SYMMETRY"),
        ("int1/channel/affine", "1 bits .* use 2 to 16 bits"),
        ("int17/tensor/symmetric", "17 bits .* use 2 to 16 bits"),
        ("int9/channel/offset", "9 bits .* use 2 to 8 bits"),
        ("int0/channel/midrise", "0 bits .* use 1 to 16 bits"),
        ("ternary", "ternary/GRANULARITY"),
        ("ternary/channel/affine", "ternary/GRANULARITY"),
        ("int" + "9" * 5000 + "/channel/affine", "is unknown"),
        ("int4/group0/affine", "group size 0"),
        ("fp64", "'fp64' is unknown"),
        ("", "'' is unknown"),
    ],
)
def test_a_bad_format_is_named_with_what_is_allowed(text, words):
    with pytest.raises(SettingError, match=words):
        Format.parse(text)


@pytest.mark.parametrize(
    ("granularity", "group_size"), [("group", 0), ("group", -64), ("channel", 64), ("tensor", -1)]
)
def test_a_group_size_goes_with_groups_only(granularity, group_size):
    with pytest.raises(SettingError, match=f"group size {group_size} does not go with"):
        Layout(granularity, group_size)


@pytest.mark.parametrize(
    ("kind", "bits", "layout", "words"),
    [
        ("float", 24, None, "use 16 or 32 bits"),
        ("sign", 2, None, "use 1 bits"),
        ("ternary", 2, Layout(), "use 1.58 bits"),
        ("ternary", 1.58, None, "do not fit"),
        ("int", 8, None, "do not fit"),
        ("float", 16, Layout(), "do not fit"),
    ],
)
def test_a_format_that_cannot_be_is_refused(kind, bits, layout, words):
    with pytest.raises(SettingError, match=words):
        Format(kind, bits, layout)


def test_a_layout_makes_formats_of_any_width():
    layout = Layout.parse("group64/symmetric")
    assert str(layout.with_bits(3)) == "int3/group64/symmetric"
    assert layout.with_bits(32) is FP32
    assert str(layout.with_bits(TERNARY_BITS)) == "ternary/group64"
    assert str(layout.with_bits(1)) == "int1/group64/midrise"


@pytest.mark.parametrize(
    ("text", "levels"),
    [("int3/channel/affine", 8), ("int3/channel/symmetric", 7), ("int3/channel/midrise", 8),
     ("int1/tensor/midrise", 2), ("ternary/channel", 3), ("fp16", 0)],
)  # fmt: skip
def test_a_format_knows_how_many_values_a_code_has(text, levels):
    assert Format.parse(text).levels == levels


def test_whole_widths_are_written_as_whole_numbers():
    assert [str(plain_bits(bits)) for bits in (3.0, 1.58, 16)] == ["3", "1.58", "16"]


@pytest.mark.parametrize(
    ("shape", "matrix"),
    [
        ((), (1, 1)),
        ((7,), (1, 7)),
        ((1, 1, 256), (1, 256)),
        ((256, 1024), (256, 1024)),
        ((256, 1), (256, 1)),
        ((8, 3, 5), (8, 15)),
        ((1, 2, 3), (1, 6)),
    ],
)
def test_a_vector_is_one_row_and_a_matrix_has_output_rows(shape, matrix):
    assert matrix_shape(shape) == matrix


# 10 × 13 weights: 130 codes; codes, then scales × (scale bytes + zero bytes)
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("fp32", 4 * 130),
        ("fp16", 2 * 130),
        ("sign", 17),  # 130 bits
        ("int8/tensor/affine", 130 + 1 * (4 + 1)),
        ("int8/tensor/symmetric", 130 + 1 * 4),
        ("int3/tensor/affine", 49 + 1 * (4 + 1)),  # 390 bits
        ("int4/channel/affine", 65 + 10 * (2 + 1)),
        ("int4/channel/symmetric", 65 + 10 * 2),
        ("int9/channel/affine", 147 + 10 * (4 + 2)),  # 1170 bits; float32 scales above 8 bits
        ("int16/channel/symmetric", 260 + 10 * 4),
        ("int2/group4/affine", 33 + 40 * (2 + 1)),  # 260 bits; 13 columns are 4 groups a row
        ("int2/group13/affine", 33 + 10 * (2 + 1)),
        ("int3/channel/midrise", 49 + 10 * 2),
        ("int1/channel/midrise", 17 + 10 * 2),
        ("int4/channel/offset", 65 + 10 * (2 + 2)),
        ("int4/tensor/offset", 65 + 4 + 4),
        ("ternary/channel", 26 + 10 * 2),  # 130 codes, five to a byte
        ("int2/group64/symmetric", 33 + 10 * 2),  # a row shorter than its group has one scale
    ],
)
def test_packed_bytes_agree_with_the_count_by_hand(text, expected):
    assert Format.parse(text).packed_bytes((10, 13)) == expected


def test_a_vector_has_one_scale_per_channel_layout():
    assert Format.parse("int8/channel/affine").packed_bytes((1, 1, 256)) == 256 + 2 + 1


@given(formats, shapes)
def test_packed_bytes_are_exact_integers_and_cover_every_code(fmt, shape):
    size = fmt.packed_bytes(shape)
    overhead = fmt.scales(shape) * (fmt.scale_bytes + fmt.zero_bytes)
    bits = Fraction(8, 5) if fmt.kind == "ternary" else int(fmt.bits)
    assert size == ceil(prod(shape) * bits / 8) + overhead


@given(layouts, shapes, st.integers(1, len(WIDTHS) - 1))
def test_fewer_bits_never_need_more_bytes(layout, shape, place):
    fewer, more = made(WIDTHS[place], layout), made(WIDTHS[place - 1], layout)
    assert fewer.packed_bytes(shape) <= more.packed_bytes(shape)


def test_bytes_stay_exact_beyond_the_floats():
    numel = 2**54 + 1
    assert Format.parse("int8/tensor/symmetric").packed_bytes((numel,)) == numel + 4
