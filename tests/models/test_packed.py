"""A packed model: exactly the claimed bytes, exactly the simulated weights, and the very number."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

import qslm_opt.models.hf  # noqa: F401  registers with the Auto classes
from qslm_opt.conformance import make_case
from qslm_opt.errors import ModelError, SettingError, UsageError
from qslm_opt.evaluate.memory import live_bytes
from qslm_opt.formats import FP16, FP32, SIGN, WIDTHS, Format, Layout
from qslm_opt.hierarchy.discover import discover
from qslm_opt.models import load_model
from qslm_opt.models.loading import LoadedModel, hash_weights
from qslm_opt.models.packed import PackedModel, load_packed
from qslm_opt.models.packing import Origin, pack_model
from qslm_opt.models.registry import BUILT_IN, get_family
from qslm_opt.models.spikegpt_config import SpikeGPTConfig
from qslm_opt.pipeline import Session
from qslm_opt.quant import QuantizedView
from qslm_opt.quant.packed_tensor import PackedTensor
from qslm_opt.setting import UNQUANTIZED, QuantSetting
from qslm_opt.spec import StudySpec
from tests.conformance.test_built_in import SMALL
from tests.models import packed_layouts, packed_reader

CONFIG = SpikeGPTConfig(vocab_size=30, n_layer=2, n_embd=24, n_ffn=40, n_labels=3)
SCOPES = ("tensor", "channel", "group16")
SYMMETRIES = ("affine", "offset", "symmetric", "midrise")


def has(bits: float, symmetry: str) -> bool:
    return not (bits > 8 and symmetry == "offset")


def formats_of(scope: str, symmetry: str) -> list[Format]:
    layout = Layout.parse(f"{scope}/{symmetry}")
    return list(dict.fromkeys(layout.with_bits(bits) for bits in WIDTHS if has(bits, symmetry)))


ALL = list(
    dict.fromkeys([FP16, FP32, SIGN, *(f for s in SCOPES for y in SYMMETRIES for f in formats_of(s, y))])
)


def model_of(config: SpikeGPTConfig = CONFIG, ties: dict[str, str] | None = None) -> LoadedModel:
    made = torch.Generator().manual_seed(5)
    tensors = {n: torch.randn(s, generator=made) for n, s in config.tensor_shapes().items()}
    ties = ties or {}
    tensors |= {name: tensors[source] for name, source in ties.items()}
    return LoadedModel(config, tensors, "made here", hash_weights(tensors), None, ties)


def packed_by(
    folder: Path, model: LoadedModel, setting: QuantSetting, kind: str = "classification"
) -> tuple[PackedModel, dict[str, torch.Tensor]]:
    """The packed model, and the weights that the setting is simulated with."""
    hierarchy = discover(model.config, model.shapes, kind, model.ties)
    view = QuantizedView(model.tensors, hierarchy)
    origin = Origin("sst2" if kind == "classification" else None, kind, "0/0")
    pack_model(folder, model, hierarchy, setting, view.codes(setting), origin)
    packed = load_packed(folder)
    assert packed.payload_bytes == live_bytes(hierarchy, setting) == packed.header["bytes"]
    return packed, view.apply(setting)


def check_weights(packed: PackedModel, simulated: dict[str, torch.Tensor]) -> None:
    """Ours and the independent reader's weights are the simulated ones, bit for bit."""
    header, theirs = packed_reader.read(packed.path)
    ours = packed.weights()
    assert list(ours) == list(packed.config.tensor_shapes()) and theirs.keys() == ours.keys()
    for name, weight in ours.items():
        assert torch.equal(weight, simulated[name]), name
        assert np.array_equal(theirs[name], weight.numpy()), name
    assert header["setting"] == json.loads(packed.setting.to_json())


@pytest.mark.parametrize("symmetry", SYMMETRIES)
@pytest.mark.parametrize("scope", SCOPES)
def test_every_format_is_stored_in_its_bytes_and_read_back(tmp_path: Path, scope: str, symmetry: str) -> None:
    for fmt in formats_of(scope, symmetry):
        setting = QuantSetting({"network": fmt}, fixed=fmt)
        packed, simulated = packed_by(tmp_path / str(fmt).replace("/", "-"), model_of(), setting)
        check_weights(packed, simulated)


@pytest.mark.parametrize(
    ("quantizer", "text"),
    [("mse", "int3/channel/affine"), ("hqq", "int4/group16/offset"), ("paper", "int8/tensor/affine")],
)
def test_what_other_quantizers_make_is_read_back(tmp_path: Path, quantizer: str, text: str) -> None:
    setting = QuantSetting({"network": Format.parse(text)}, quantizer=quantizer)
    check_weights(*packed_by(tmp_path / "out", model_of(), setting))


def test_codes_that_no_file_can_hold_are_refused(tmp_path: Path) -> None:
    model = model_of()
    model.tensors["emb.weight"].abs_().add_(1)  # one sign: the authors' codes leave their bits
    setting = QuantSetting({"network": Format.parse("int4/tensor/affine")}, quantizer="paper")
    with pytest.raises(SettingError, match=r"tensor 'emb.weight': codes from .* do not fit"):
        packed_by(tmp_path / "out", model, setting)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("pre", [False, True])
def test_dead_tensors_are_left_out(tmp_path: Path, pre: bool) -> None:
    config = replace(CONFIG, model_type="RWKV-ffnPre") if pre else CONFIG
    setting = QuantSetting({"network": SIGN, "output/head": FP32, "output/classifier": FP16})
    classes, simulated = packed_by(tmp_path / "c", model_of(config), setting)
    assert "head.weight" not in classes.tensors and not classes.config.has_head
    check_weights(classes, simulated)
    lm, simulated = packed_by(tmp_path / "l", model_of(config), setting, "lm")
    assert "classifier.weight" not in lm.tensors and lm.config.n_labels == 0
    check_weights(lm, simulated)
    assert load_model(str(tmp_path / "l")).config == lm.config


def test_tied_tensors_are_stored_once(tmp_path: Path) -> None:
    config = replace(CONFIG, n_labels=0)
    model = model_of(config, {"head.weight": "emb.weight"})
    setting = QuantSetting({"network": Format.parse("int5/channel/affine")})
    packed, simulated = packed_by(tmp_path / "out", model, setting, "lm")
    check_weights(packed, simulated)
    assert packed.tensors["head.weight"] is packed.tensors["emb.weight"]
    loaded = load_model(str(tmp_path / "out"))
    assert loaded.tensors["head.weight"] is loaded.tensors["emb.weight"]
    assert loaded.ties == {"head.weight": "emb.weight"}


def test_a_packed_tensor_counts_its_bytes() -> None:
    for fmt in ALL:
        if fmt.kind != "float":
            weight = torch.randn(7, 50, generator=torch.Generator().manual_seed(2))
            made = QuantizedView({"w": weight}, _one(weight)).codes(QuantSetting({"network": fmt}))["w"]
            packed = PackedTensor.of(made)
            assert packed.nbytes == fmt.packed_bytes((7, 50)), fmt
            assert torch.equal(packed.dequantize(), made.dequantize())


def _one(weight: torch.Tensor):
    from qslm_opt.hierarchy.tree import Block, Hierarchy, Module, TensorInfo

    info = TensorInfo("w", tuple(weight.shape), "matrix")
    return Hierarchy("test", (Block("input", "input", (Module("input/w", (info,)),)),))


# -- the number ------------------------------------------------------------------------------------


def demo_spec(task: str, **keys: object) -> StudySpec:
    bound = {"max_increase": "1e9"} if task == "demo" else {"max_drop": 1.0}
    limit = {"demo": 1, "demo-classify": 24}[task]
    base = {"name": "t", "model": "demo", "task": task, "memory_budget": "100%", "limit": limit}
    return StudySpec.from_mapping({**base, **bound, "device": "cpu", **keys})


@pytest.fixture(scope="module")
def demo() -> Callable[[str], Session]:
    opened: dict[str, Session] = {}
    return lambda task: opened.get(task) or opened.setdefault(task, Session.open(demo_spec(task)))


def pack_session(folder: Path, session: Session, setting: QuantSetting) -> Session:
    """Pack what a session runs; return the session of the packed model on the same data."""
    origin = Origin(session.spec.task, session.data.kind, "0/0")
    pack_model(folder, session.model, session.hierarchy, setting, session.codes(setting), origin)
    model = load_model(str(folder))
    tree = discover(model.config, model.shapes, session.data.kind, model.ties)
    return Session(session.spec, model, tree, session.data)


def mixed_settings(session: Session) -> list[QuantSetting]:
    """Settings that give every module another format, until all formats had their turn."""
    units = [module.unit for module in session.hierarchy.modules() if module.searched]
    parts = (ALL[i : i + len(units)] for i in range(0, len(ALL), len(units)))
    return [QuantSetting({"network": FP16, **dict(zip(units, part, strict=False))}) for part in parts]


@pytest.mark.parametrize("task", ["demo", "demo-classify"])
def test_the_packed_demo_gives_the_very_number_in_every_format(
    tmp_path: Path, demo: Callable[[str], Session], task: str
) -> None:
    session = demo(task)
    for place, setting in enumerate(mixed_settings(session)):
        packed = pack_session(tmp_path / str(place), session, setting)
        ours, theirs = packed.run(setting)[0], session.run(setting)[0]
        assert (ours.value, ours.nll_sum, ours.correct) == (theirs.value, theirs.nll_sum, theirs.correct)
        assert (ours.live_bytes, ours.fp32_bytes) == (theirs.live_bytes, theirs.fp32_bytes)
        assert packed.model.packed is not None
        assert packed.model.packed.payload_bytes == ours.live_bytes
    header, weights = packed_reader.read(tmp_path / "0" / "packed.safetensors")
    assert header["task"] == task
    ours = load_model(str(tmp_path / "0")).tensors
    assert all(np.array_equal(weights[name], tensor.numpy()) for name, tensor in ours.items())


def test_codes_over_calibration_text_are_those_that_were_measured(tmp_path: Path) -> None:
    session = Session.open(demo_spec("demo-classify", quantizer="gptq", calibration=8))
    few, ternary = Format.parse("int2/channel/midrise"), Format.parse("ternary/channel")
    units = {"network": FP16, "attention.0/att.key": few, "output": ternary}
    setting = QuantSetting(units, quantizer="gptq")
    packed = pack_session(tmp_path / "out", session, setting)
    assert packed.run(setting)[0].nll_sum == session.run(setting)[0].nll_sum
    weights = session.model.tensors
    plain = QuantizedView(weights, session.hierarchy).codes(replace(setting, quantizer="mse"))
    name = "blocks.0.att.key.weight"
    assert not torch.equal(packed.model.tensors[name], plain[name].dequantize()), "gptq did nothing"


def test_a_tied_head_has_one_set_of_codes_over_calibration_text() -> None:
    model = model_of(replace(CONFIG, n_labels=0), {"head.weight": "emb.weight"})
    tree = discover(model.config, model.shapes, "lm", model.ties)
    read = torch.randn(64, 24, generator=torch.Generator().manual_seed(3))
    moments = {"head.weight": read.T @ read / 64}

    def weight(values: torch.Tensor, scale: torch.Tensor | None, *, head: bool) -> torch.Tensor:
        return values if scale is None else values * scale[:, None]

    view = QuantizedView(
        model.tensors, tree, weight=weight, products={"head.weight": True}, moments=lambda: moments
    )
    setting = QuantSetting({"network": Format.parse("int2/channel/affine")}, quantizer="gptq")
    applied, code = view.apply(setting), view.codes(setting)["emb.weight"].dequantize()
    assert torch.equal(applied["emb.weight"], code)
    assert torch.equal(applied["head.weight"], code)
    alone = view.codes(replace(setting, quantizer="mse"))["emb.weight"].dequantize()
    assert not torch.equal(code, alone)


def test_a_packed_model_has_one_setting(tmp_path: Path, demo: Callable[[str], Session]) -> None:
    setting = QuantSetting({"network": SIGN})
    packed = pack_session(tmp_path / "out", demo("demo-classify"), setting)
    with pytest.raises(SettingError, match="no other"):
        packed.run(UNQUANTIZED)
    spec = demo_spec("demo-classify", model=str(tmp_path / "out"))
    with pytest.raises(UsageError, match="is packed, and its weights cannot be quantized again"):
        Session.open(spec)
    opened = Session.open(spec, packed=True)
    assert opened.run(setting)[0].nll_sum == packed.run(setting)[0].nll_sum
    for keys in ({"embed_spike": "off"}, {"rescale_every": 2}):
        with pytest.raises(ModelError, match="is taken as it is"):
            load_model(str(tmp_path / "out"), **keys)


# -- the library's classes and files ---------------------------------------------------------------


def test_from_pretrained_loads_a_packed_folder(tmp_path: Path) -> None:
    setting = QuantSetting({"network": Format.parse("int3/channel/midrise")})
    _, simulated = packed_by(tmp_path / "c", model_of(), setting)
    classes = AutoModelForSequenceClassification.from_pretrained(tmp_path / "c")
    assert all(torch.equal(p, simulated[n]) for n, p in classes.named_parameters())
    assert not classes.training
    packed_by(tmp_path / "l", model_of(), setting, "lm")
    lm = AutoModelForCausalLM.from_pretrained(tmp_path / "l")
    ids = torch.arange(12).reshape(1, 12)
    assert lm(ids).logits.shape == (1, 12, 30)
    with pytest.raises(ModelError, match="load it with AutoModelForSequenceClassification"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "c")
    with pytest.raises(ModelError, match="taken as it is"):
        AutoModelForSequenceClassification.from_pretrained(tmp_path / "c", num_labels=5)


def test_the_file_is_a_safetensors_file(tmp_path: Path) -> None:
    packed, _ = packed_by(tmp_path / "out", model_of(), QuantSetting({"network": SIGN}))
    with safe_open(packed.path, "pt") as file:
        assert file.metadata()["format"] == "qslm-packed"
        assert file.metadata()["sha256"] == packed.checksum
        assert file.get_tensor("payload").numel() == packed.payload_bytes


def test_the_document_names_every_key_of_the_header(tmp_path: Path) -> None:
    packed, _ = packed_by(tmp_path / "out", model_of(), QuantSetting({"network": SIGN}))
    text = (Path(__file__).parents[2] / "docs" / "packed-format.md").read_text("utf-8")
    table = text.partition("## The JSON header")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(packed.header)
    named = set(re.findall(r"`(\w+)`", next(line for line in table.splitlines() if "`config` |" in line)))
    assert named - {"config"} == set(packed.header["config"])


def test_the_folder_must_be_free(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    packed_by(tmp_path / "out", model_of(), QuantSetting({"network": SIGN}))
    with pytest.raises(UsageError, match="is not an empty folder"):
        packed_by(tmp_path / "out", model_of(), QuantSetting({"network": SIGN}))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_independent_reader_is_independent() -> None:
    for module in (packed_reader, packed_layouts):
        source = ast.parse(Path(module.__file__).read_text("utf-8"))
        imported = {a.name for node in ast.walk(source) if isinstance(node, ast.Import) for a in node.names}
        imported |= {node.module for node in ast.walk(source) if isinstance(node, ast.ImportFrom)}
        assert not any("qslm" in str(name) for name in imported)


FAMILIES: dict[str, dict[str, Any]] = {name: keys for name, keys in SMALL.items() if name != "spikegpt"} | {
    "spikellm": {
        **SMALL["spikellm"], "attention_bias": True, "mlp_bias": True, "activation_bits": 4, "added_bits": 1,
        "salient_share": 0.1, "salient_known": True,
    },
    "llama": {**SMALL["spikellm"], "head_dim": 8},
}  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_the_independent_reader_reads_every_family(tmp_path: Path, name: str) -> None:
    family = get_family("spikellm" if name == "llama" else name)
    case = make_case(family, family.config_class(**FAMILIES[name]))
    model = LoadedModel(case.config, case.tensors, "made here", hash_weights(case.tensors), None)
    kind = "lm" if case.config.generates else "classification"
    for text in ("int3/channel/affine", "ternary/group5"):
        setting = QuantSetting({"network": Format.parse(text)}, quantizer="mse")
        check_weights(*packed_by(tmp_path / text.partition("/")[0], model, setting, kind))


def test_the_independent_reader_knows_all_families() -> None:
    assert list(packed_layouts.LAYOUTS) == list(BUILT_IN)


def test_the_reference_model_keeps_its_accuracy_and_its_bytes(shared: Path, tmp_path: Path) -> None:
    spec = StudySpec.from_mapping(
        {"name": "t", "model": str(shared / "models/spikegpt-14m-sst2"), "task": "sst2", "max_drop": 1.0,
         "data": str(shared / "data/sst2"), "memory_budget": "100%", "limit": 24, "device": "cpu"}
    )  # fmt: skip
    session = Session.open(spec)
    texts = ("int1/channel/midrise", "ternary/channel", "int2/channel/midrise")
    formats = [Format.parse(text) for text in texts]
    units = [module.unit for module in session.hierarchy.modules() if module.searched]
    setting = QuantSetting(
        {"network": formats[0], **{unit: formats[i * i % 3] for i, unit in enumerate(units)}}
    )
    packed = pack_session(tmp_path / "out", session, setting)
    ours, theirs = packed.run(setting)[0], session.run(setting)[0]
    assert (ours.correct, ours.nll_sum) == (theirs.correct, theirs.nll_sum)
    size = (tmp_path / "out" / "packed.safetensors").stat().st_size
    assert abs(size - theirs.live_bytes) <= 0.001 * theirs.live_bytes
