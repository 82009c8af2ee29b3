"""Quantization settings: precedence, canonical JSON, digests."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qslm_opt.errors import SettingError
from qslm_opt.formats import FP16, FP32, SIGN, Format, Layout
from qslm_opt.hierarchy.tree import NETWORK, Block, Hierarchy, Module, TensorInfo
from qslm_opt.setting import UNQUANTIZED, QuantSetting

LAYOUT = Layout()
INT = {bits: LAYOUT.with_bits(bits) for bits in (2, 3, 4, 6, 8)}


def tree() -> Hierarchy:
    def attention(i: int) -> Block:
        names = ("att.key", "att.value", "ffn.key")
        modules = [
            Module(f"attention.{i}/{n}", (TensorInfo(f"blocks.{i}.{n}.weight", (4, 4), "matrix"),))
            for n in names
        ]
        modules.append(Module(f"attention.{i}/ln1", (TensorInfo(f"blocks.{i}.ln1.weight", (4,), "norm"),)))
        return Block(f"attention.{i}", "attention", tuple(modules))

    emb = TensorInfo("emb.weight", (9, 4), "embedding")
    dead = TensorInfo("head.weight", (9, 4), "head", live=False)
    return Hierarchy(
        "spikegpt",
        (
            Block("input", "input", (Module("input/emb", (emb,)),)),
            attention(0),
            attention(1),
            Block("output", "output", (Module("output/head", (dead,)),)),
        ),
    )


UNITS = tree().units()
format_values = st.one_of(
    st.sampled_from([FP32, FP16, SIGN]),
    st.builds(
        lambda bits, symmetry: Layout("channel", 0, symmetry).with_bits(bits),
        st.integers(2, 16),
        st.sampled_from(["affine", "symmetric", "midrise"]),
    ),
)
settings_ = st.builds(
    lambda units, network, fixed, quantizer: QuantSetting({**units, NETWORK: network}, fixed, quantizer),
    st.dictionaries(st.sampled_from(UNITS), format_values),
    format_values,
    format_values,
    st.sampled_from(["rtn", "paper"]),
)


def test_a_module_wins_over_its_block_which_wins_over_the_network():
    setting = QuantSetting(
        {NETWORK: INT[8], "attention.0": INT[4], "attention.0/att.key": INT[2], "attention.1/ffn.key": INT[3]}
    )
    assert setting.format_of("attention.0/att.key") == INT[2]
    assert setting.format_of("attention.0/att.value") == INT[4]
    assert setting.format_of("attention.1/ffn.key") == INT[3]
    assert setting.format_of("attention.1/att.key") == INT[8]
    assert setting.format_of("input/emb") == INT[8]


def test_block_ten_is_not_block_one():
    setting = QuantSetting({NETWORK: INT[8], "attention.1": INT[2]})
    assert setting.format_of("attention.10/att.key") == INT[8]


@given(settings_)
def test_precedence_does_not_depend_on_the_order_of_the_entries(setting):
    backwards = QuantSetting(dict(reversed(setting.units.items())), setting.fixed, setting.quantizer)
    assert backwards.resolve(tree()) == setting.resolve(tree())
    assert backwards.to_json() == setting.to_json()


@given(settings_)
def test_resolve_names_every_counted_tensor_once_and_no_other(setting):
    resolved = setting.resolve(tree())
    assert set(resolved) == {t.name for t in tree().tensors() if t.counted}
    assert resolved["blocks.0.ln1.weight"] == setting.fixed
    assert resolved["emb.weight"] == setting.format_of("input/emb")


def test_a_setting_needs_an_entry_for_the_network():
    with pytest.raises(SettingError, match="no entry for 'network'"):
        QuantSetting({"attention.0": INT[4]})


def test_an_unknown_unit_is_refused_when_it_meets_the_model():
    setting = QuantSetting({NETWORK: INT[8], "attention.2": INT[4]})
    with pytest.raises(SettingError, match=r"'attention.2' is not in this model.*Did you mean"):
        setting.resolve(tree())


def test_with_unit_leaves_the_original_alone():
    before = QuantSetting({NETWORK: INT[8]})
    after = before.with_unit("attention.0", INT[4]).with_unit(NETWORK, INT[6])
    assert dict(before.units) == {NETWORK: INT[8]}
    assert dict(after.units) == {NETWORK: INT[6], "attention.0": INT[4]}


@given(settings_)
def test_a_setting_survives_its_json(setting):
    again = QuantSetting.from_json(setting.to_json())
    assert again == setting
    assert again.to_json() == setting.to_json()


def test_the_json_is_canonical_and_self_contained():
    setting = QuantSetting({"attention.0": INT[4], NETWORK: INT[8]})
    assert setting.to_json() == (
        '{"version":1,"quantizer":"rtn","fixed":"fp16",'
        '"units":{"attention.0":"int4/channel/affine","network":"int8/channel/affine"}}'
    )


@given(settings_)
def test_two_ways_to_say_the_same_have_one_digest(setting):
    spelled = {m.unit: setting.format_of(m.unit) for m in tree().modules()}
    explicit = QuantSetting({NETWORK: FP32, **spelled}, setting.fixed, setting.quantizer)
    assert explicit.digest(tree()) == setting.digest(tree())


@given(settings_, settings_)
def test_settings_that_differ_on_a_tensor_differ_in_digest(one, other):
    same = (one.resolve(tree()), one.quantizer) == (other.resolve(tree()), other.quantizer)
    assert (one.digest(tree()) == other.digest(tree())) == same


def test_a_digest_is_the_same_in_every_process_and_release():
    assert QuantSetting({NETWORK: INT[8], "attention.0": INT[4]}).digest(tree()) == "194d81905c59eb30"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "with 'units'"),
        ("3", "with 'units'"),
        ('{"units": []}', "with 'units'"),
        ('{"units": {}}', "no entry for 'network'"),
        ('{"units": {"network": "int4"}}', "'int4' is unknown"),
        ('{"units": {"network": 4}}', "'4' is unknown"),
        ('{"units": {"network": "fp32"}, "fixd": "fp16"}', "'fixd' is unknown. Did you mean 'fixed'"),
        ('{"units": {"network": "fp32"}, "version": 2}', "version 2 is not 1"),
        ('{"units": {"network": "fp32"}, "fixed": "fp8"}', "'fp8' is unknown"),
    ],
)
def test_a_bad_setting_file_is_named_with_the_fix(text, words):
    with pytest.raises(SettingError, match=words):
        QuantSetting.from_json(text)


def test_a_short_file_takes_the_defaults():
    setting = QuantSetting.from_json('{"units": {"network": "int4/tensor/affine"}}')
    assert (setting.fixed, setting.quantizer) == (FP16, "rtn")
    assert setting.units == {NETWORK: Format.parse("int4/tensor/affine")}


def test_the_unquantized_setting_leaves_every_tensor_in_float32():
    assert set(UNQUANTIZED.resolve(tree()).values()) == {FP32}
    assert json.loads(UNQUANTIZED.to_json())["units"] == {"network": "fp32"}


@given(settings_)
def test_numbers_of_neurons_stay_float32_in_every_setting(setting):
    """Whatever the rest and their own module get."""
    amplitude = TensorInfo("act_clip_val.0", (), "neuron")
    module = Module("attention.0/att.key", (TensorInfo("key.weight", (4, 4), "matrix"), amplitude))
    alone = Hierarchy("spikelm", (Block("attention.0", "attention", (module,)),))
    setting = QuantSetting(
        {unit: fmt for unit, fmt in setting.units.items() if unit in alone.units()}, setting.fixed
    )
    assert setting.resolve(alone)["act_clip_val.0"] == FP32
    assert not amplitude.searched and amplitude.counted
