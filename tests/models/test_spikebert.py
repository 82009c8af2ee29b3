"""SpikeBERT: the original's numbers and spikes, and everything that the product does with a model."""

from __future__ import annotations

import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from qslm_opt.data.taskdata import build, encode
from qslm_opt.errors import ModelError, NumericsError
from qslm_opt.evaluate.agreement import agreement
from qslm_opt.evaluate.calibrate import input_moments
from qslm_opt.evaluate.drift import DriftMeter
from qslm_opt.evaluate.engine import Engine
from qslm_opt.formats import SIGN, Format
from qslm_opt.hierarchy.discover import discover
from qslm_opt.kernels.ops import REFERENCE, Ops, fast_ops
from qslm_opt.models.family import Fired, Inputs
from qslm_opt.models.loading import LoadedModel, load_model, save_model
from qslm_opt.models.packing import Origin, pack_model
from qslm_opt.models.registry import find_family
from qslm_opt.models.spikebert import SpikeBERT, SpikeBERTConfig
from qslm_opt.models.words import open_tokenizer, word_pieces
from qslm_opt.pipeline import Session
from qslm_opt.setting import UNQUANTIZED, QuantSetting
from qslm_opt.spec import StudySpec
from qslm_opt.train.surrogate import TRAINING

FAMILY, CPU = SpikeBERT(), torch.device("cpu")
CONFIG = SpikeBERTConfig(
    vocab_size=40, depths=2, dim=16, num_classes=2, transforms=True, heads=4, timesteps=3, length=12
)
DTYPES = [(torch.float64, REFERENCE, 1e-9), (torch.float32, fast_ops("cpu"), 5e-6)]
IDS = torch.tensor([[1, 5, 6, 2, 0], [1, 7, 2, 0, 0]])
OWN = torch.tensor([4, 3])


class Seen(Fired):
    """Keeps the spikes of every site, [B, S, T, N]."""

    def __init__(self, inputs: Inputs) -> None:
        super().__init__(inputs)
        self.spikes: dict[str, Tensor] = {}

    def add(self, site: str, spikes: Tensor, v: Tensor | None = None) -> None:
        self.spikes[site] = spikes.transpose(0, 1)
        super().add(site, spikes, v)


def weights(config: SpikeBERTConfig = CONFIG, seed: int = 7) -> dict[str, Tensor]:
    """Random tensors under which the neurons of every site fire now and then."""
    made = torch.Generator().manual_seed(seed)
    found = {}
    for name, shape in config.tensor_shapes().items():
        scale = 1.0 if len(shape) == 1 or name == "emb.weight" else shape[1] ** -0.5
        found[name] = torch.randn(shape, generator=made) * scale + (config.role(name) == "norm") * 0.9
    return found


def model_of(config: SpikeBERTConfig = CONFIG) -> LoadedModel:
    return LoadedModel(config, weights(config), "made here", "0" * 64, None)


def run(config: SpikeBERTConfig, p: dict[str, Tensor], inputs: Inputs, ops: Ops = REFERENCE) -> Tensor:
    return FAMILY.logits(p, config, inputs, ops, Fired(None))


def sentences(pad_to: int | None = 12, alike: bool = True) -> Any:
    rng = np.random.default_rng(3)
    rows = [np.array([1, *rng.integers(3, 40, n), 2]) for n in (1, 4, 9, 2, 10, 6)]
    data = build("sst2", "validation", rows, source="", labels=np.array([0, 1, 0, 1, 1, 0]))
    return replace(data, pad_to=pad_to, pads_alike=alike)


# -- the original ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def golden(shared: Path) -> tuple[LoadedModel, dict[str, Any], dict[str, Any]]:
    folder = shared / "models/spikebert-tiny"
    read = [json.loads((folder / f"{name}.json").read_text()) for name in ("inputs", "expected")]
    return load_model(str(folder / "model.pth"), overrides={"length": 32}), read[0], read[1]


def cast(model: LoadedModel, dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: tensor.to(dtype) for name, tensor in model.tensors.items()}


@pytest.mark.parametrize(("dtype", "ops", "tolerance"), DTYPES, ids=["float64", "float32"])
def test_logits_and_spikes_are_the_originals(golden: Any, dtype: Any, ops: Ops, tolerance: float) -> None:
    model, given, expected = golden
    inputs = Inputs(torch.tensor(given["input_ids"]), None)
    fired = Seen(inputs)
    logits = FAMILY.logits(cast(model, dtype), model.config, inputs, ops, fired)
    wanted = torch.tensor(expected["padded"]["logits"], dtype=dtype)
    assert logits.dtype == dtype and float((logits - wanted).abs().max()) < tolerance
    assert list(fired.spikes) == list(model.config.sites()) == list(expected["padded"]["spikes"])
    for site, known in expected["padded"]["spikes"].items():
        spikes = fired.spikes[site]
        assert spikes.sum((2, 3)).tolist() == known["counts"], site
        bits = np.packbits(spikes.bool().contiguous().numpy().ravel())
        assert sha256(bits.tobytes()).hexdigest() == known["sha256"], site
        assert float(fired.counts[site]) == np.sum(known["counts"])


def rows_of(given: dict[str, Any], longest: int) -> tuple[Tensor, Tensor]:
    """Padded ids and lengths of the sentences; the last one is cut, its [SEP] kept."""
    cut = [s if len(s) <= longest else [*s[: longest - 1], s[-1]] for s in given["sequences"]]
    ids = torch.zeros(len(cut), longest, dtype=torch.int64)
    for row, sentence in zip(ids, cut, strict=True):
        row[: len(sentence)] = torch.tensor(sentence)
    return ids, torch.tensor([len(s) for s in cut])


@pytest.mark.parametrize(("dtype", "ops", "tolerance"), DTYPES, ids=["float64", "float32"])
def test_one_pad_stands_for_all(golden: Any, dtype: Any, ops: Ops, tolerance: float) -> None:
    """Without the two longest sentences, pads are computed once; logits and counts are the padded ones."""
    model, given, expected = golden
    ids, lengths = rows_of(given, 32)
    some = (lengths < 20).nonzero().flatten()
    inputs = Inputs(ids[some][:, : int(lengths[some].max()) + 1], lengths[some], pad_to=32)
    fired = Fired(inputs)
    logits = FAMILY.logits(cast(model, dtype), model.config, inputs, ops, fired)
    wanted = torch.tensor(expected["padded"]["logits"], dtype=dtype)[some]
    assert len(some) == 4 and float((logits - wanted).abs().max()) < tolerance
    for site, known in expected["padded"]["spikes"].items():
        assert float(fired.counts[site]) == np.array(known["counts"])[some].sum(), site


@pytest.mark.parametrize(("dtype", "ops", "tolerance"), DTYPES, ids=["float64", "float32"])
def test_pads_that_are_no_tokens_change_nothing(golden: Any, dtype: Any, ops: Ops, tolerance: float) -> None:
    """The original's other protocol, each sentence alone and unpadded, from one padded batch."""
    model, given, expected = golden
    ids, lengths = rows_of(given, 32)
    inputs = Inputs(ids, lengths)
    fired = Fired(inputs)
    logits = FAMILY.logits(cast(model, dtype), model.config, inputs, ops, fired)
    alone = expected["unpadded_one_by_one"]
    wanted = torch.tensor([entry["logits"] for entry in alone], dtype=dtype)
    assert float((logits - wanted).abs().max()) < tolerance
    for site, count in fired.counts.items():
        assert float(count) == sum(entry["counts"][site] for entry in alone), site


def trained(shared: Path, **keys: Any) -> StudySpec:
    return StudySpec.from_mapping(
        {"name": "t", "model": str(shared / "models/spikebert-sst2/model.pth"), "task": "sst2",
         "data": str(shared / "data/sst2"), "max_drop": 1.0, "memory_budget": "100%", "device": "cpu",
         "tokenizer": str(shared / "tokenizers/bert-base-uncased-vocab.txt"), "config": {"length": 64},
         **keys}
    )  # fmt: skip


def test_the_trained_model_gives_the_originals_logits(shared: Path) -> None:
    session = Session.open(trained(shared, limit=48))
    known = np.load(shared / "models/spikebert-sst2/validation_logits.npz")
    for dtype, ops, tolerance in DTYPES:
        p = cast(session.model, dtype)
        for batch in session.engine.plan.batches:
            logits = run(session.model.config, p, batch.inputs, ops).double().numpy()
            assert np.abs(logits - known["logits_f64"][list(batch.members)]).max() < tolerance
    right = (known["logits_f64"].argmax(1) == known["labels"])[:48]
    assert session.run(UNQUANTIZED)[0].correct == right.sum()


@pytest.mark.slow
def test_the_trained_model_keeps_its_accuracy_and_all_spikes(shared: Path) -> None:
    session = Session.open(trained(shared))
    expected = json.loads((shared / "models/spikebert-sst2/expected.json").read_text())
    precise = Engine(session.model, session.hierarchy, session.data, device="cpu", dtype=torch.float64)
    for found in (session.run(UNQUANTIZED)[0], precise.evaluate(UNQUANTIZED)):
        assert found.n == 872 and found.value == expected["accuracy_float64"]
        for site, place in session.model.config.sites().items():
            spikes = found.rates[site] * 872 * 64 * 4 * place.width
            assert spikes == pytest.approx(expected["spike_totals_float64"][site], abs=0.01), site


def test_sentences_stand_between_cls_and_sep(shared: Path) -> None:
    tokenizer = open_tokenizer(shared / "tokenizers/bert-base-uncased-vocab.txt")
    how = FAMILY.encoding(replace(CONFIG, length=6))
    (ids,) = encode(tokenizer, ["a truly good film of it"], special=how.special, longest=how.longest)
    assert [tokenizer.id_to_token(i) for i in ids] == ["[CLS]", "a", "truly", "good", "film", "[SEP]"]
    assert how.pad_to == 6 and how.pads_alike


# -- config and tree -------------------------------------------------------------------------------


def saved(folder: Path, values: dict[str, Any] | None = None, prefix: str = "") -> str:
    torch.save({prefix + name: tensor for name, tensor in weights().items()}, folder / "model.pth")
    if values is not None:
        (folder / "config.json").write_text(json.dumps(values))
    return str(folder / "model.pth")


def test_the_config_is_inferred_but_for_what_no_shape_tells(tmp_path: Path) -> None:
    keys = {"heads": 4, "timesteps": 3, "length": 12}
    assert load_model(saved(tmp_path, prefix="module."), overrides=keys).config == CONFIG
    by_file = load_model(saved(tmp_path, {"T": 3, "heads": 4, "length": 12, "mode": "distill", "depths": 2}))
    assert by_file.config == CONFIG
    plain = replace(CONFIG, heads=8, timesteps=4, length=128)
    (tmp_path / "config.json").unlink()
    assert load_model(str(tmp_path / "model.pth")).config == plain
    assert plain.semantics().keys() == {"heads", "timesteps", "tau", "common_thr", "qk_scale", "length"}
    lean = {n: t for n, t in weights().items() if not n.startswith("transforms.")}
    assert find_family(lean) is not None and find_family(lean).name == "spikebert"
    shapes = {n: tuple(t.shape) for n, t in lean.items()}
    assert SpikeBERTConfig.from_shapes(shapes, **keys) == CONFIG.lean("classification")


def test_a_saved_folder_loads_back(tmp_path: Path) -> None:
    save_model(tmp_path / "out", replace(CONFIG, tau=3.5), weights())
    model = load_model(str(tmp_path / "out"))
    assert model.config == replace(CONFIG, tau=3.5)
    assert all(torch.equal(model.tensors[n], t) for n, t in weights().items())


@pytest.mark.parametrize(("keys", "message"), [
    ({"heads": 5}, "'heads' is 5; it must divide the width 16"),
    ({"heads": 0}, "'heads' is 0; it must be at least 1"),
    ({"timesteps": 0}, "'timesteps' is 0"),
    ({"timesteps": 10**9}, "'timesteps' is 1000000000; it must be at most"),
    ({"depths": 10**9}, "'depths' is 1000000000; it must be at most"),
    ({"length": 1}, "'length' is 1; it must be at least 2"),
    ({"length": 10**8}, "'length' is 100000000; it must be at most"),
    ({"tau": 0.5}, "'tau' is 0.5; it must be at least 1"),
    ({"tau": float("nan")}, "'tau' is nan"),
    ({"tau": float("inf")}, "'tau' is inf"),
    ({"tau": 10**400}, "'tau' is 1000"),
    ({"common_thr": 0}, "'common_thr' is 0; it must"),
    ({"qk_scale": -1.0}, "'qk_scale' is -1.0"),
    ({"hidden": -4}, "'hidden' is -4"),
    ({"vocab_size": 10**30}, "'vocab_size' is 1000000000000000000000000000000; it must be at most"),
    ({"T": 0}, "'T' is 0; it must be at least 1"),
    ({"tsteps": 4}, "'tsteps' is unknown"),
    ({"length": 4.5}, "'length' is 4.5; it must be a whole number"),
    ({"depths": 3}, "missing"),
])  # fmt: skip
def test_a_key_that_cannot_be_is_named(tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_model(saved(tmp_path), overrides=keys)


@pytest.mark.parametrize(("values", "message"), [
    ({"model_type": "bert"}, "model_type 'bert' is another family"),
    ({"T": "four"}, "'T' is 'four'"),
])  # fmt: skip
def test_a_config_file_that_cannot_be_is_refused(tmp_path: Path, values: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_model(saved(tmp_path, values))


def test_a_checkpoint_without_its_matrices_is_refused() -> None:
    with pytest.raises(ModelError, match="is no SpikeBERT"):
        SpikeBERTConfig.from_shapes({"blocks.0.attn.q_m.weight": (4, 4)})


def test_the_tree_holds_every_tensor_once_and_knows_what_is_dead() -> None:
    tree = discover(CONFIG, CONFIG.tensor_shapes(), "classification")
    assert [b.unit for b in tree.blocks] == ["input", "attention.0", "attention.1", "output", "aux"]
    tensors = {t.name: t for t in tree.tensors()}
    assert tensors.keys() == weights().keys()
    assert {n for n, t in tensors.items() if not t.live} == {n for n in tensors if "transforms" in n}
    assert [n for n, t in tensors.items() if t.sign_only] == ["emb.weight"]
    searched = {n for n, t in tensors.items() if t.searched}
    assert searched == {"emb.weight", *FAMILY.products(CONFIG)}
    assert all(len(tensors[n].shape) == 2 for n in searched)
    assert {t.role for t in tensors.values() if not t.searched and t.live} == {"norm", "bias"}
    lean = CONFIG.lean("classification")
    kept = {n: t for n, t in weights().items() if tensors[n].live}
    assert lean.tensor_shapes().keys() == kept.keys()
    inputs = Inputs(IDS, None)
    assert torch.equal(run(lean, kept, inputs), run(CONFIG, weights(), inputs))


def test_only_the_signs_of_the_embedding_are_read() -> None:
    p, inputs = weights(), Inputs(IDS, None)
    signs = {**p, "emb.weight": p["emb.weight"].sign()}
    assert torch.equal(run(CONFIG, signs, inputs), run(CONFIG, p, inputs))


def test_pads_are_tokens_and_places_are_not_told() -> None:
    p = weights()
    padded, alone = run(CONFIG, p, Inputs(IDS[:1], None)), run(CONFIG, p, Inputs(IDS[:1, :4], None))
    assert not torch.allclose(padded, alone)
    turned = run(CONFIG, p, Inputs(IDS[:1].flip(1), None))
    torch.testing.assert_close(turned, padded, rtol=1e-5, atol=1e-6)


def test_heads_thresholds_and_steps_are_read() -> None:
    p, inputs = weights(), Inputs(IDS, None)
    known = run(CONFIG, p, inputs)
    for other in ({"heads": 2}, {"tau": 3.0}, {"common_thr": 0.5}, {"qk_scale": 0.5}, {"timesteps": 2}):
        assert not torch.equal(run(replace(CONFIG, **other), p, inputs), known), other


def attention_by_hand(config: SpikeBERTConfig, p: dict[str, Tensor], x: Tensor) -> dict[str, Tensor]:
    """Spikes of the attention of block 0 by site, from the authors' equations, a step at a time."""

    def fire(current: Tensor, threshold: float) -> Tensor:
        v, steps = torch.zeros_like(current[0]), []
        for now in current:
            v = v + (now - v) / config.tau
            steps.append((v >= threshold).to(v.dtype))
            v = v * (1 - steps[-1])
        return torch.stack(steps)

    def read(part: str, x: Tensor) -> Tensor:
        name = f"blocks.0.attn.{part}"
        h = torch.nn.functional.linear(x, p[f"{name}_m.weight"], p[f"{name}_m.bias"])
        h = torch.nn.functional.layer_norm(h, h.shape[-1:], p[f"{name}_ln.weight"], p[f"{name}_ln.bias"])
        return fire(h, config.common_thr)

    found = {f"{part}_lif": read(part, x) for part in "qkv"}
    q, k, v = (s.unflatten(-1, (config.heads, -1)).transpose(2, 3) for s in found.values())
    y = (q @ k.transpose(-1, -2) * config.qk_scale @ v).transpose(2, 3).flatten(-2)
    found["attn_lif"] = fire(y, config.common_thr / 2)
    return found | {"last_lif": read("last", found["attn_lif"])}


@pytest.mark.parametrize("keys", [{"common_thr": 0.5}, {"tau": 1.5}, {}])
def test_the_attentions_neurons_have_the_configs_leak_and_half_its_threshold(keys: dict[str, Any]) -> None:
    config, p = replace(CONFIG, **keys), {n: t.double() for n, t in weights().items()}
    inputs = Inputs(IDS, None)
    seen = Seen(inputs)
    x = FAMILY.embed(p, config, inputs, REFERENCE, seen)
    FAMILY.run_block(p, config, 0, x, inputs, REFERENCE, seen)
    for site, spikes in attention_by_hand(config, p, x.expand(config.timesteps, -1, -1, -1)).items():
        assert torch.equal(seen.spikes[f"blocks.0.attn.{site}"].transpose(0, 1), spikes), site
        assert 0 < float(spikes.mean()) < 1


# -- the product -----------------------------------------------------------------------------------


def engine(data: Any = None, **keys: Any) -> Engine:
    model = model_of()
    tree = discover(CONFIG, model.shapes, "classification")
    return Engine(model, tree, data or sentences(), device="cpu", **keys)


def at(text: str, **units: str) -> QuantSetting:
    made = {unit.replace("_", "."): Format.parse(fmt) for unit, fmt in units.items()}
    return QuantSetting({"network": Format.parse(text), "input/emb": SIGN, **made}, quantizer="mse")


def numbers(found: Any) -> Any:
    return found.nll_sum, found.correct, *found.rates.values()


@pytest.mark.parametrize("ops", [REFERENCE, None], ids=["reference", "fast"])
def test_a_pad_for_all_gives_what_all_pads_give(ops: Ops | None) -> None:
    setting = at("int3/channel/midrise")
    one, every = (engine(sentences(alike=alike), ops=ops, batch=2) for alike in (True, False))
    assert sum(b.ids.numel() for b in one.plan.batches) < sum(b.ids.numel() for b in every.plan.batches)
    few, all_ = one.evaluate(setting), every.evaluate(setting)
    assert few.nll_sum == pytest.approx(all_.nll_sum, rel=1e-6)
    assert few.rates == all_.rates and min(few.rates.values()) > 0
    assert one.drift(setting)[0] == pytest.approx(every.drift(setting)[0], rel=1e-5)


def test_going_on_from_a_kept_block_gives_the_same_bits() -> None:
    begun, fresh = engine(batch=2, reorder=False), engine(batch=2, prefix_bytes=0, reorder=False)
    parent = at("int4/channel/midrise")
    child = at("int4/channel/midrise", attention_1="int2/channel/midrise")
    begun.evaluate(parent, parent=UNQUANTIZED)
    again = begun.evaluate(child, parent=parent)
    assert begun.reused
    wanted = fresh.evaluate(child)
    assert numbers(again) == numbers(wanted)


def test_moments_are_those_of_all_pads() -> None:
    model = model_of()
    few, all_ = (
        input_moments(model.tensors, CONFIG, sentences(alike=alike), CPU) for alike in (True, False)
    )
    assert few.keys() == all_.keys() == FAMILY.products(CONFIG).keys()
    for name, moment in few.items():
        torch.testing.assert_close(moment, all_[name], rtol=1e-4, atol=1e-6)
    fed = 1 - float((weights()["emb.weight"] < 0).float().mean())
    assert float(few["blocks.0.attn.q_m.weight"].diagonal().mean()) == pytest.approx(fed, abs=0.2)


def test_the_gradient_reaches_every_live_tensor() -> None:
    p = {name: tensor.requires_grad_() for name, tensor in weights().items()}
    logits = run(CONFIG, p, Inputs(IDS, OWN, pad_to=12), TRAINING)
    assert torch.equal(logits, run(CONFIG, p, Inputs(IDS, OWN, pad_to=12)))
    logits.log_softmax(-1)[:, 0].sum().backward()
    for name, tensor in p.items():
        assert (tensor.grad is None) == name.startswith("transforms."), name
        assert tensor.grad is None or float(tensor.grad.abs().sum()) > 0, name


def test_drift_is_zero_without_a_change_and_grows() -> None:
    e = engine()
    found = [e.drift(at(f"int{bits}/channel/midrise"))[0] for bits in (8, 4, 2)]
    assert e.drift(UNQUANTIZED)[0] == 0 < found[0] < found[1] < found[2]
    meter = DriftMeter(sentences(), CONFIG, REFERENCE, CPU)
    meter.refer_to(weights())
    assert meter.drift({**weights(), "last_ln.weight": torch.ones(16)}) == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_current_that_is_no_number_shows(value: float) -> None:
    model = model_of()
    model.tensors["blocks.1.mlp.ln1.bias"][3] = value
    tree = discover(CONFIG, model.shapes, "classification")
    with pytest.raises(NumericsError, match="currents hold NaN"):
        Engine(model, tree, sentences(), device="cpu").evaluate(UNQUANTIZED)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of random weights whose WordPiece vocabulary is the letters."""
    home = tmp_path_factory.mktemp("spikebert")
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters, *(f"##{c}" for c in letters)]
    (home / "vocab.txt").write_text("\n".join(words))
    config = replace(CONFIG, vocab_size=len(words), length=20)
    save_model(home / "model", config, weights(config), word_pieces(home / "vocab.txt"))
    return home / "model"


def opened(folder: Path, **keys: Any) -> Session:
    return Session.open(spec_of(folder, quantizer="gptq", **{"calibration": 24, **keys}))


def spec_of(folder: Path, **keys: Any) -> StudySpec:
    values = {"name": "t", "model": str(folder), "task": "demo-classify", "memory_budget": "100%",
              "max_drop": 1.0, "limit": 12, "device": "cpu"}  # fmt: skip
    return StudySpec.from_mapping({**values, **keys})


def test_a_session_quantizes_packs_and_runs_packed(folder: Path, tmp_path: Path) -> None:
    session = opened(folder)
    assert session.data.pad_to == 20 and session.data.pads_alike
    base = session.run(UNQUANTIZED)[0]
    units = {"network": Format.parse("int3/channel/midrise"), "input/emb": SIGN}
    units["attention.1/mlp.fc1"] = Format.parse("ternary/channel")
    setting = QuantSetting(units, quantizer="gptq")
    found = session.run(setting)[0]
    assert found.nll_sum != base.nll_sum and found.live_bytes < base.live_bytes / 4
    assert session.run(UNQUANTIZED.with_unit("input/emb", SIGN))[0].nll_sum == base.nll_sum
    codes = session.codes(setting)
    text = session.calibration
    kept = {"split": text.split, "sequences": 24, "window": None, "hash": text.data_hash}
    origin = Origin("demo-classify", "classification", "0/0", calibration=kept)
    pack_model(tmp_path / "p", session.model, session.hierarchy, setting, codes, origin)
    packed = Session.open(spec_of(tmp_path / "p"), packed=True)
    assert packed.model.packed is not None and not any("transforms" in n for n in packed.model.tensors)
    assert packed.model.packed.payload_bytes == found.live_bytes
    assert numbers(packed.run(setting)[0]) == numbers(found)
    same = agreement(packed.model.packed, codes, CPU)
    assert not same.different and same.max_difference == 0
    resident = Session.open(spec_of(tmp_path / "p"), packed=True, stay_packed=True).run(setting)[0]
    assert resident.nll_sum == pytest.approx(found.nll_sum, rel=2e-2)
    assert resident.rates == pytest.approx(found.rates, rel=2e-2, abs=1e-3)


def test_tuning_changes_codes_and_keeps_the_bytes(folder: Path) -> None:
    session = Session.open(spec_of(folder, quantizer="mse", limit=6))
    plain = at("int2/channel/midrise")
    found, tuned = session.run(plain)[0], session.run(replace(plain, tune=3))[0]
    assert tuned.live_bytes == found.live_bytes and tuned.nll_sum != found.nll_sum


def test_other_steps_are_another_model(folder: Path) -> None:
    few, many = opened(folder, timesteps=1), opened(folder, timesteps=6)
    assert (few.model.config.timesteps, many.model.config.timesteps) == (1, 6)
    assert few.fingerprint()["spec"] != many.fingerprint()["spec"]
    assert few.run(UNQUANTIZED)[0].nll_sum != many.run(UNQUANTIZED)[0].nll_sum
