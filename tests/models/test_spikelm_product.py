"""SpikeLM through the product: sessions, prefix reuse, calibration, tuning, packing, drift, commands."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import pyarrow  # noqa: E402
import pyarrow.parquet  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from qslm_opt.cli.main import app  # noqa: E402
from qslm_opt.data.taskdata import TaskData, build  # noqa: E402
from qslm_opt.errors import ModelError  # noqa: E402
from qslm_opt.evaluate.calibrate import input_moments  # noqa: E402
from qslm_opt.evaluate.engine import Engine  # noqa: E402
from qslm_opt.evaluate.memory import live_bytes  # noqa: E402
from qslm_opt.formats import FP32, Format  # noqa: E402
from qslm_opt.hierarchy.discover import discover  # noqa: E402
from qslm_opt.models.family import Fired, Inputs  # noqa: E402
from qslm_opt.models.loading import LoadedModel, hash_weights, load_model  # noqa: E402
from qslm_opt.models.packing import Origin, pack_model  # noqa: E402
from qslm_opt.models.spikelm import SpikeLMConfig  # noqa: E402
from qslm_opt.pipeline import Session  # noqa: E402
from qslm_opt.quant import QuantizedTensor  # noqa: E402
from qslm_opt.setting import UNQUANTIZED, QuantSetting  # noqa: E402
from qslm_opt.spec import StudySpec  # noqa: E402
from qslm_opt.train.surrogate import TRAINING  # noqa: E402
from qslm_opt.tune.student import Student  # noqa: E402
from tests.models.test_spikelm import BINARY, CONFIG, FAMILY, Seen, random_tensors  # noqa: E402

CPU = torch.device("cpu")


def model_of(cfg: SpikeLMConfig = CONFIG, seed: int = 0) -> LoadedModel:
    tensors = random_tensors(cfg, seed)
    return LoadedModel(cfg, tensors, "made here", hash_weights(tensors), None)


def sentences(count: int, seed: int, split: str) -> TaskData:
    rng = np.random.default_rng(seed)
    rows = [rng.integers(1, 50, rng.integers(3, 14)) for _ in range(count)]
    return build("demo-classify", split, rows, source="t", labels=rng.integers(0, 2, count))


def session_of(model: LoadedModel, quantizer: str = "mse", **keys: Any) -> Session:
    spec = StudySpec.from_mapping({
        "name": "t", "model": "demo", "task": "demo-classify", "max_drop": 1.0, "memory_budget": "100%",
        "device": "cpu", "quantizer": quantizer, "layout": "channel/midrise", "window_batch": 8, **keys,
    })  # fmt: skip
    tree = discover(model.config, model.shapes, "classification", model.ties)
    session = Session(spec, model, tree, sentences(40, 3, "test"))
    session.__dict__["calibration"] = sentences(30, 4, "train")
    return session


def at(text: str, quantizer: str = "mse", **units: str) -> QuantSetting:
    formats = {unit: Format.parse(fmt) for unit, fmt in units.items()}
    return QuantSetting({"network": Format.parse(text), **formats}, quantizer=quantizer)


@pytest.fixture(scope="module")
def session() -> Session:
    return session_of(model_of())


def test_bytes_are_those_of_the_formats_with_amplitudes_in_float32(session: Session) -> None:
    bits = {4: "int4/channel/midrise", 2: "int2/channel/midrise", 1: "int1/channel/midrise"}
    sizes = [session.run(at(text))[0].live_bytes for text in bits.values()]
    others = sum(
        (4 if t.role == "neuron" else 2) * t.numel for t in session.hierarchy.tensors() if not t.searched
    )
    codes = [
        sum(Format.parse(text).packed_bytes(t.shape) for t in session.hierarchy.tensors() if t.searched)
        for text in bits.values()
    ]
    assert sizes == [others + size for size in codes]


def test_a_setting_that_changes_nothing_gives_the_very_number(session: Session) -> None:
    base, again = session.run(UNQUANTIZED)[0], session.run(at("fp32"))[0]
    assert session.run(UNQUANTIZED)[0].nll_sum == base.nll_sum
    assert base.rates.keys() == CONFIG.sites().keys() and base.silent == ()
    assert again.nll_sum != base.nll_sum  # the fixed tensors are float16 here
    exact = QuantSetting({"network": FP32}, fixed=FP32)
    assert session.run(exact)[0].nll_sum == base.nll_sum


def test_kept_activations_give_what_computing_anew_gives() -> None:
    model = model_of()
    tree = discover(CONFIG, model.shapes, "classification")
    fresh, reused = (
        Engine(model, tree, sentences(40, 3, "test"), device="cpu", batch=8, reorder=False) for _ in "ab"
    )
    parent = at("int4/channel/midrise")
    child = at("int4/channel/midrise", **{"attention.1/output.dense": "int2/channel/midrise"})
    for setting in (parent, child):
        ours = reused.evaluate(setting, parent=parent)
        theirs = fresh.evaluate(setting)
        assert (ours.nll_sum, ours.correct, ours.rates) == (theirs.nll_sum, theirs.correct, theirs.rates)
    assert reused.reused and not fresh.reused


def test_the_order_of_batches_does_not_matter_in_float64() -> None:
    model = model_of()
    tree = discover(CONFIG, model.shapes, "classification")

    def nll(batch: int) -> float:
        engine = Engine(model, tree, sentences(40, 3, "test"), device="cpu", dtype=torch.float64, batch=batch)
        return engine.evaluate(UNQUANTIZED).nll_sum

    assert nll(40) == pytest.approx(nll(3), abs=1e-9)


def test_every_product_is_calibrated_by_what_it_reads(session: Session) -> None:
    """Moments are those of the spikes of each sentence alone, and of the pooler's and classifier's input."""
    model, text = session.model, session.calibration
    moments = input_moments(model.tensors, CONFIG, text, CPU)
    assert moments.keys() == FAMILY.products(CONFIG).keys()
    name = "bert.encoder.layer.1.intermediate.dense"
    rows, pooled = [], []
    for ids in text.sequences:
        inputs = Inputs(torch.from_numpy(ids)[None].long(), None)
        seen = Seen(inputs)
        pooled.append(FAMILY.forward(model.tensors, CONFIG, inputs, session.engine.ops, seen))
        rows.append(seen.spikes[f"{name}.act_clip_val"].flatten(0, -2))
    for found, own in ((f"{name}.weight", rows), ("classifier.weight", pooled)):
        x = torch.cat(own).double()
        torch.testing.assert_close(moments[found].double(), x.T @ x / len(x), rtol=2e-3, atol=1e-3)
    calibrated = session_of(model, "gptq")
    gptq, rtn = at("int2/channel/midrise", "gptq"), at("int2/channel/midrise", "rtn")
    assert calibrated.run(gptq)[0].loss != session.run(rtn)[0].loss


@pytest.mark.parametrize("cfg", [CONFIG, BINARY], ids=["ternary", "binary"])
def test_gradients_reach_everything_that_is_searched_and_no_amplitude(cfg: SpikeLMConfig) -> None:
    model = model_of(cfg)
    tree = discover(cfg, model.shapes, "classification")
    student = Student(model.tensors, tree, at("int3/channel/midrise"), dict)
    rows = torch.randint(0, 50, (6, 32), generator=torch.Generator().manual_seed(2))
    inputs = Inputs(rows, torch.tensor([32, 9, 4, 20, 31, 2]))
    logits = FAMILY.logits(student.tensors(), cfg, inputs, TRAINING, Fired(None))
    logits.log_softmax(-1)[:, 0].sum().backward()
    searched = {t.name for t in tree.tensors() if t.searched}
    assert student.latents.keys() == searched
    assert all(latent.steps.grad.abs().max() > 0 for latent in student.latents.values())
    amplitudes = {name for name in model.tensors if cfg.role(name) == "neuron"}
    assert student.floats.keys().isdisjoint(amplitudes) and student.floats.keys() | amplitudes | searched == {
        *model.tensors
    }
    stored = student.stored()
    assert all(torch.equal(stored[name], model.tensors[name]) for name in amplitudes)


def test_training_computes_what_evaluation_computes() -> None:
    for cfg in (CONFIG, BINARY):
        model, session_ops = model_of(cfg), session_of(model_of(cfg)).engine.ops
        inputs = Inputs(torch.randint(0, 50, (3, 12), generator=torch.Generator().manual_seed(5)), None)
        found = [
            FAMILY.logits(model.tensors, cfg, inputs, ops, Fired(None)) for ops in (session_ops, TRAINING)
        ]
        torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)


def test_a_tuned_setting_comes_nearer_and_keeps_the_amplitudes(session: Session) -> None:
    session.__dict__["tuning_text"] = session.calibration
    plain = at("int1/channel/midrise")
    tuned = replace(plain, tune=40)

    def distance(setting: QuantSetting) -> float:
        codes = session.codes(setting)
        p = {n: c.dequantize() if isinstance(c, QuantizedTensor) else c.float() for n, c in codes.items()}
        inputs = Inputs(torch.from_numpy(np.stack([s[:3] for s in session.data.sequences])).long(), None)
        found, truth = (
            FAMILY.logits(q, CONFIG, inputs, session.engine.ops, Fired(None)).log_softmax(-1)
            for q in (p, session.model.tensors)
        )
        return float((truth.exp() * (truth - found)).sum(-1).mean())

    assert distance(tuned) < distance(plain)
    codes = session.codes(tuned)
    for name, tensor in session.model.tensors.items():
        if CONFIG.role(name) == "neuron":
            stored = codes[name]
            assert isinstance(stored, torch.Tensor) and torch.equal(stored, tensor)
        elif CONFIG.role(name) == "matrix":
            assert isinstance(codes[name], QuantizedTensor)


@pytest.mark.parametrize("cfg", [CONFIG, replace(BINARY, timesteps=2)], ids=["ternary", "binary-2-of-3"])
def test_the_packed_model_gives_the_very_number(tmp_path: Path, cfg: SpikeLMConfig) -> None:
    session = session_of(model_of(cfg))
    mixed = {"attention.0": "int2/channel/midrise", "attention.1/intermediate.dense": "ternary/channel"}
    setting = at("int4/channel/affine", **mixed, **{"output/classifier": "int1/channel/midrise"})
    pack_model(
        tmp_path / "p", session.model, session.hierarchy, setting, session.codes(setting),
        Origin("demo-classify", "classification", "0/0"),
    )  # fmt: skip
    model = load_model(str(tmp_path / "p"))
    assert model.config == cfg.lean("classification") and model.packed is not None
    tree = discover(model.config, model.shapes, "classification", model.ties)
    assert model.packed.payload_bytes == live_bytes(session.hierarchy, setting)
    for name, tensor in model.packed.tensors.items():
        if cfg.role(name) == "neuron":
            assert isinstance(tensor, torch.Tensor) and tensor.dtype == torch.float32
            assert torch.equal(tensor, session.model.tensors[name])
    packed = Session(session.spec, model, tree, session.data)
    ours, theirs = packed.run(setting)[0], session.run(setting)[0]
    assert (ours.nll_sum, ours.correct, ours.rates) == (theirs.nll_sum, theirs.correct, theirs.rates)
    held = Session(session.spec, model, tree, session.data, stay_packed=True)
    resident = held.run(setting)[0]
    assert resident.loss == pytest.approx(theirs.loss, rel=0.02)
    assert held.engine.weight_bytes is not None and held.engine.weight_bytes < ours.fp32_bytes


@pytest.mark.parametrize("cfg", [CONFIG, BINARY], ids=["ternary", "binary"])
def test_drift_is_zero_without_a_change_and_grows_with_fewer_bits(cfg: SpikeLMConfig) -> None:
    session = session_of(model_of(cfg))
    drifts = [session.drift(s)[0] for s in (UNQUANTIZED, *(at(f"int{b}/channel/midrise") for b in (8, 4, 2)))]
    assert drifts[0] == 0 < drifts[1] < drifts[2] < drifts[3]


# -- the command line ------------------------------------------------------------------------------

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "good", "bad", "film", "##s", "very", "not"]


def command(*words: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A checkpoint with the authors' names, its vocabulary, and a folder of data."""
    cfg = replace(CONFIG, num_labels=2)
    torch.save(FAMILY.expanded(cfg, random_tensors(cfg)), tmp_path / "model.pth")
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    texts = ["a good film", "bad films", "not very good", "very very bad", "a film"]
    table = pyarrow.table({"sentence": texts, "label": [1, 0, 0, 0, 1]})
    for split in ("train", "validation"):
        pyarrow.parquet.write_table(table, tmp_path / f"{split}.parquet")
    return tmp_path / "model.pth", tmp_path / "vocab.txt", tmp_path


def test_commands_read_a_checkpoint_without_its_config(files: tuple[Path, Path, Path]) -> None:
    model, vocabulary, data = files
    found = command("model", "info", model)
    assert isinstance(found.exception, ModelError)
    assert "--config num_attention_heads=N" in str(found.exception)
    how = ("--config", "num_attention_heads=2", "--tokenizer", vocabulary)
    found = command("model", "info", model, *how, "--timesteps", 2, "--json")
    told = json.loads(found.stdout)
    assert told["family"] == "spikelm" and told["config"]["timesteps"] == 2
    assert told["params"]["all"] - told["params"]["live"] == 16
    found = command("model", "evaluate", model, "--task", "sst2", "--data", data, *how, "--json")
    told = json.loads(found.stdout)
    assert told["n"] == 5 and set(told["rates"]) == set(CONFIG.sites())
