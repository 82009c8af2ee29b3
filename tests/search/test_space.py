"""Levels, their settings and their bytes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qslm_opt.errors import InfeasibleError, SettingError
from qslm_opt.evaluate.memory import live_bytes
from qslm_opt.formats import FP32, SIGN, Format
from qslm_opt.hierarchy.tree import TensorInfo
from qslm_opt.search.space import SearchSpace
from tests.search.toy import hierarchy, spec

PINS = {
    "attention.0": "int8/tensor/symmetric",
    "attention.0/att.key": "fp16",
    "output/head": "int3/group8/affine",
}


def space(tree=None, **changes) -> SearchSpace:
    return SearchSpace.of(spec(**{"memory_budget": "100%", **changes}), tree or hierarchy())


@given(st.lists(st.sampled_from([32, 8, 6, 4, 3, 2]), min_size=6, max_size=6), st.booleans(), st.booleans())
def test_bytes_and_digest_are_those_of_the_setting(levels, pinned, unquantized_rest):
    of = space(pins=PINS if pinned else {}, layout="group8/affine")
    chosen = tuple(levels[: len(of.modules)])
    fixed = FP32 if unquantized_rest else None
    setting = of.setting_of(chosen, fixed)
    assert of.memory(chosen, fixed) == live_bytes(of.hierarchy, setting)
    assert of.digest(chosen, fixed) == setting.digest(of.hierarchy)
    assert [setting.format_of(unit).bits for unit in of.modules] == list(chosen)


@given(st.lists(st.sampled_from([32, 8, 3]), min_size=6, max_size=6), st.booleans())
def test_numbers_of_neurons_are_float32_in_bytes_and_digest_too(levels, pinned):
    tree = hierarchy()
    first, *rest = tree.blocks
    amplitude = TensorInfo("act_clip_val.0", (), "neuron")
    module = replace(first.modules[0], tensors=(*first.modules[0].tensors, amplitude))
    tree = replace(tree, blocks=(replace(first, modules=(module, *first.modules[1:])), *rest))
    of = space(tree, pins=PINS if pinned else {})
    chosen = tuple(levels[: len(of.modules)])
    setting = of.setting_of(chosen)
    assert of.memory(chosen) == live_bytes(tree, setting)
    assert of.memory(chosen) == space(pins=PINS if pinned else {}).memory(chosen) + 4
    assert of.digest(chosen) == setting.digest(tree)


def test_a_setting_names_only_what_differs():
    of = space(hierarchy(modules=("att.key", "att.value", "ffn.key")))
    levels = of.with_level(of.uniform(4), "attention.1", 3)
    levels = of.with_level(levels, "attention.1/att.key", 8)
    levels = of.with_level(levels, "attention.0/ffn.key", 2)
    assert {unit: str(fmt) for unit, fmt in of.setting_of(levels).units.items()} == {
        "network": "int4/channel/affine",
        "attention.0/ffn.key": "int2/channel/affine",
        "attention.1": "int3/channel/affine",
        "attention.1/att.key": "int8/channel/affine",
    }


def test_a_uniform_setting_is_one_entry():
    of = space()
    assert list(of.setting_of(of.uniform(6)).units) == ["network"]


def test_one_block_alone_is_two_entries_and_leaves_the_rest_unquantized():
    of = space()
    setting = of.setting_of(of.with_level(of.uniform(32), "attention.1", 4), FP32)
    assert setting.to_json() == (
        '{"version":1,"quantizer":"rtn","fixed":"fp32",'
        '"units":{"attention.1":"int4/channel/affine","network":"fp32"}}'
    )


def test_pins_are_entries_and_not_searched():
    of = space(pins=PINS)
    assert of.blocks == ("input", "attention.1")
    assert of.modules == ("input/emb", "attention.1/att.key", "attention.1/ffn.key")
    units = of.setting_of(of.uniform(4)).units
    assert {unit: str(units[unit]) for unit in PINS} == PINS


def test_an_embedding_of_signs_is_pinned_to_one_bit():
    tree = hierarchy(sign_only=True)
    assert space(tree, sign_embedding=True).pins == {"input/emb": SIGN}
    assert space(tree, sign_embedding=False).pins == {}


def test_the_users_pin_wins_over_the_sign_format():
    tree, fp16 = hierarchy(sign_only=True), Format.parse("fp16")
    assert space(tree, sign_embedding=True, pins={"input/emb": "fp16"}).pins == {"input/emb": fp16}
    assert space(tree, sign_embedding=True, pins={"input": "fp16"}).pins == {"input": fp16}


def test_excluded_units_stay_in_float32_and_are_counted_so():
    of = space(exclude=["attention.*/att.key", "output"])
    assert of.modules == ("input/emb", "attention.0/ffn.key", "attention.1/ffn.key")
    setting = of.setting_of(of.uniform(4))
    formats = setting.resolve(of.hierarchy)
    assert {name for name, fmt in formats.items() if fmt == FP32} == {
        "blocks.0.att.key.weight", "blocks.1.att.key.weight", "head.weight"
    }  # fmt: skip
    assert str(formats["ln_out.weight"]) == "fp16"
    assert of.memory(of.uniform(4)) == live_bytes(of.hierarchy, setting)
    pinned = space(pins={"attention.0/att.key": "fp16", "attention.1/att.key": "fp16", "output": "fp16"})
    assert of.memory(of.uniform(4)) > pinned.memory(pinned.uniform(4))


def test_an_excluded_embedding_keeps_its_float32_also_where_only_signs_are_read():
    of = space(hierarchy(sign_only=True), sign_embedding=True, exclude=["input"])
    assert of.pins == {"input/emb": FP32}


def test_a_tie_is_one_unit_wherever_its_members_are():
    of = space(ties=["attention.*/att.key", "input/emb, output/head"])
    assert of.ties == (("input/emb", "output/head"), ("attention.0/att.key", "attention.1/att.key"))
    levels = of.with_level(of.uniform(8), "attention.1/att.key", 3)
    assert dict(zip(of.modules, levels, strict=True)) == {
        "input/emb": 8, "attention.0/att.key": 3, "attention.0/ffn.key": 8, "attention.1/att.key": 3,
        "attention.1/ffn.key": 8, "output/head": 8,
    }  # fmt: skip
    assert of.setting_of(levels).digest(of.hierarchy) == of.digest(levels)
    assert of.memory(levels) == live_bytes(of.hierarchy, of.setting_of(levels))


def test_a_tie_that_spans_blocks_moves_with_none_of_them_but_in_the_module_tier():
    of = space(ties=["attention.*/att.key", "input/emb, output/head"])
    order = ("output", "attention.1", "input", "attention.0")
    assert of.moves.block_targets(order) == ("attention.1", "attention.0")
    assert of.moves.module_targets(order) == (
        "input/emb", "attention.0/att.key", "attention.1/ffn.key", "attention.0/ffn.key"
    )  # fmt: skip
    moved = of.with_level(of.uniform(8), "attention.1", 3)
    assert [u for u, bits in zip(of.modules, moved, strict=True) if bits == 3] == ["attention.1/ffn.key"]


def test_a_tie_inside_a_block_moves_with_it_and_is_one_unit_of_the_module_tier():
    of = space(ties=["attention.0"])
    order = ("attention.0", "attention.1")
    assert of.moves.block_targets(order) == order
    assert of.moves.module_targets(order) == (
        "attention.0/att.key", "attention.1/att.key", "attention.1/ffn.key"
    )  # fmt: skip


@pytest.mark.parametrize(
    "ties", [(), ["attention.*/att.key"], ["attention.0", "input,output"], ["attention.*,output/head"]]
)
def test_every_module_moves_with_one_of_the_smallest_and_one_of_the_largest_units(ties):
    of = space(ties=ties)
    for units in (of.moves.smallest, of.moves.largest):
        assert sorted(i for unit in units for i in of.positions(unit)) == list(range(len(of.modules)))


def test_the_sensitivity_of_a_block_is_that_of_all_that_is_tied_to_it():
    of = space(ties=["input/emb,output/head"])
    levels = of.alone("output", 4)
    assert [unit for unit, bits in zip(of.modules, levels, strict=True) if bits == 4] == [
        "input/emb", "output/head"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"exclude": ["attention.7/att.key"]}, r"exclude 'attention.7/att.key' names no unit.*Did you mean"),
        ({"exclude": ["attention.*/att.kye"]}, "names no unit of this model"),
        ({"exclude": ["network"]}, "leaves nothing to search"),
        ({"exclude": ["*"]}, "pins or exclusions leave nothing to search"),
        ({"exclude": ["attention.0/ln1"]}, "would change nothing.*they stay at 'fixed'"),
        ({"exclude": ["attention.0"], "pins": {"attention.0/att.key": "fp16"}}, "both excluded .*pinned"),
        ({"exclude": ["attention.0/att.key"], "pins": {"attention.0": "fp16"}}, "both excluded .*pinned"),
        ({"ties": ["attention.0/att.key"]}, "has one member, attention.0/att.key; name at least two"),
        ({"ties": ["attention.0/att.kye,output"]}, "names no unit.*Did you mean 'attention.0/att.key'"),
        ({"ties": ["attention.*/att.key", "attention.0"]}, "is in the ties .*; join them, or take it out"),
        ({"ties": ["attention.*"], "pins": {"attention.1": "fp16"}}, "holds attention.1/att.key, which is"),
        ({"ties": ["attention.*"], "exclude": ["attention.1"]}, "which is kept at fp32"),
        ({"ties": ["input,output"], "sign_embedding": True}, "only the signs are read.*--no-sign-embedding"),
        ({"ties": ["attention.0/att.key,output/head"]}, "the task never reads them"),
    ],
)
def test_an_exclusion_or_a_tie_that_cannot_be_is_refused(changes, message):
    with pytest.raises(SettingError, match=message):
        space(hierarchy(sign_only=True, dead_head="head" in str(changes)), **changes)


def test_a_dead_head_is_not_searched():
    assert "output" not in space(hierarchy(dead_head=True)).blocks


@pytest.mark.parametrize(
    ("pin", "message"),
    [
        ("attention.7", "attention.7.*Did you mean"),
        ("network", "leaves nothing to search"),
        ("attention.0/ln1", "would change nothing"),
    ],
)
def test_a_pin_that_cannot_be_is_refused(pin, message):
    with pytest.raises(SettingError, match=message):
        space(pins={pin: "fp16"})


def test_pinning_everything_is_refused():
    with pytest.raises(SettingError, match="4 pins or exclusions leave nothing to search"):
        space(pins=dict.fromkeys(["input", "attention.0", "attention.1", "output"], "fp16"))


def test_a_budget_out_of_reach_names_the_smallest_bytes_and_the_fix():
    of = space(precisions=(8, 4))
    smallest, setting = of.smallest()
    assert smallest == live_bytes(of.hierarchy, setting) == of.memory(of.uniform(4))
    with pytest.raises(InfeasibleError) as caught:
        space(precisions=(8, 4), memory_budget="1KB")
    assert str(caught.value) == (
        "memory budget 1,000 bytes cannot be reached: with all searched units at 4 bits the model still "
        f"needs {smallest:,} bytes; raise the budget to at least {smallest:,} bytes, "
        "or allow fewer than 4 bits."
    )
    assert caught.value.exit_code == 4


def test_the_floor_lowers_only_what_is_free():
    of = space()
    levels = of.uniform(8)
    assert of.floor(levels, []) == of.memory(levels)
    assert of.floor(levels, of.positions("input")) == of.memory(of.with_level(levels, "input", 2))
    assert of.floor(levels, range(len(levels))) == of.smallest()[0]
