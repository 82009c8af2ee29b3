"""The tree of a model: units in order, what counts, what is searched."""

from __future__ import annotations

import json

import pytest

from qslm_opt.errors import SettingError
from qslm_opt.hierarchy.tree import NETWORK, Block, Hierarchy, Module, TensorInfo


def tree() -> Hierarchy:
    emb = TensorInfo("emb.weight", (50, 4), "embedding", sign_only=True)
    norm = TensorInfo("ln0.weight", (4,), "norm")
    key = TensorInfo("att.key.weight", (4, 4), "matrix")
    time = TensorInfo("att.time_decay", (4,), "decay")
    head = TensorInfo("head.weight", (50, 4), "head", tied_to="emb.weight")
    dead = TensorInfo("classifier.weight", (2, 4), "head", live=False)
    return Hierarchy(
        "spikegpt",
        (
            Block("input", "input", (Module("input/emb", (emb,)), Module("input/ln0", (norm,)))),
            Block("attention.0", "attention", (
                Module("attention.0/att.key", (key,)), Module("attention.0/att.time", (time,)),
            )),
            Block("output", "output", (Module("output/head", (head,)), Module("output/classifier", (dead,)))),
        ),
    )  # fmt: skip


def test_units_come_in_the_order_in_which_the_model_computes():
    assert tree().units() == (
        NETWORK,
        "input", "input/emb", "input/ln0",
        "attention.0", "attention.0/att.key", "attention.0/att.time",
        "output", "output/head", "output/classifier",
    )  # fmt: skip


def test_a_tie_and_a_dead_tensor_are_neither_counted_nor_searched():
    by_name = {t.name: t for t in tree().tensors()}
    counted = {name for name, t in by_name.items() if t.counted}
    assert counted == {"emb.weight", "ln0.weight", "att.key.weight", "att.time_decay"}
    assert {name for name, t in by_name.items() if t.searched} == {"emb.weight", "att.key.weight"}


def test_the_unquantized_bytes_are_four_per_counted_weight():
    assert tree().fp32_bytes() == 4 * (50 * 4 + 4 + 4 * 4 + 4)


def test_a_module_is_searched_when_one_of_its_tensors_is():
    searched = {m.unit for m in tree().modules() if m.searched}
    assert searched == {"input/emb", "attention.0/att.key"}


def test_an_unknown_unit_is_refused_with_the_nearest_one():
    with pytest.raises(
        SettingError, match=r"'attention.0/att.kye' is not.*Did you mean 'attention.0/att.key'"
    ):
        tree().check_unit("attention.0/att.kye")
    for unit in tree().units():
        tree().check_unit(unit)


def test_a_tree_survives_json_text():
    assert Hierarchy.from_json(json.loads(json.dumps(tree().to_json()))) == tree()
