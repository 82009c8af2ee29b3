"""SpikeLLM: the released code's golden cases, and transformers' own LLaMA."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file  # noqa: E402
from transformers import LlamaConfig  # noqa: E402

from qslm_opt.conformance import random_tensors  # noqa: E402
from qslm_opt.errors import ModelError  # noqa: E402
from qslm_opt.kernels.fire.integer import (  # noqa: E402
    above_share,
    integer_spikes,
    salient_channels,
)
from qslm_opt.kernels.ops import REFERENCE  # noqa: E402
from qslm_opt.models.family import Fired, Inputs  # noqa: E402
from qslm_opt.models.loading import load_model, save_model  # noqa: E402
from qslm_opt.models.spikellm import SpikeLLM, Spiking, llama_config  # noqa: E402
from qslm_opt.models.spikellm_config import HEAD, MATRICES, SpikeLLMConfig  # noqa: E402
from tests.models.tiny_llama import SIZES, saved_llama, tiny_llama  # noqa: E402

Case = dict[str, Any]
FAMILY = SpikeLLM()
IDS = torch.randint(0, 120, (3, 17), generator=torch.Generator().manual_seed(1))
CASES = range(5)


# ------------------------------------------------------------------------------------------- golden


@pytest.fixture(scope="module")
def golden(shared: Path) -> tuple[dict[str, torch.Tensor], list[Case]]:
    folder = shared / "models/spikellm-tiny"
    weights = torch.load(folder / "model.pth", weights_only=True)
    return weights, json.loads((folder / "expected.json").read_text("utf-8"))["cases"]


def as_quantized(weight: torch.Tensor, case: Case) -> torch.Tensor:
    """Return the case's weights: the activations' equations, on the rows of the matrix."""
    bits = case["weight_bits"]
    if bits is None:
        return weight
    low, high = weight.aminmax(dim=-1, keepdim=True)
    factor = torch.sigmoid(torch.tensor(4.0, dtype=weight.dtype)) if case["lwc"] else 1.0
    scale = ((high - low) * factor / (2**bits - 1)).clamp(1e-5, 1e4)
    zero = (-low * factor / scale).clamp(-1e4, 1e4).round()
    return (((weight / scale).round() + zero).clamp(0, 2**bits - 1) - zero) * scale


def of_golden(weights: dict[str, torch.Tensor], case: Case, dtype: torch.dtype) -> torch.Tensor:
    """Return what the model's own linear map gives on the case's input."""
    name = case["tensor"].removesuffix(".weight")
    block, _, matrix = name.removeprefix("model.layers.").partition(".")
    x = torch.tensor(case["input"], dtype=torch.float64).to(dtype)
    salient = torch.zeros(x.shape[-1], dtype=dtype)
    salient[case["salient_channels"]] = 1
    weight = as_quantized(weights[case["tensor"]].double(), case).to(dtype)
    p = {f"{name}.weight": weight, f"{name}.salient": salient}
    cfg = SpikeLLMConfig(
        300, 64, 128, 2, 4, activation_bits=case["act_bits"], added_bits=case["addbit"], salient_share=0.1,
        salient_known=True,
    )  # fmt: skip
    return Spiking(p, cfg, int(block), REFERENCE, Fired(None))(matrix, x)


@pytest.mark.parametrize("number", CASES)
def test_codes_and_zero_points_are_the_originals(golden: Any, number: int) -> None:
    case = golden[1][number]
    x = torch.tensor(case["input"], dtype=torch.float64)
    for level, bits in (("low", case["act_bits"]), ("high", case["act_bits"] + case["addbit"])):
        expected, made = case["activation"][level], integer_spikes(x, bits)
        assert expected["n_bits"] == bits
        assert made.code.long().tolist() == expected["codes"]
        assert made.zero.flatten().tolist() == expected["zero_point"]
        assert made.scale.flatten().tolist() == pytest.approx(expected["scale"], abs=1e-12, rel=0)


@pytest.mark.parametrize("number", CASES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_outputs_are_the_originals(golden: Any, number: int, dtype: torch.dtype, tolerance: float) -> None:
    weights, cases = golden
    made = of_golden(weights, cases[number], dtype).double()
    expected = torch.tensor(cases[number]["output"], dtype=torch.float64)
    assert (made - expected).abs().max() <= tolerance


def test_the_salient_channels_are_those_of_the_originals_calibration(golden: Any) -> None:
    weights, cases = golden
    case = cases[1]
    x = torch.tensor(case["calibration"], dtype=torch.float32).flatten(0, -2)
    weight, share = weights[case["tensor"]], 1 - case["low_p"]
    found = salient_channels(weight, x.T @ x / len(x), share)
    assert found.nonzero().flatten().tolist() == case["salient_channels"]
    assert above_share(torch.tensor(case["score"]), share).equal(found)


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.1, 1), (0.3, 3), (0.9, 9), (1.0, 10)])
def test_a_share_of_the_channels_is_salient(share: float, count: int) -> None:
    assert above_share(torch.arange(10.0), share).sum() == count


def test_stock_logits_of_the_golden_weights(golden: Any, shared: Path) -> None:
    stock = json.loads((shared / "models/spikellm-tiny/llama_float_reference.json").read_text("utf-8"))
    model = load_model(
        str(shared / "models/spikellm-tiny/model.pth"),
        overrides={"num_attention_heads": 4, "max_position_embeddings": 64},
    )
    p = {name: tensor.double() for name, tensor in model.tensors.items()}
    inputs = Inputs(torch.tensor(stock["input_ids"]), None)
    made = FAMILY.logits(p, model.config, inputs, REFERENCE, Fired(None))
    expected = torch.tensor(stock["logits_last_position"], dtype=torch.float64)
    assert (made[:, -1] - expected).abs().max() <= 1e-6  # norms are computed in float32 by LLaMA itself


def logits_of(folder: Path) -> torch.Tensor:
    model = load_model(str(folder))
    return FAMILY.logits(model.tensors, model.config, Inputs(IDS, None), REFERENCE, Fired(None))


# ------------------------------------------------------------------------------------- transformers

VARIANTS: dict[str, dict[str, Any]] = {
    "grouped": {},
    "heads": {"num_key_value_heads": 4},
    "one-group": {"num_key_value_heads": 1},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "tied": {"tie_word_embeddings": True},
    "theta": {"rope_theta": 500_000.0, "hidden_act": "gelu"},
    "linear": {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    "llama3": {"rope_scaling": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32}},
    "dynamic": {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}, "max_position_embeddings": 16},
    "head-dim": {"head_dim": 16},
    "epsilon": {"rms_norm_eps": 0.05},
}  # fmt: skip


@pytest.mark.parametrize("keys", VARIANTS.values(), ids=VARIANTS)
def test_without_spikes_logits_are_those_of_transformers(tmp_path: Path, keys: dict[str, Any]) -> None:
    stock = saved_llama(tmp_path, **keys)
    model = load_model(str(tmp_path))
    assert model.ties == ({HEAD: "model.embed_tokens.weight"} if "tie_word_embeddings" in keys else {})
    with torch.inference_mode():
        expected = stock(IDS).logits
        made = FAMILY.logits(model.tensors, model.config, Inputs(IDS, None), REFERENCE, Fired(None))
    assert expected.std() > 0.1
    assert (made - expected).abs().max() <= 1e-5


def test_older_config_files_say_the_same(tmp_path: Path) -> None:
    """Before version 5 ``rope_theta`` and ``rope_scaling`` stand apart, the kind perhaps as ``type``."""
    saved_llama(tmp_path, rope_theta=5e5, rope_scaling={"rope_type": "linear", "factor": 4.0})
    config = load_model(str(tmp_path)).config
    values = json.loads((tmp_path / "config.json").read_text("utf-8"))
    values.pop("rope_parameters")
    values |= {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 4.0}}
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert load_model(str(tmp_path)).config == config
    assert isinstance(config, SpikeLLMConfig)
    assert config.rope() == {"rope_type": "linear", "factor": 4.0}


def test_a_checkpoint_in_shards_with_an_index_is_one_model(tmp_path: Path) -> None:
    saved_llama(tmp_path / "whole")
    saved_llama(tmp_path / "parts", shard="20KB")
    shards = sorted((tmp_path / "parts").glob("model-*.safetensors"))
    assert len(shards) > 2
    save_file({"other": torch.zeros(2)}, tmp_path / "parts/model-1-of-9.safetensors")  # not in the index
    whole, parts = load_model(str(tmp_path / "whole")), load_model(str(tmp_path / "parts"))
    assert (whole.config, whole.weights_hash) == (parts.config, parts.weights_hash)
    shards[1].unlink()
    with pytest.raises(ModelError, match=f"1 are not beside it .*{shards[1].name}"):
        load_model(str(tmp_path / "parts"))


@pytest.mark.parametrize(("text", "words"), [
    ("{", "cannot be read"),
    ('{"weight_map": 3}', "cannot be read"),
    ('{"weight_map": {}}', "0 shards"),
    ('{"weight_map": {"a": "../up.safetensors"}}', "no .safetensors beside it"),
    ('{"weight_map": {"a": "b.pth"}}', "no .safetensors beside it"),
])  # fmt: skip
def test_an_index_that_cannot_be_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ModelError, match=words):
        load_model(str(tmp_path))


def test_positions_of_older_checkpoints_are_left_out(tmp_path: Path) -> None:
    saved_llama(tmp_path)
    before, path = load_model(str(tmp_path)), tmp_path / "model.safetensors"
    save_file({**load_file(path), "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}, path)
    assert load_model(str(tmp_path)).weights_hash == before.weights_hash


def test_a_saved_model_is_read_by_us_and_by_transformers(tmp_path: Path) -> None:
    from transformers import LlamaForCausalLM

    saved_llama(tmp_path / "a", tie_word_embeddings=True, rope_scaling=VARIANTS["linear"]["rope_scaling"])
    model = load_model(str(tmp_path / "a"))
    save_model(tmp_path / "b", model.config, model.tensors)
    assert HEAD not in load_file(tmp_path / "b/model.safetensors")
    again = load_model(str(tmp_path / "b"))
    assert (again.config, again.weights_hash, again.ties) == (model.config, model.weights_hash, model.ties)
    stock = LlamaForCausalLM.from_pretrained(tmp_path / "b").eval()
    with torch.inference_mode():
        made = FAMILY.logits(model.tensors, model.config, Inputs(IDS, None), REFERENCE, Fired(None))
        assert (stock(IDS).logits - made).abs().max() <= 1e-5


# ------------------------------------------------------------------------------------------- config


def spiking(**keys: Any) -> tuple[SpikeLLMConfig, dict[str, torch.Tensor]]:
    """Return a tiny model with integer spikes of 4 bits."""
    config = SpikeLLMConfig.from_shapes(
        {name: tuple(t.shape) for name, t in tiny_llama().state_dict().items()},
        num_attention_heads=4, rms_norm_eps=1e-5, **{"activation_bits": 4, **keys},
    )  # fmt: skip
    return config, dict(tiny_llama().state_dict())


def test_spikes_are_counted_at_every_matrix() -> None:
    config, p = spiking()
    fired = Fired(Inputs(IDS, None))
    FAMILY.logits(p, config, Inputs(IDS, None), REFERENCE, fired)
    sites = config.sites()
    assert list(fired.counts) == list(sites) == [
        f"model.layers.{i}.{matrix}" for i in range(3) for matrix in MATRICES
    ]  # fmt: skip
    rates = {name: float(fired.counts[name]) / (IDS.numel() * site.width) for name, site in sites.items()}
    assert all(0.3 < rate < 1 for rate in rates.values())
    assert rates["model.layers.0.self_attn.q_proj"] == rates["model.layers.0.self_attn.v_proj"]
    assert not replace(config, activation_bits=0).sites()


def test_more_bits_come_nearer_to_the_plain_model() -> None:
    config, p = spiking()

    def logits(bits: int) -> torch.Tensor:
        own = replace(config, activation_bits=bits)
        return FAMILY.logits(p, own, Inputs(IDS, None), REFERENCE, Fired(None))

    plain = logits(0)
    errors = [float((logits(bits) - plain).abs().mean()) for bits in (4, 6, 8, 12)]
    assert errors[0] > errors[1] > errors[2] > errors[3] > 0


def test_pads_on_the_right_change_no_token_before_them() -> None:
    config, p = spiking()
    alone = FAMILY.logits(p, config, Inputs(IDS[:1, :9], None), REFERENCE, Fired(None))
    padded = FAMILY.logits(p, config, Inputs(IDS, torch.tensor([9, 17, 17])), REFERENCE, Fired(None))
    assert (alone - padded[:1, :9]).abs().max() <= 1e-5


def test_unknown_salient_channels_are_no_guess() -> None:
    config, p = spiking(added_bits=1, salient_share=0.1)
    with pytest.raises(ModelError, match="salient_share=0"):
        FAMILY.logits(p, config, Inputs(IDS, None), REFERENCE, Fired(None))


@pytest.mark.parametrize(("keys", "words"), [
    ({"num_attention_heads": 3}, "must divide"),
    ({"num_key_value_heads": 3}, "must divide"),
    ({"num_attention_heads": 0}, "at least 1"),
    ({"num_hidden_layers": 10**9}, "at most"),
    ({"rms_norm_eps": float("nan")}, "at least 0"),
    ({"rope_theta": float("inf")}, "at most"),
    ({"rope_scaling": "[1]"}, "rope_type"),
    ({"rope_scaling": '{"rope_type": "odd"}'}, "rope_type"),
    ({"hidden_act": "step"}, "hidden_act 'step'"),
    ({"activation_bits": 12, "added_bits": 1}, "at most 12"),
    ({"activation_bits": -1}, "at least 0"),
    ({"added_bits": 1}, "give activation_bits"),
    ({"activation_bits": 4, "salient_share": 1.5}, "at most 1"),
])  # fmt: skip
def test_a_config_that_cannot_be_is_refused(keys: dict[str, Any], words: str) -> None:
    own = {key: value for key, value in SIZES.items() if key != "initializer_range"}
    with pytest.raises(ModelError, match=words):
        SpikeLLMConfig(**{**own, **keys})


LONG = {"rope_type": "longrope", "factor": 2.0, "original_max_position_embeddings": 16}


@pytest.mark.parametrize(("rope", "words"), [
    ({"rope_type": "linear", "factor": 2, "partial_rotary_factor": 0.5}, "rotary_factor 0.5; .* be 1"),
    ({"rope_type": "linear", "factor": 0}, "factor 0; it must be a number above 0"),
    ({"rope_type": "yarn", "factor": 2, "original_max_position_embeddings": 0}, "embeddings 0; .* above 0"),
    ({"rope_type": "yarn", "factor": 2, "attention_factor": "a"}, "attention_factor 'a'; .* at least 0"),
    ({"rope_type": "llama3", "factor": "8"}, "factor '8'; it must be a number"),
    ({"rope_type": "llama3", "factor": 8, "low_freq_factor": "1"}, "low_freq_factor '1'; .* number"),
    ({**LONG, "short_factor": [1.0]}, r"short_factor \[1.0\]; it must be a list of 4 numbers"),
    ({**LONG, "long_factor": [1.0, 1.0, 1.0, -1.0]}, "long_factor .* above 0, half of head_dim 8"),
])  # fmt: skip
def test_a_rope_that_cannot_be_is_refused_before_anything_is_computed(
    rope: dict[str, Any], words: str
) -> None:
    own = {key: value for key, value in SIZES.items() if key != "initializer_range"}
    with pytest.raises(ModelError, match=f"rope_scaling has .*{words}.* --config rope_scaling=JSON"):
        SpikeLLMConfig(**own, rope_scaling=json.dumps(rope))


@pytest.mark.parametrize("error", [RuntimeError, ZeroDivisionError, type("Strange", (Exception,), {})])
def test_what_transformers_raises_of_a_rope_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    from transformers.models.llama import modeling_llama

    def fail(*_: Any, **__: Any) -> None:
        raise error("of no\n use")

    config = SpikeLLMConfig(20, 16, 20, 1, 2, rope_scaling='{"rope_type": "linear", "factor": 3.5}')
    monkeypatch.setattr(modeling_llama, "LlamaRotaryEmbedding", fail)
    with pytest.raises(ModelError, match=rf'"factor": 3.5.*\({error.__name__}: of no use\)'):
        FAMILY.logits(random_tensors(config), config, Inputs(IDS % 20, None), REFERENCE, Fired(None))
    monkeypatch.setattr(LlamaConfig, "__init__", fail)
    llama_config.cache_clear()
    with pytest.raises(ModelError, match=rf'"factor": 3.5.*\({error.__name__}: of no use\)'):
        llama_config(config)


@pytest.mark.parametrize(("values", "words"), [
    ({"model_type": "mistral"}, "model_type 'mistral'"),
    ({"rope_scaling": 3}, "rope_scaling is '3'"),
    ({"rope_parameters": {"rope_type": "linear"}}, "refuses .*factor"),
    ({"tie_word_embeddings": True}, "other numbers"),
    ({"num_attention_heads": None}, "num_attention_heads=N"),
    ({"hidden_size": "wide"}, "'hidden_size' is 'wide'"),
])  # fmt: skip
def test_a_config_file_that_cannot_be_is_refused(tmp_path: Path, values: dict[str, Any], words: str) -> None:
    saved_llama(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **values}))
    with pytest.raises(ModelError, match=words):
        logits_of(tmp_path)
