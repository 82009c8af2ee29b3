"""A setting over a model's tensors: what changes, what is the same object, what is cached."""

from __future__ import annotations

import pytest
import torch

from qslm_opt.errors import ModelError, NumericsError, SettingError
from qslm_opt.formats import FP16, FP32, SIGN, Format
from qslm_opt.hierarchy.tree import Block, Hierarchy, Module, TensorInfo
from qslm_opt.quant import QuantizedView, quantize_dequantize
from qslm_opt.setting import UNQUANTIZED, QuantSetting

INT4 = Format.parse("int4/channel/affine")
INT3 = Format.parse("int3/channel/affine")


def tree() -> Hierarchy:
    """An embedding with a tied head, one block, and heads that the task never reads."""
    shape = (6, 8)
    att = (
        Module("attention.0/att.key", (TensorInfo("key", shape, "matrix"),)),
        Module("attention.0/ln1", (TensorInfo("ln1", (8,), "norm"),)),
    )
    output = (
        Module("output/tied", (TensorInfo("tied", shape, "head", tied_to="emb"),)),
        Module("output/dead", (TensorInfo("dead", shape, "head", live=False),)),
        Module("output/both", (TensorInfo("both", shape, "head", live=False, tied_to="emb"),)),
    )
    return Hierarchy(
        "test",
        (
            Block("input", "input", (Module("input/emb", (TensorInfo("emb", shape, "embedding"),)),)),
            Block("attention.0", "attention", att),
            Block("output", "output", output),
        ),
    )


def model() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(6, 8, generator=generator) for name in ("emb", "key", "dead")}
    tensors["ln1"] = 1 + torch.rand(8, generator=generator)
    tensors["tied"] = tensors["both"] = tensors["emb"]
    return tensors


def test_the_setting_that_changes_nothing_returns_the_original_objects() -> None:
    tensors = model()
    applied = QuantizedView(tensors, tree()).apply(UNQUANTIZED)
    assert applied.keys() == tensors.keys()
    assert all(applied[name] is tensors[name] for name in tensors)


def test_each_tensor_takes_the_format_of_its_unit() -> None:
    tensors = model()
    before = {name: value.clone() for name, value in tensors.items()}
    setting = QuantSetting({"network": INT4, "attention.0/att.key": INT3}, fixed=FP16)
    applied = QuantizedView(tensors, tree()).apply(setting)
    assert torch.equal(applied["emb"], quantize_dequantize(tensors["emb"], INT4))
    assert torch.equal(applied["key"], quantize_dequantize(tensors["key"], INT3))
    assert torch.equal(applied["ln1"], quantize_dequantize(tensors["ln1"], FP16))
    assert all(torch.equal(tensors[name], before[name]) for name in tensors)


def test_a_tied_tensor_is_its_source_and_a_dead_one_is_untouched() -> None:
    tensors = model()
    applied = QuantizedView(tensors, tree()).apply(QuantSetting({"network": INT4}))
    assert applied["tied"] is applied["emb"]
    assert applied["emb"] is not tensors["emb"]
    assert applied["dead"] is tensors["dead"]
    assert applied["both"] is tensors["emb"]


def test_quantized_tensors_are_made_once_per_format_and_quantizer() -> None:
    view = QuantizedView(model(), tree())
    first = view.apply(QuantSetting({"network": INT4}))
    again = view.apply(QuantSetting({"network": INT3, "input": INT4}))
    assert again["emb"] is first["emb"]
    assert again["ln1"] is first["ln1"]
    assert again["key"] is not first["key"]
    affine = Format.parse("int4/tensor/affine")
    paper = view.apply(QuantSetting({"network": affine}, quantizer="paper"))
    assert paper["ln1"] is first["ln1"]  # fp16 does not depend on the quantizer
    assert paper["emb"] is not view.apply(QuantSetting({"network": affine}))["emb"]


def test_the_cache_keeps_within_its_bytes_and_drops_what_was_unused_for_longest() -> None:
    matrix = 6 * 8 * 4
    view = QuantizedView(model(), tree(), cache_bytes=3 * matrix)
    kept = view.apply(QuantSetting({"network": FP32, "input": INT4}, fixed=FP32))["emb"]
    for bits in range(5, 12):
        fmt = Format.parse(f"int{bits}/channel/affine")
        applied = view.apply(QuantSetting({"network": FP32, "attention.0": fmt, "input": INT4}, fixed=FP32))
        assert applied["emb"] is kept  # used every time, so never dropped
        assert view.cached_bytes <= 3 * matrix
    old = Format.parse("int5/channel/affine")
    fresh = view.apply(QuantSetting({"network": FP32, "attention.0": old}, fixed=FP32))["key"]
    assert torch.equal(fresh, quantize_dequantize(model()["key"], old))


def test_a_cache_of_no_bytes_still_gives_the_right_values() -> None:
    tensors = model()
    view = QuantizedView(tensors, tree(), cache_bytes=0)
    setting = QuantSetting({"network": INT4})
    assert torch.equal(view.apply(setting)["key"], quantize_dequantize(tensors["key"], INT4))
    assert view.apply(setting)["key"] is not view.apply(setting)["key"]
    assert view.cached_bytes == 0


def test_tensors_keep_the_dtype_of_the_model() -> None:
    tensors = {name: value.double() for name, value in model().items()}
    applied = QuantizedView(tensors, tree()).apply(QuantSetting({"network": INT4, "input": SIGN}))
    assert {value.dtype for value in applied.values()} == {torch.float64}
    single = quantize_dequantize(model()["key"], INT4)
    assert torch.equal(applied["key"], single.double())


def test_an_unknown_unit_or_quantizer_is_refused() -> None:
    view = QuantizedView(model(), tree())
    with pytest.raises(SettingError, match=r"unit 'atention.0' .* Did you mean 'attention.0'"):
        view.apply(QuantSetting({"network": INT4, "atention.0": INT3}))
    with pytest.raises(SettingError, match="quantizer 'nearest' is unknown"):
        view.apply(QuantSetting({"network": FP32}, quantizer="nearest"))


def test_weights_that_cannot_be_quantized_are_named() -> None:
    tensors = model()
    tensors["key"][2, 3] = float("nan")
    with pytest.raises(NumericsError, match="tensor 'key': weights range from nan to nan"):
        QuantizedView(tensors, tree()).apply(QuantSetting({"network": INT4}))


def test_a_model_without_a_tensor_of_the_hierarchy_is_refused() -> None:
    tensors = model()
    del tensors["ln1"]
    with pytest.raises(ModelError, match="no tensor 'ln1' \\(1 missing in all\\)"):
        QuantizedView(tensors, tree())
