from __future__ import annotations

import pytest

from qslm_opt.errors import ModelError
from qslm_opt.formats import FP32
from qslm_opt.hierarchy.discover import discover
from qslm_opt.hierarchy.tree import NETWORK, Hierarchy
from qslm_opt.models.spikegpt_config import SpikeGPTConfig
from qslm_opt.setting import UNQUANTIZED, QuantSetting

SMALL = SpikeGPTConfig(vocab_size=50, n_layer=2, n_embd=8)
CLASSIFIER = SpikeGPTConfig(vocab_size=50, n_layer=2, n_embd=8, n_labels=2)
PUBLIC = SpikeGPTConfig(vocab_size=50277, n_layer=18, n_embd=768)


def tree(config: SpikeGPTConfig, kind: str = "lm", ties: dict[str, str] | None = None) -> Hierarchy:
    return discover(config, config.tensor_shapes(), kind, ties or {})


def by_name(hierarchy: Hierarchy) -> dict:
    return {t.name: t for t in hierarchy.tensors()}


def params(hierarchy: Hierarchy, unit: str) -> int:
    return sum(t.numel for b in hierarchy.blocks if b.unit == unit for t in b.tensors())


def test_the_public_model_has_330_tensors_and_215399424_parameters() -> None:
    tensors = list(tree(PUBLIC).tensors())
    assert len(tensors) == 330
    assert sum(t.numel for t in tensors) == 215_399_424
    assert tree(PUBLIC).fp32_bytes() == 861_597_696


def test_the_public_models_blocks_have_the_published_shares() -> None:
    hierarchy = tree(PUBLIC)
    assert [b.unit for b in hierarchy.blocks] == ["input", *(f"attention.{i}" for i in range(18)), "output"]
    assert params(hierarchy, "input") == params(hierarchy, "output") == 38_614_272
    assert {params(hierarchy, f"attention.{i}") for i in range(18)} == {7_676_160}
    assert round(100 * 38_614_272 / 215_399_424, 3) == 17.927
    attention = [m for m in hierarchy.modules() if m.unit.startswith("attention.")]
    searched = [(m.unit, t.numel) for m in attention for t in m.tensors if t.searched]
    matrices = {part: sum(n for unit, n in searched if f"/{part}." in unit) for part in ("att", "ffn")}
    assert matrices == {"att": 42_467_328, "ffn": 95_551_488}
    small = sum(t.numel for m in attention for t in m.tensors if not t.searched)
    assert small == 152_064


def test_the_public_head_is_dead_weight_in_classification() -> None:
    config = SpikeGPTConfig(vocab_size=50277, n_layer=18, n_embd=768, n_labels=2)
    hierarchy = tree(config, "classification")
    assert len(list(hierarchy.tensors())) == 331
    assert hierarchy.fp32_bytes() == 4 * 176_788_224
    assert not by_name(hierarchy)["head.weight"].live


@pytest.mark.parametrize("kind", ["lm", "classification"])
@pytest.mark.parametrize("model_type", ["RWKV", "RWKV-ffnPre"])
@pytest.mark.parametrize("n_labels", [0, 3])
@pytest.mark.parametrize("has_head", [True, False])
def test_every_tensor_is_in_exactly_one_module(
    kind: str, model_type: str, n_labels: int, has_head: bool
) -> None:
    config = SpikeGPTConfig(50, 3, 8, model_type=model_type, n_labels=n_labels, has_head=has_head)
    hierarchy = tree(config, kind)
    names = [t.name for t in hierarchy.tensors()]
    assert sorted(names) == sorted(config.tensor_shapes())
    assert {t.name: t.shape for t in hierarchy.tensors()} == config.tensor_shapes()
    assert len(set(hierarchy.units())) == len(hierarchy.units())


def test_modules_stand_in_the_order_in_which_the_model_computes() -> None:
    units = [m.unit for m in tree(CLASSIFIER, "classification").modules()]
    assert units[:2] == ["input/emb", "input/ln0"]
    assert units[2:13] == [
        f"attention.0/{m}"
        for m in (
            "ln1", "att.key", "att.value", "att.receptance", "att.output", "att.time",
            "ln2", "ffn.key", "ffn.receptance", "ffn.value", "ffn.time",
        )
    ]  # fmt: skip
    assert units[-3:] == ["output/ln_out", "output/head", "output/classifier"]


def test_a_ffnpre_model_has_a_channel_mix_first_in_block_0_only() -> None:
    config = SpikeGPTConfig(50, 2, 8, model_type="RWKV-ffnPre")
    units = [m.unit for m in tree(config).modules()]
    assert [u for u in units if "ffnPre" in u] == [
        f"attention.0/ffnPre.{m}" for m in ("key", "receptance", "value", "time")
    ]
    assert "attention.0/att.key" not in units
    assert "attention.1/att.key" in units


def test_roles_say_what_is_searched() -> None:
    tensors = by_name(tree(CLASSIFIER, "classification"))
    roles = {
        "emb.weight": "embedding", "head.weight": "head", "classifier.weight": "head",
        "blocks.0.ln0.weight": "norm", "blocks.1.ln2.bias": "norm", "ln_out.weight": "norm",
        "blocks.0.att.time_mix_k": "mix", "blocks.1.ffn.time_mix_r": "mix",
        "blocks.0.att.time_decay": "decay", "blocks.0.att.time_first": "decay",
        "blocks.1.att.output.weight": "matrix", "blocks.1.ffn.value.weight": "matrix",
    }  # fmt: skip
    assert {name: tensors[name].role for name in roles} == roles
    searched = [t for t in tensors.values() if t.searched]
    assert len(searched) == 1 + 2 * 7 + 1


def test_a_head_counts_only_for_the_task_that_reads_it() -> None:
    lm, classes = by_name(tree(CLASSIFIER, "lm")), by_name(tree(CLASSIFIER, "classification"))
    assert (lm["head.weight"].live, lm["classifier.weight"].live) == (True, False)
    assert (classes["head.weight"].live, classes["classifier.weight"].live) == (False, True)


@pytest.mark.parametrize(("embed_spike", "vocabulary", "expected"), [
    ("on", 50, True), ("off", 50, False), ("auto", 50, False), ("auto", 77, True),
])  # fmt: skip
def test_only_an_embedding_under_the_heaviside_is_sign_only(
    embed_spike: str, vocabulary: int, expected: bool
) -> None:
    config = SpikeGPTConfig(vocabulary, 2, 8, embed_spike=embed_spike)
    assert [t.name for t in tree(config).tensors() if t.sign_only] == (["emb.weight"] if expected else [])


def test_a_tied_head_counts_once_and_makes_the_embedding_more_than_signs() -> None:
    hierarchy = tree(SMALL, ties={"head.weight": "emb.weight"})
    tensors = by_name(hierarchy)
    assert tensors["head.weight"].tied_to == "emb.weight"
    assert not tensors["emb.weight"].sign_only
    assert tree(SMALL).fp32_bytes() - hierarchy.fp32_bytes() == 4 * 50 * 8


def test_a_tied_head_that_the_task_never_reads_leaves_the_embedding_sign_only() -> None:
    tensors = by_name(tree(CLASSIFIER, "classification", {"head.weight": "emb.weight"}))
    assert tensors["emb.weight"].sign_only
    assert not tensors["head.weight"].counted


def test_of_tied_tensors_a_live_one_counts() -> None:
    config = SpikeGPTConfig(vocab_size=2, n_layer=2, n_embd=8, n_labels=2)
    tensors = by_name(tree(config, "classification", {"classifier.weight": "head.weight"}))
    assert tensors["classifier.weight"].counted
    assert tensors["head.weight"].tied_to == "classifier.weight"


def test_an_unquantized_setting_names_every_counted_tensor() -> None:
    hierarchy = tree(CLASSIFIER, "classification")
    formats = UNQUANTIZED.resolve(hierarchy)
    assert set(formats) == {t.name for t in hierarchy.tensors() if t.counted}
    assert set(formats.values()) == {FP32}
    assert QuantSetting({NETWORK: FP32, "attention.1/att.time": FP32}).resolve(hierarchy)


def test_a_tensor_without_a_place_is_named() -> None:
    shapes = {**SMALL.tensor_shapes(), "blocks.0.att.gate.weight": (8, 8)}
    with pytest.raises(ModelError, match=r"blocks\.0\.att\.gate\.weight"):
        discover(SMALL, shapes, "lm")


def test_a_missing_tensor_is_named() -> None:
    shapes = SMALL.tensor_shapes()
    del shapes["ln_out.bias"]
    with pytest.raises(ModelError, match=r"'ln_out\.bias' is missing"):
        discover(SMALL, shapes, "lm")


def test_a_hierarchy_survives_json() -> None:
    hierarchy = tree(CLASSIFIER, "classification", {"head.weight": "emb.weight"})
    assert Hierarchy.from_json(hierarchy.to_json()) == hierarchy
