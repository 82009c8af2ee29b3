"""Bytes of a setting, counted by hand over a small tree."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from qslm_opt.evaluate.memory import live_bytes, unit_bytes
from qslm_opt.formats import SIGN, Layout
from qslm_opt.hierarchy.tree import NETWORK, Block, Hierarchy, Module, TensorInfo
from qslm_opt.setting import UNQUANTIZED, QuantSetting

TREE = Hierarchy(
    "spikegpt",
    (
        Block("input", "input", (
            Module("input/emb", (TensorInfo("emb.weight", (100, 8), "embedding", sign_only=True),)),
            Module("input/ln0", (
                TensorInfo("ln0.weight", (8,), "norm"), TensorInfo("ln0.bias", (8,), "bias"),
            )),
        )),
        Block("attention.0", "attention", (
            Module("attention.0/att.key", (TensorInfo("key", (8, 8), "matrix"),)),
            Module("attention.0/ffn.value", (TensorInfo("value", (8, 32), "matrix"),)),
        )),
        Block("output", "output", (
            Module("output/head", (TensorInfo("head", (100, 8), "head", live=False),)),
            Module("output/tied", (TensorInfo("tied", (8, 8), "head", tied_to="key"),)),
        )),
    ),
)  # fmt: skip
CHANNEL = Layout.parse("channel/affine")


def test_bytes_agree_with_the_count_by_hand():
    setting = QuantSetting(
        {NETWORK: CHANNEL.with_bits(4), "input/emb": SIGN, "attention.0/att.key": CHANNEL.with_bits(3)}
    )
    assert unit_bytes(TREE, setting) == {
        "input/emb": 100,                        # 800 bits
        "input/ln0": 2 * (8 + 8),                # fixed fp16
        "attention.0/att.key": 24 + 8 * 3,       # 192 bits, 8 rows of scale and zero
        "attention.0/ffn.value": 128 + 8 * 3,
        "output/head": 0,                        # dead for the task
        "output/tied": 0,                        # counted where it is tied to
    }  # fmt: skip
    assert live_bytes(TREE, setting) == 100 + 32 + 48 + 152


def test_the_unquantized_setting_needs_the_float32_bytes():
    assert live_bytes(TREE, UNQUANTIZED) == TREE.fp32_bytes() == 4 * (800 + 16 + 64 + 256)


@given(
    st.lists(st.integers(3, 16), min_size=3, max_size=3),
    st.sampled_from(["tensor", "channel", "group5"]),
    st.sampled_from(["affine", "symmetric"]),
    st.integers(0, 2),
)
def test_lower_bits_anywhere_never_need_more_memory(bits, where, symmetry, lowered):
    layout = Layout.parse(f"{where}/{symmetry}")
    units = ("input/emb", "attention.0/att.key", "attention.0/ffn.value")

    def bytes_of(levels):
        return live_bytes(
            TREE,
            QuantSetting(
                {NETWORK: SIGN} | {u: layout.with_bits(b) for u, b in zip(units, levels, strict=True)}
            ),
        )

    lower = [b - (i == lowered) for i, b in enumerate(bits)]
    assert bytes_of(lower) <= bytes_of(bits)
