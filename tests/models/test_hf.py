from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from qslm_opt.errors import ModelError
from qslm_opt.kernels.ops import REFERENCE
from qslm_opt.models import spikegpt
from qslm_opt.models.hf import (
    SpikeGPTForCausalLM,
    SpikeGPTForSequenceClassification,
    SpikeGPTHFConfig,
)
from qslm_opt.models.loading import load_model, save_model
from qslm_opt.models.spikegpt_config import SpikeGPTConfig

LM = SpikeGPTConfig(vocab_size=60, n_layer=3, n_embd=16, ctx_len=99)
CLASSES = SpikeGPTConfig(vocab_size=60, n_layer=3, n_embd=16, n_labels=3, model_type="RWKV-ffnPre")


def weights(config: SpikeGPTConfig) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {n: torch.randn(shape, generator=generator) for n, shape in config.tensor_shapes().items()}


@pytest.fixture
def lm(tmp_path: Path) -> SpikeGPTForCausalLM:
    save_model(tmp_path / "lm", LM, weights(LM))
    return AutoModelForCausalLM.from_pretrained(tmp_path / "lm")


@pytest.fixture
def classifier(tmp_path: Path) -> SpikeGPTForSequenceClassification:
    save_model(tmp_path / "classes", CLASSES, weights(CLASSES))
    return AutoModelForSequenceClassification.from_pretrained(tmp_path / "classes")


def ids(batch: int = 2, tokens: int = 12) -> torch.Tensor:
    return torch.randint(0, 60, (batch, tokens), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("config", [LM, CLASSES])
def test_a_config_survives_the_hugging_face_form(tmp_path: Path, config: SpikeGPTConfig) -> None:
    SpikeGPTHFConfig.of(config).save_pretrained(tmp_path)
    read = AutoConfig.from_pretrained(tmp_path)
    assert type(read) is SpikeGPTHFConfig
    assert read.core == config
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "spikegpt"


def test_a_config_that_cannot_be_is_refused() -> None:
    with pytest.raises(ModelError, match="embed_spike 'maybe' is unknown"):
        SpikeGPTHFConfig(embed_spike="maybe")


def test_parameters_carry_the_authors_names(lm: SpikeGPTForCausalLM) -> None:
    assert {n: tuple(p.shape) for n, p in lm.named_parameters()} == LM.tensor_shapes()
    assert list(lm.state_dict()) == list(LM.tensor_shapes())


@pytest.mark.parametrize("config", [LM, CLASSES])
def test_save_and_load_is_bit_exact_in_both_directions(tmp_path: Path, config: SpikeGPTConfig) -> None:
    auto = AutoModelForSequenceClassification if config.n_labels else AutoModelForCausalLM
    save_model(tmp_path / "ours", config, weights(config))
    model = auto.from_pretrained(tmp_path / "ours")
    model.save_pretrained(tmp_path / "theirs")
    assert [p.suffix for p in (tmp_path / "theirs").iterdir() if p.suffix != ".json"] == [".safetensors"]
    ours, theirs = load_model(str(tmp_path / "ours")), load_model(str(tmp_path / "theirs"))
    assert theirs.weights_hash == ours.weights_hash
    assert theirs.config == ours.config == config
    again = auto.from_pretrained(tmp_path / "theirs")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_logits_are_those_of_the_one_arithmetic(lm: SpikeGPTForCausalLM) -> None:
    with torch.no_grad():
        logits = lm(ids()).logits
        h, _, _ = spikegpt.forward(weights(LM), LM, ids(), REFERENCE)
        expected = spikegpt.lm_logits(weights(LM), h)
    assert logits.shape == (2, 12, 60)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


def test_the_loss_is_the_mean_over_the_next_tokens(lm: SpikeGPTForCausalLM) -> None:
    with torch.no_grad():
        output = lm(ids(), labels=ids())
    expected = cross_entropy(output.logits[:, :-1].flatten(0, 1), ids()[:, 1:].flatten())
    assert float(output.loss) == pytest.approx(float(expected), rel=1e-6)
    assert [tuple(t.shape) for t in lm(ids(), labels=ids(), use_cache=False, return_dict=False)] == [
        (),
        (2, 12, 60),
    ]


def test_padding_has_no_part_in_the_loss(lm: SpikeGPTForCausalLM) -> None:
    mask = torch.ones_like(ids())
    mask[0, 7:] = 0
    with torch.no_grad():
        loss = lm(ids(), attention_mask=mask, labels=ids()).loss
        logits = lm(ids()).logits
    rows = [(logits[0, :6], ids()[0, 1:7]), (logits[1, :-1], ids()[1, 1:])]
    total = sum(cross_entropy(x, y, reduction="sum") for x, y in rows)
    assert float(loss) == pytest.approx(float(total) / 17, rel=1e-6)


def test_the_state_goes_on_where_a_call_ended(lm: SpikeGPTForCausalLM) -> None:
    with torch.no_grad():
        whole = lm(ids())
        first = lm(ids()[:, :5])
        rest = lm(ids()[:, 5:], state=first.state)
    torch.testing.assert_close(rest.logits, whole.logits[:, 5:], rtol=1e-5, atol=1e-5)
    assert torch.equal(rest.logits.argmax(-1), whole.logits[:, 5:].argmax(-1))


def test_generation_with_the_state_equals_the_whole_window(lm: SpikeGPTForCausalLM) -> None:
    calls = []
    hook = lm.register_forward_pre_hook(
        lambda m, a, kw: calls.append(kw["input_ids"].shape[1]), with_kwargs=True
    )
    carried = lm.generate(ids(), max_new_tokens=10, do_sample=False)
    hook.remove()
    assert calls == [12] + [1] * 9
    assert torch.equal(carried, lm.generate(ids(), max_new_tokens=10, do_sample=False, use_cache=False))
    sequence = ids()
    with torch.no_grad():
        for _ in range(10):
            following = lm(sequence).logits[:, -1].argmax(-1, keepdim=True)
            sequence = torch.cat((sequence, following), dim=1)
    assert torch.equal(carried, sequence)


def test_beam_search_never_mixes_states(lm: SpikeGPTForCausalLM) -> None:
    with torch.no_grad():
        beams = lm.generate(ids(), max_new_tokens=6, num_beams=4, do_sample=False)
        whole = lm.generate(ids(), max_new_tokens=6, num_beams=4, do_sample=False, use_cache=False)
        greedy = lm.generate(ids(), max_new_tokens=6, do_sample=False)
    assert torch.equal(beams, whole)
    assert log_likelihood(lm, beams) >= log_likelihood(lm, greedy)


def log_likelihood(lm: SpikeGPTForCausalLM, sequence: torch.Tensor) -> float:
    with torch.no_grad():
        logits = lm(sequence).logits[:, 11:-1].log_softmax(-1)
    return float(logits.gather(-1, sequence[:, 12:, None]).sum())


def test_classification_never_counts_padding(classifier: SpikeGPTForSequenceClassification) -> None:
    mask = torch.ones_like(ids())
    mask[0, 5:] = 0
    with torch.no_grad():
        padded = classifier(ids(), attention_mask=mask, labels=torch.tensor([2, 0]))
        alone = classifier(ids()[:1, :5]).logits
        full = classifier(ids()).logits
    assert padded.logits.shape == (2, 3)
    torch.testing.assert_close(padded.logits[:1], alone, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(padded.logits[1:], full[1:], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(padded.logits[0], full[0], atol=1e-2)
    assert float(padded.loss) == pytest.approx(float(cross_entropy(padded.logits, torch.tensor([2, 0]))))


@pytest.mark.parametrize("mask", [[0, 1, 1], [1, 0, 1], [0, 0, 0]], ids=["left", "hole", "nothing"])
def test_padding_that_would_enter_the_state_is_refused(
    lm: SpikeGPTForCausalLM, classifier: SpikeGPTForSequenceClassification, mask: list[int]
) -> None:
    for call in (lm, classifier, partial(lm.generate, max_new_tokens=2)):
        with pytest.raises(ModelError, match="pad on the right"):
            call(ids(1, 3), attention_mask=torch.tensor([mask]))


def test_other_precisions_run_through_the_plain_operations(lm: SpikeGPTForCausalLM) -> None:
    with torch.no_grad():
        single, double = lm(ids()).logits, lm.double()(ids()).logits
    assert double.dtype == torch.float64
    assert torch.equal(single.argmax(-1), double.argmax(-1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_weights_are_computed_in_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    stored = {name: tensor.to(dtype) for name, tensor in weights(LM).items()}
    save_model(tmp_path, LM, stored)
    model = AutoModelForCausalLM.from_pretrained(tmp_path).to(dtype)
    assert model.dtype == dtype
    with torch.no_grad():
        logits, expected = model(ids()).logits, model.float()(ids()).logits
    assert torch.equal(logits, expected)
    assert torch.isfinite(logits).all()


def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    config = SpikeGPTHFConfig(vocab_size=60, n_layer=2, n_embd=16, tie_word_embeddings=True)
    model = SpikeGPTForCausalLM(config)
    assert model.get_parameter("head.weight") is model.get_parameter("emb.weight")
    model.save_pretrained(tmp_path)
    read = load_model(str(tmp_path))
    assert read.ties == {"head.weight": "emb.weight"}
    with torch.no_grad():
        logits = AutoModelForCausalLM.from_pretrained(tmp_path)(ids()).logits
    assert torch.equal(logits, model.eval()(ids()).logits)


def test_a_language_model_gives_a_classifier_its_body(tmp_path: Path, lm: SpikeGPTForCausalLM) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "lm", num_labels=4)
    assert model.config.n_labels == 4
    assert all(torch.equal(model.get_parameter(name), tensor) for name, tensor in weights(LM).items())
    model.save_pretrained(tmp_path / "tuned")
    assert load_model(str(tmp_path / "tuned")).config.n_labels == 4


def test_a_model_without_a_head_is_no_language_model() -> None:
    with pytest.raises(ModelError, match="no language-model head"):
        SpikeGPTForCausalLM(SpikeGPTHFConfig(60, 2, 16, n_labels=2, has_head=False))


def test_training_without_gradients_through_the_spikes_is_refused(lm: SpikeGPTForCausalLM) -> None:
    lm.train()
    with pytest.raises(ModelError, match="have no gradient"):
        lm(ids(), labels=ids())
    assert lm.eval()(ids(), labels=ids()).loss.requires_grad


def test_a_new_model_starts_from_finite_weights() -> None:
    torch.manual_seed(0)
    model = SpikeGPTForCausalLM(SpikeGPTHFConfig(60, 2, 16)).eval()
    with torch.no_grad():
        assert torch.isfinite(model(ids()).logits).all()
    assert float(model.get_parameter("blocks.0.att.time_mix_k").detach().mean()) == 0.5


def test_a_reference_model_round_trips(shared: Path, tmp_path: Path) -> None:
    source = load_model(str(shared / "models" / "spikegpt-14m-sst2"))
    save_model(tmp_path, source.config, source.tensors, source.tokenizer)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    model.save_pretrained(tmp_path / "again")
    assert load_model(str(tmp_path / "again")).weights_hash == source.weights_hash
