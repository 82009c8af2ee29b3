"""SpikingBERT: the original's logits, its spikes one by one, and the accuracy of the trained model."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from qslm_opt.errors import ModelError
from qslm_opt.kernels.ops import REFERENCE, fast_ops
from qslm_opt.models import load_model
from qslm_opt.models.family import Fired, Inputs
from qslm_opt.models.loading import LoadedModel
from qslm_opt.models.spikingbert import SpikingBERT, SpikingBERTConfig
from qslm_opt.setting import UNQUANTIZED
from qslm_opt.spec import StudySpec
from tests.models.spikingbert_case import CONFIG, FAMILY, tensors_of

UPSTREAM = ("embedding", "encoder0.key", "encoder0.value")
"""Sites in front of the first attention, whose currents reach the threshold up to rounding."""


class Spikes(Fired):
    """Keeps what every neuron fired in all."""

    def __init__(self, inputs: Inputs) -> None:
        super().__init__(inputs)
        self.sums: dict[str, Tensor] = {}

    def add(self, site: str, spikes: Tensor, v: Tensor | None = None) -> None:
        assert bool(((spikes == 0) | (spikes == 1)).all())
        self.sums[site] = spikes.sum(dim=0)
        super().add(site, spikes, v)


def run(model: LoadedModel, inputs: Inputs, dtype: torch.dtype) -> tuple[Tensor, Spikes]:
    p = {name: tensor.to(dtype) for name, tensor in model.tensors.items()}
    spikes = Spikes(inputs)
    ops = REFERENCE if dtype == torch.float64 else fast_ops("cpu")
    with torch.inference_mode():
        return SpikingBERT().logits(p, model.config, inputs, ops, spikes), spikes


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict:
    folder = shared / "models/spikingbert-tiny"
    given = json.loads((folder / "inputs.json").read_text())
    lengths = torch.tensor(given["input_mask"]).sum(dim=1)
    inputs = Inputs(torch.tensor(given["input_ids"]), lengths, segments=torch.tensor(given["segment_ids"]))
    expected = json.loads((folder / "expected.json").read_text())
    return {"folder": str(folder), "inputs": inputs, **expected}


@pytest.mark.parametrize("steps", [16, 5])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_logits_and_every_neurons_spikes_are_the_originals(golden, steps, dtype, tolerance):
    model = load_model(golden["folder"], overrides={"timesteps": steps})
    logits, spikes = run(model, golden["inputs"], dtype)
    expected = golden["expected"][f"T{steps}"]
    assert list(spikes.sums) == list(expected["spikes"]) == list(model.config.sites())
    for site, of in expected["spikes"].items():
        counts = spikes.sums[site].to(torch.uint8)
        assert list(counts.shape) == of["shape"]
        assert counts.sum(dim=(1, 2)).tolist() == of["counts_all_positions"], site
        assert hashlib.sha256(counts.contiguous().numpy().tobytes()).hexdigest() == of["sha256"], site
        assert float(spikes.counts[site]) == sum(of["counts_real_tokens"]), site
    wanted = torch.tensor(expected["logits"], dtype=torch.float64)
    torch.testing.assert_close(logits.double(), wanted, rtol=0, atol=tolerance)


def test_padding_changes_nothing(golden):
    model = load_model(golden["folder"], overrides={"timesteps": 16})
    inputs = golden["inputs"]
    together, _ = run(model, inputs, torch.float64)
    total = dict.fromkeys(model.config.sites(), 0.0)
    for row, length in enumerate(inputs.lengths.tolist()):
        cut = (slice(row, row + 1), slice(length))
        one = Inputs(inputs.ids[cut], None, segments=inputs.segments[cut])
        alone, spikes = run(model, one, torch.float64)
        torch.testing.assert_close(alone[0], together[row], rtol=0, atol=1e-9)
        total = {site: n + float(spikes.counts[site]) for site, n in total.items()}
    expected = golden["expected"]["T16"]["spikes"]
    assert total == {site: sum(of["counts_real_tokens"]) for site, of in expected.items()}


def test_the_config_is_what_the_file_and_the_shapes_say(golden):
    config = load_model(golden["folder"]).config
    assert config == SpikingBERTConfig(
        vocab_size=500, hidden_size=48, num_hidden_layers=4, intermediate_size=96,
        max_position_embeddings=40, type_vocab_size=2, n_labels=2, num_attention_heads=4, timesteps=100,
        threshold=1.0, leak=1.0, fit_size=48,
    )  # fmt: skip
    assert config.longest == 40 and "4 encoders of width 48" in config.describe()
    assert FAMILY.encoding(config).special and FAMILY.encoding(config).longest == 40


def trained(shared: Path, **keys: object) -> tuple[StudySpec, dict, dict]:
    folder = shared / "models/spikingbert-sst2"
    spec = StudySpec.from_mapping({
        "name": "x", "model": str(folder), "task": "sst2", "data": str(shared / "data/sst2"), "timesteps": 8,
        "tokenizer": str(shared / "tokenizers/bert-base-uncased-vocab.txt"), "max_drop": 0.1,
        "memory_budget": "50%", "device": "cpu", **keys,
    })  # fmt: skip
    expected = json.loads((folder / "expected.json").read_text())
    return spec, expected, dict(np.load(folder / "validation_logits.npz"))


def test_the_trained_models_first_sentences(shared):
    """In float64, currents at the threshold part about half of the sentences by machine, never the others."""
    from qslm_opt.pipeline import Session

    spec, _, logits = trained(shared, limit=24)
    session = Session.open(spec)
    sentences = session.data.sequences
    ids = torch.zeros(24, max(map(len, sentences)), dtype=torch.int64)
    for row, sentence in zip(ids, sentences, strict=True):
        row[: len(sentence)] = torch.from_numpy(sentence)
    inputs = Inputs(ids, torch.tensor([len(sentence) for sentence in sentences]))
    found, _ = run(session.model, inputs, torch.float64)
    apart = (found - torch.from_numpy(logits["logits_f64"][:24])).abs()
    assert int((apart.amax(dim=1) < 1e-9).sum()) >= 6 and float(apart.mean()) < 0.15
    assert np.array_equal(session.data.labels, logits["labels"][:24])


@pytest.mark.slow
def test_the_trained_models_accuracy_and_spikes(shared):
    from qslm_opt.pipeline import Session

    spec, expected, _ = trained(shared)
    session = Session.open(spec)
    result, _ = session.run(UNQUANTIZED)
    assert result.n == 872 and abs(result.value - expected["accuracy_float64"]) <= 0.012
    tokens = sum(map(len, session.data.sequences))
    sites = session.model.config.sites()
    for site, total in expected["spike_totals_float64_real_tokens"].items():
        found = result.rates[site] * sites[site].width * tokens * 8
        assert found == pytest.approx(total, rel=1e-6 if site in UPSTREAM else 1e-3), site


@pytest.mark.slow
def test_the_trained_models_accuracy_in_float64(shared):
    from qslm_opt.evaluate.engine import Engine
    from qslm_opt.pipeline import Session

    spec, _, logits = trained(shared, limit=200)
    session = Session.open(spec)
    engine = Engine(session.model, session.hierarchy, session.data, device="cpu", dtype=torch.float64)
    theirs = (logits["logits_f64"].argmax(axis=1) == logits["labels"])[:200].mean()
    assert abs(engine.evaluate(UNQUANTIZED).value - theirs) <= 0.012


# ------------------------------------------------------------------------------------ what cannot be
@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("num_attention_heads", 5, "must divide the width 16"), ("num_attention_heads", 0, "at least 1"),
        ("timesteps", 0, "at least 1"), ("timesteps", 10**9, "at most 4,096"), ("threshold", 0.0, "at least"),
        ("threshold", float("nan"), "at least"), ("threshold", float("inf"), "at most"),
        ("leak", 1.5, "at most 1"), ("leak", float("nan"), "at least 0"), ("fit_size", -1, "at least 0"),
    ],
)  # fmt: skip
def test_a_config_that_cannot_be_is_refused(key, value, says):
    with pytest.raises(ModelError, match=says):
        replace(CONFIG, **{key: value})


@pytest.mark.parametrize(
    ("values", "says"), [({"hidden_act": "relu"}, "hidden_act 'relu'"), ({"model_type": "t5"}, "'t5'")]
)
def test_a_file_of_another_model_is_refused(values, says):
    with pytest.raises(ModelError, match=says):
        FAMILY.declared(values)


@pytest.mark.parametrize("leak", [1.0, 0.9])
def test_leak_and_threshold_are_the_neurons(leak):
    """A neuron of the embedding by hand: the current is the same at every step."""
    config = replace(CONFIG, leak=leak, threshold=0.8, timesteps=7)
    p = {name: tensor.double() for name, tensor in tensors_of(config).items()}
    spikes = FAMILY.embed(p, config, Inputs(torch.tensor([[2, 7, 3]]), None), REFERENCE, Fired(None))
    c = sum(p[f"network_x.{k}_embeddings.weight"][i] for k, i in
            (("word", 7), ("position", 1), ("token_type", 0)))  # fmt: skip
    weight, bias = p["network_x.LayerNorm.weight"], p["network_x.LayerNorm.bias"]
    c = torch.nn.functional.layer_norm(c, (16,), weight, bias, 1e-12)
    u, wanted = torch.zeros(16, dtype=torch.float64), []
    for _ in range(7):
        u = u + c
        wanted.append(u >= 0.8)
        u = (u - 0.8 * wanted[-1]) * leak
    assert torch.equal(spikes[:, 0, 1], torch.stack(wanted).to(torch.uint8))
    assert 0 < int(spikes.sum()) < spikes.numel()
