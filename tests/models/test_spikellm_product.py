"""A tiny random LLaMA through the whole product: engine, calibration, tuning, study, packing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tokenizers import Tokenizer  # noqa: E402
from tokenizers.models import WordLevel  # noqa: E402
from tokenizers.pre_tokenizers import Whitespace  # noqa: E402

from qslm_opt.cli.main import run  # noqa: E402
from qslm_opt.data.taskdata import build, cut_windows  # noqa: E402
from qslm_opt.errors import UsageError  # noqa: E402
from qslm_opt.evaluate.calibrate import input_moments  # noqa: E402
from qslm_opt.evaluate.engine import Engine  # noqa: E402
from qslm_opt.formats import Format  # noqa: E402
from qslm_opt.hierarchy.discover import discover  # noqa: E402
from qslm_opt.kernels.fire.integer import integer_spikes, salient_channels  # noqa: E402
from qslm_opt.models.family import Fired, Inputs  # noqa: E402
from qslm_opt.models.loading import LoadedModel, load_model  # noqa: E402
from qslm_opt.models.spikellm import SpikeLLM  # noqa: E402
from qslm_opt.models.spikellm_config import EMBEDDING  # noqa: E402
from qslm_opt.pipeline import Session  # noqa: E402
from qslm_opt.setting import UNQUANTIZED, QuantSetting  # noqa: E402
from qslm_opt.spec import StudySpec  # noqa: E402
from qslm_opt.train.surrogate import TRAINING  # noqa: E402
from tests.models.tiny_llama import SIZES, saved_llama  # noqa: E402

FAMILY = SpikeLLM()
CPU = torch.device("cpu")
SPIKES = {"activation_bits": 4, "added_bits": 1, "salient_share": 0.1}
WORDS = [f"w{i}" for i in range(SIZES["vocab_size"])]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaMA in shards with a tokenizer beside it."""
    place = tmp_path_factory.mktemp("llama")
    saved_llama(place, shard="30KB")
    words = Tokenizer(WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="w0"))
    words.pre_tokenizer = Whitespace()
    words.save(str(place / "tokenizer.json"))
    return place


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """WikiText-2's files with random words."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    place, rng = tmp_path_factory.mktemp("wikitext"), np.random.default_rng(3)
    for split, lines in (("test", 20), ("validation", 40)):
        rows = [" ".join(rng.choice(WORDS, 24)) for _ in range(lines)]
        pq.write_table(pa.table({"text": rows}), place / f"{split}.parquet")
    return place


def spec(folder: Path, text: Path, **keys: Any) -> StudySpec:
    return StudySpec.from_mapping({
        "name": "s", "model": str(folder), "task": "wikitext2", "data": str(text), "window": 24, "limit": 12,
        "max_increase": "50%", "memory_budget": "60%", "device": "cpu", **keys,
    })  # fmt: skip


def at(bits: int, quantizer: str = "rtn") -> QuantSetting:
    return QuantSetting({"network": Format.parse(f"int{bits}/channel/affine")}, quantizer=quantizer)


def windows(count: int = 9) -> Any:
    ids = np.random.default_rng(0).integers(0, 120, 24 * count + 1)
    return build("wikitext2", "test", cut_windows(ids, 24, "wikitext2"), source="random", window=24)


def engine(model: LoadedModel, **options: Any) -> Engine:
    tree = discover(model.config, model.shapes, "lm", model.ties)
    return Engine(model, tree, windows(), device="cpu", batch=4, **options)


@pytest.mark.parametrize("keys", [{}, {"activation_bits": 4}], ids=["plain", "spikes"])
def test_kept_activations_give_what_is_computed_anew_bit_for_bit(folder: Path, keys: dict[str, Any]) -> None:
    kept, anew = (engine(load_model(str(folder), overrides=keys), **o) for o in ({}, {"prefix_bytes": 0}))
    base = at(8)
    three, two = (Format.parse(f"int{bits}/channel/affine") for bits in (3, 2))
    lower = (base.with_unit("attention.2", three), base.with_unit("attention.1/mlp.up_proj", two))
    for setting in (base, *lower):
        first, second = kept.evaluate(setting, parent=base), anew.evaluate(setting, parent=base)
        assert (first.nll_sum, first.rates) == (second.nll_sum, second.rates)
    assert kept.reused and not anew.reused


def test_the_loss_is_transformers_own(folder: Path) -> None:
    from transformers import LlamaForCausalLM

    stock, data = LlamaForCausalLM.from_pretrained(folder).eval(), windows()
    ids = torch.from_numpy(np.stack(data.sequences).astype(np.int64))
    with torch.inference_mode():
        logits = stock(ids[:, :-1]).logits
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
    found = engine(load_model(str(folder))).evaluate(UNQUANTIZED)
    assert found.nll_sum / found.n == pytest.approx(float(expected), abs=1e-5)
    assert found.firing_rate is None and found.rates == {}


def test_calibration_sees_the_spikes_in_front_of_every_product(folder: Path) -> None:
    model = load_model(str(folder), overrides={"activation_bits": 3})
    found = input_moments(model.tensors, model.config, windows(), CPU)
    assert set(found) == set(FAMILY.products(model.config))
    plain = input_moments(model.tensors, replace(model.config, activation_bits=0), windows(), CPU)
    first = "model.layers.0.self_attn.q_proj.weight"
    ids = torch.from_numpy(np.stack(windows().sequences).astype(np.int64))[:, :-1]
    x = torch.nn.functional.rms_norm(
        model.tensors[EMBEDDING][ids], (32,), model.tensors["model.layers.0.input_layernorm.weight"], 1e-5
    ).flatten(0, 1)  # fmt: skip
    assert torch.allclose(plain[first], x.T @ x / len(x), atol=1e-4)
    spiked = integer_spikes(x, 3).values()
    assert torch.allclose(found[first], spiked.T @ spiked / len(x), atol=1e-4)


def test_gradients_reach_every_searched_tensor(folder: Path) -> None:
    model = load_model(str(folder), overrides={"activation_bits": 4})
    tree = discover(model.config, model.shapes, "lm")
    p = {name: tensor.clone().requires_grad_() for name, tensor in model.tensors.items()}
    ids = torch.from_numpy(np.stack(windows().sequences).astype(np.int64))
    logits = FAMILY.logits(p, model.config, Inputs(ids[:, :-1], None), TRAINING, Fired(None))
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
    searched = [t.name for t in tree.tensors() if t.searched]
    assert len(searched) == 3 * 7 + 2
    for name in searched:
        grad = p[name].grad
        assert grad is not None and torch.isfinite(grad).all() and float(grad.abs().sum()) > 0, name


def test_salient_channels_come_from_the_calibration_text(folder: Path, text: Path) -> None:
    said: list[str] = []
    session = Session.open(spec(folder, text, config=SPIKES), said.append)
    assert any("calibrating the model on" in line and "'validation'" in line for line in said)
    cfg, tensors = session.model.config, session.model.tensors
    raw = load_model(str(folder), overrides=SPIKES)
    plain = replace(raw.config, activation_bits=0, added_bits=0, salient_share=0.0)
    read = input_moments(raw.tensors, plain, session.calibration, CPU)
    for site in cfg.sites():
        mask = tensors[f"{site}.salient"]
        assert mask.equal(salient_channels(tensors[f"{site}.weight"], read[f"{site}.weight"], 0.1))
        assert mask.sum() == len(mask) - int(0.9 * len(mask))
    assert session.model.weights_hash != raw.weights_hash
    assert session.fingerprint()["calibration"] == session.calibration.data_hash
    found = session.run(UNQUANTIZED)[0]
    assert list(found.rates) == list(cfg.sites())
    with pytest.raises(UsageError, match="the model would be calibrated on split 'validation'"):
        Session.open(spec(folder, text, config=SPIKES, split="validation"))


def test_a_config_file_makes_the_model_look_at_text_as_the_flag_does(
    folder: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "salient"
    shutil.copytree(folder, place)
    values = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps({**values, **SPIKES}))
    session = Session.open(spec(place, text, calibration=4))
    assert len(session.calibration.sequences) == 4 and session.fingerprint()["calibration"]
    with pytest.raises(UsageError, match=r"--calibration 4 does nothing with quantizer 'rtn'.*nor does the"):
        Session.open(spec(place, text, calibration=4, config={"salient_share": 0.0}))
    words = ["model", "evaluate", str(place), "--task", "wikitext2", "--data", str(text), "--window", "24"]
    assert run([*words, "--limit", "2", "--calibration", "4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["config"]["salient_known"] is True
    assert run([*words, "--calibration", "4", "--config", "salient_share=0.0"]) == 2


def test_a_session_quantizes_calibrates_and_tunes(folder: Path, text: Path) -> None:
    keys = {"quantizer": "gptq", "tune": 3, "calibration": 4, "config": SPIKES}
    session = Session.open(spec(folder, text, **keys))
    base = session.baseline()
    values = [session.run(at(bits, "gptq"))[0] for bits in (8, 3)]
    assert abs(values[0].value / base.value - 1) < abs(values[1].value / base.value - 1)
    assert values[1].live_bytes < 0.2 * base.bytes
    tuned = session.run(replace(at(3, "gptq"), tune=3))[0]
    assert tuned.value != values[1].value and tuned.live_bytes == values[1].live_bytes
    with pytest.raises(UsageError, match="membrane potentials, and those of SpikeLLM are not seen"):
        session.drift(at(3, "gptq"))


# --------------------------------------------------------------------------------------- commands

Ask = Callable[..., tuple[int, str]]


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Ask:
    """Run a command; return its exit code and stdout."""

    def call(*words: object) -> tuple[int, str]:
        capsys.readouterr()
        code = run([str(word) for word in words])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        print(err)
        return code, out

    return call


def test_a_study_is_run_packed_verified_and_evaluated(
    folder: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ask: Ask
) -> None:
    monkeypatch.chdir(tmp_path)
    config = [part for key, value in SPIKES.items() for part in ("--config", f"{key}={value}")]
    code, _ = ask(
        "study", "create", "llama", "--model", folder, "--task", "wikitext2", "--data", text, "--window", 24,
        "--limit", 12, "--max-increase", "200%", "--memory-budget", "30%", "--precisions", "8,3",
        "--strategy", "random", "--evaluations", 4,
        "--device", "cpu", "--progress", "none", "--power-window", 0, *config,
    )  # fmt: skip
    assert code == 0
    best = json.loads(ask("study", "show", "llama", "--json")[1])["best"]
    assert ask("model", "pack", folder, "--study", "llama", "--output", "out")[0] == 0
    code, out = ask("model", "verify", "out", "--model", folder, "--study", "llama", "--data", text, "--json")
    verified = json.loads(out)
    assert code == 0 and verified["verified"] and verified["agreement"]["max_difference"] == 0
    words = ("model", "evaluate", "out", "--task", "wikitext2", "--data", text, "--window", 24, "--limit", 12)
    packed = json.loads(ask(*words, "--json")[1])
    assert packed["value"] == best["value"] and packed["live_bytes"] == best["bytes"]
    assert len(packed["rates"]) == 3 * 7
    held = json.loads(ask(*words, "--packed-kernels", "--json")[1])
    assert held["value"] == pytest.approx(packed["value"], rel=1e-3)
    shutil.rmtree("out")
    (tmp_path / "setting.json").write_text(at(3).to_json())
    code, _ = ask("model", "pack", folder, "--setting", "setting.json", "--output", "out", *config)
    assert code == 2  # which channels are salient only a text says


def test_wikitext_2_with_the_tokenizer_of_another_model(shared: Path, tmp_path: Path) -> None:
    saved_llama(tmp_path, vocab_size=50277)
    shutil.copy(shared / "models/spikegpt-14m-lm/tokenizer.json", tmp_path)
    keys = {"limit": 4, "window": 64, "config": {"activation_bits": 4}}
    session = Session.open(spec(tmp_path, shared / "data/wikitext-2-raw-v1", **keys))
    base, found = session.baseline(), session.run(at(8))[0]
    assert base.value > 1000 and found.n == 4 * 64
    assert found.value == pytest.approx(base.value, rel=0.2)
