"""The bit layout of packed codes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qslm_opt.errors import SettingError
from qslm_opt.formats import Format
from qslm_opt.quant import quantize
from qslm_opt.quant.pack import _AT_ONCE, code_offset, pack_codes, unpack_codes

FORMATS = [
    *(f"int{bits}/channel/affine" for bits in range(2, 17)),
    *(f"int{bits}/channel/midrise" for bits in range(1, 9)),
    "int3/channel/symmetric", "int4/group64/offset", "ternary/channel", "sign",
]  # fmt: skip


def codes_of(fmt: Format, count: int, seed: int = 0) -> torch.Tensor:
    made = torch.Generator().manual_seed(seed)
    values = torch.randint(0, fmt.levels, (count,), generator=made, dtype=torch.int32)
    return 2 * values - 1 if fmt.kind == "sign" else values - code_offset(fmt)


@given(st.sampled_from(FORMATS), st.integers(0, 300), st.integers(0, 9))
def test_codes_come_back_and_take_the_bytes_of_the_arithmetic(text, count, seed):
    fmt = Format.parse(text)
    codes = codes_of(fmt, count, seed)
    data = pack_codes(codes, fmt)
    assert data.dtype == torch.uint8 and data.numel() == fmt.code_bytes(count)
    assert torch.equal(unpack_codes(data, fmt, count), codes)


@pytest.mark.parametrize("text", ["int3/channel/midrise", "ternary/channel"])
def test_long_tensors_are_one_stream(text):
    fmt, count = Format.parse(text), _AT_ONCE + 13
    codes = codes_of(fmt, count)
    data = pack_codes(codes, fmt)
    assert data.numel() == fmt.code_bytes(count)
    assert torch.equal(unpack_codes(data, fmt, count), codes)


def test_the_layout_is_the_documented_one():
    codes = torch.tensor([1, 2, 3, 4, 5, 6, 7, 0], dtype=torch.int32)
    stream = sum(int(code) << (3 * i) for i, code in enumerate(codes))
    data = pack_codes(codes, Format.parse("int3/channel/affine"))
    assert bytes(data.tolist()) == stream.to_bytes(3, "little")
    ternary = pack_codes(torch.tensor([-1, 0, 1, 1, 0, 1]), Format.parse("ternary/channel"))
    assert ternary.tolist() == [0 + 3 * 1 + 9 * 2 + 27 * 2 + 81 * 1, 2]
    assert pack_codes(torch.tensor([1, -1, -1, 1]), Format.parse("sign")).tolist() == [0b1001]


@pytest.mark.parametrize("text", ["int2/channel/affine", "int4/channel/symmetric", "ternary/group64", "sign"])
def test_what_quantizers_make_can_be_packed(text):
    weight = torch.randn(6, 96, generator=torch.Generator().manual_seed(1))
    made = quantize(weight, Format.parse(text), "mse")
    back = unpack_codes(pack_codes(made.codes, made.fmt), made.fmt, weight.numel())
    assert torch.equal(back.reshape(weight.shape), made.codes)


def test_codes_outside_the_format_and_wrong_lengths_are_refused():
    with pytest.raises(SettingError, match="from 0 to 4 do not fit"):
        pack_codes(torch.tensor([0, 4]), Format.parse("int2/channel/affine"))
    with pytest.raises(SettingError, match="exactly 3 do"):
        unpack_codes(torch.zeros(4, dtype=torch.uint8), Format.parse("int3/channel/affine"), 8)
