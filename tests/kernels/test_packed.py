"""Weights that stay packed on the CPU: every format and odd shapes against the quantizer's own numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from qslm_opt.errors import NumericsError  # noqa: E402
from qslm_opt.formats import Format  # noqa: E402
from qslm_opt.kernels.packed import reference  # noqa: E402
from qslm_opt.kernels.packed.arena import KIND, TERNARY, build_arena, planes  # noqa: E402
from qslm_opt.kernels.packed.cpu import product  # noqa: E402
from qslm_opt.kernels.packed.held import FEW_ROWS, PACKED_NUMBA, Buffer, HeldWeight  # noqa: E402
from qslm_opt.kernels.packed.place import hold  # noqa: E402
from qslm_opt.kernels.packed.spread import room  # noqa: E402
from qslm_opt.quant.pack import pack_codes, unpack_codes  # noqa: E402
from tests.kernels.packed_cases import FORMATS, SHAPES, activations, packed_case, tolerance  # noqa: E402

CASES = [(text, shape) for text in FORMATS for shape in SHAPES]


def held(text: str, shape: tuple[int, ...], seed: int = 0, *, alone: bool = False):
    packed, true = packed_case(text, shape, seed)
    weights, _ = hold({"w": packed}, torch.device("cpu"), ("w",) if alone else ())
    return weights["w"], true


@pytest.mark.parametrize(("text", "shape"), CASES)
def test_the_weights_are_those_of_the_quantizer_bit_for_bit(text, shape):
    packed, true = packed_case(text, shape)
    assert torch.equal(reference.dequantize(packed), true)
    weight, _ = held(text, shape)
    assert torch.equal(weight.whole(), true)
    assert torch.equal(weight.vector(), true.reshape(-1))


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("text", FORMATS)
def test_single_rows_are_rows_of_the_whole(text, alone):
    weight, true = held(text, (33, 257), alone=alone)
    ids = torch.tensor([[0, 32, 7], [7, 31, 1]])
    assert torch.equal(weight.rows(ids), true[ids])
    packed, _ = packed_case(text, (33, 257))
    assert torch.equal(reference.dequantize_rows(packed, ids), true[ids])


@pytest.mark.parametrize(("text", "shape"), CASES)
def test_products_stay_within_float32_rounding(text, shape):
    weight, true = held(text, shape)
    for rows in (1, 3):
        x = activations(rows, shape[1])
        wanted, bound = x.double() @ true.double().T, tolerance(x, true)
        assert bool(((weight.product(x).double() - wanted).abs() <= bound).all())
        y = np.full((rows, shape[0]), np.nan, np.float32)
        arena = weight.arena
        product(arena.views, arena.table[0], x.numpy(), y, room(arena))
        assert bool(((torch.from_numpy(y).double() - wanted).abs() <= bound).all())


def test_many_rows_give_the_library_the_same_weights():
    weight, true = held("int3/channel/midrise", (40, 64))
    x = activations(FEW_ROWS + 1, 64)
    assert torch.equal(PACKED_NUMBA.linear(x, weight), torch.nn.functional.linear(x, true))
    targets = torch.arange(FEW_ROWS + 1)
    assert torch.equal(PACKED_NUMBA.nll(x, weight, targets), PACKED_NUMBA.nll(x, true, targets))


def test_products_keep_the_leading_shape_and_take_plain_weights_too():
    weight, true = held("int4/channel/affine", (5, 16))
    x = activations(6, 16).reshape(2, 3, 16)
    assert weight.product(x).shape == (2, 3, 5)
    assert torch.equal(PACKED_NUMBA.linear(x, true), torch.nn.functional.linear(x, true))
    torch.testing.assert_close(PACKED_NUMBA.linear(x, weight), x @ true.T, rtol=1e-4, atol=1e-4)


@settings(max_examples=30)
@given(data=st.data())
def test_any_shape_and_format_comes_back(data):
    shape = data.draw(st.tuples(st.integers(1, 40), st.integers(1, 300)))
    weight, true = held(data.draw(st.sampled_from(FORMATS)), shape, data.draw(st.integers(0, 99)))
    assert torch.equal(weight.whole(), true)
    row = data.draw(st.integers(0, shape[0] - 1))
    assert torch.equal(weight.rows(torch.tensor([row])), true[row : row + 1])


@pytest.mark.parametrize("text", [text for text in FORMATS if not text.startswith("fp")])
def test_random_access_reads_the_stream_that_pack_codes_writes(text):
    fmt = Format.parse(text)
    generator = torch.Generator().manual_seed(3)
    values = torch.randint(0, fmt.levels, (101,), generator=generator)
    stream = pack_codes(2 * values - 1 if fmt.kind == "sign" else values - _offset(fmt), fmt)
    index = torch.randperm(101, generator=generator)
    assert torch.equal(reference.codes_at(stream, fmt, index), values[index])
    assert len(unpack_codes(stream, fmt, 101)) == 101


def _offset(fmt):
    from qslm_opt.quant.pack import code_offset

    return code_offset(fmt)


def test_every_ternary_byte_gives_its_five_digits():
    """All 243 of them, so the multiplication by 3 never carries a wrong digit out."""
    fmt = Format.parse("ternary/channel")
    codes = torch.cartesian_prod(*[torch.tensor([-1, 0, 1])] * 5).T.contiguous()  # [5, 243]
    from qslm_opt.quant.base import QuantizedTensor
    from qslm_opt.quant.packed_tensor import PackedTensor

    made = QuantizedTensor(codes.int(), torch.ones(5, 1).half(), None, fmt, (5, 243))
    weights, _ = hold({"w": PackedTensor.of(made)}, torch.device("cpu"), ())
    assert int(weights["w"].arena.table[0, KIND]) == TERNARY
    assert torch.equal(weights["w"].whole(), codes.float())


@pytest.mark.parametrize("bits", range(1, 17))
def test_the_planes_of_a_width_sum_to_it(bits):
    assert sum(planes(bits)) == bits
    assert sorted(planes(min(bits, 8)), reverse=True) == planes(min(bits, 8))


@pytest.mark.parametrize(
    "text",
    ["int1/channel/midrise", "ternary/channel", "int2/channel/affine", "int3/channel/midrise",
     "int5/group64/offset", "int8/channel/affine"],
)  # fmt: skip
def test_what_is_held_is_within_three_percent_of_what_is_stored(text):
    """At the shapes of real models: rows of 256 and 1024, and the embedding's sign bits."""
    tensors = {f"m{n}": packed_case(text, shape)[0] for n, shape in enumerate([(256, 256), (256, 1024)])}
    tensors["emb"] = packed_case("sign", (512, 256))[0]
    arena = build_arena(tensors, alone=("emb",))
    stored = sum(tensor.nbytes for tensor in tensors.values())
    assert stored <= arena.held_bytes <= 1.03 * stored


def test_tied_tensors_are_held_once():
    packed, _ = packed_case("int4/channel/affine", (64, 64))
    alone, both = build_arena({"a": packed}), build_arena({"a": packed, "b": packed})
    assert both.held_bytes == alone.held_bytes
    assert both.index["a"] == both.index["b"]


def test_a_zero_point_out_of_range_is_refused():
    packed, _ = packed_case("int4/channel/affine", (4, 4))

    class Wrong:
        data, scale, fmt, shape = packed.data, packed.scale, packed.fmt, packed.shape
        zero = torch.full((4, 1), -1, dtype=torch.int32)

    with pytest.raises(NumericsError, match="zero points from -1"):
        build_arena({"w": Wrong()})


def test_the_buffer_grows_and_is_shared():
    buffer = Buffer()
    first = buffer.take(4, 8)
    assert buffer.held_bytes == 4 * 8 * 4
    assert buffer.take(2, 8).data_ptr() == first.data_ptr()
    arena = build_arena({"a": packed_case("fp32", (4, 8))[0]})
    assert HeldWeight(arena, 0, buffer).whole().data_ptr() == first.data_ptr()
