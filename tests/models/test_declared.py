"""A model by its config.json alone: the same tree and bytes as with its weights, no tensor made."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from qslm_opt.cli.main import run
from qslm_opt.cli.model_tree import model_json
from qslm_opt.errors import ModelError
from qslm_opt.evaluate.memory import live_bytes
from qslm_opt.formats import SIGN, Format
from qslm_opt.hierarchy.discover import discover
from qslm_opt.models.declared import describe_model, find_config
from qslm_opt.models.registry import BUILT_IN, family_of, family_of_type, get_family
from qslm_opt.models.spikebert import SpikeBERTConfig
from qslm_opt.models.spikegpt_config import SpikeGPTConfig
from qslm_opt.models.spikellm_config import SpikeLLMConfig
from qslm_opt.models.spikelm import SpikeLMConfig
from qslm_opt.models.spikingbert import SpikingBERTConfig
from qslm_opt.setting import QuantSetting
from tests.conformance.test_built_in import SMALL

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu",
    "initializer_range": 0.02, "max_position_embeddings": 4096, "model_type": "llama", "pretraining_tp": 1,
    "rms_norm_eps": 1e-05, "rope_scaling": None, "tie_word_embeddings": False, "torch_dtype": "float16",
    "transformers_version": "4.31.0.dev0", "use_cache": True, "vocab_size": 32000,
}  # fmt: skip
"""What the config.json files of LLaMA-2 have in common."""
SPIKEGPT: dict[str, Any] = {"model_type": "spikegpt", "vocab_size": 4, "n_layer": 1}
LLAMA_2: dict[str, tuple[int, int, int, int, int, int]] = {
    "7B": (4096, 11008, 32, 32, 32, 6_738_415_616),
    "13B": (5120, 13824, 40, 40, 40, 13_015_864_320),
    "70B": (8192, 28672, 80, 64, 8, 68_976_648_192),
}
"""Width, inner width, layers, heads, heads of keys and values; parameters as published."""


def llama_2(size: str) -> dict[str, Any]:
    width, inner, layers, heads, groups, _ = LLAMA_2[size]
    return {
        **LLAMA, "hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": groups,
    }  # fmt: skip


def written(folder: Path, values: Any) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(values), "utf-8")
    return path


def info(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    capsys.readouterr()
    assert run(["model", "info", *map(str, words), "--json"]) == 0
    value: dict[str, Any] = json.loads(capsys.readouterr().out)
    return value


@pytest.mark.parametrize("size", LLAMA_2)
def test_llama_2_in_parameters_and_bytes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], size: str
) -> None:
    width, inner, layers, heads, groups, params = LLAMA_2[size]
    path = written(tmp_path, llama_2(size))
    found = info(capsys, path, "--bits", "8,4,3,2")
    assert found["params"] == {"all": params, "live": params}
    assert found["bytes"]["all"] == 4 * params and found["weights_hash"] is None
    assert len(found["blocks"]) == layers + 2
    norms = (2 * layers + 1) * width
    kv = groups * (width // heads)
    rows = 2 * 32000 + layers * (2 * width + 2 * kv + 2 * inner + width)
    for row in found["uniform"]:
        # codes; a float16 scale and a zero point of a byte for each row; norms in float16
        assert row["bytes"] == (params - norms) * row["bits"] // 8 + 3 * rows + 2 * norms
        assert row["saving"] == 1 - row["bytes"] / (4 * params)
    assert [row["bits"] for row in found["uniform"]] == [8, 4, 3, 2]
    assert info(capsys, tmp_path)["blocks"] == found["blocks"], "the folder is the same model"


def test_neither_torch_nor_transformers_is_loaded(tmp_path: Path) -> None:
    path = written(tmp_path, llama_2("70B"))
    code = (
        "import sys; from qslm_opt.cli.main import run; "
        f"code = run(['model', 'info', {str(path)!r}, '--bits', '4']); "
        "heavy = {'torch', 'transformers', 'numpy', 'optuna'} & sys.modules.keys(); "
        "sys.exit(code or f'loaded {sorted(heavy)}' if heavy else code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "68,976,648,192" in done.stdout and "no weights" in done.stdout and "34.5 GB" in done.stdout


def test_a_tied_head_counts_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = info(capsys, written(tmp_path, llama_2("7B")))["params"]["all"]
    tied = info(capsys, written(tmp_path, {**llama_2("7B"), "tie_word_embeddings": True}))
    assert own - tied["params"]["all"] == 32000 * 4096
    assert tied["ties"] == {"lm_head.weight": "model.embed_tokens.weight"}


@pytest.mark.parametrize(("rope", "told"), [
    ({"rope_scaling": None}, True),
    ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}, True),
    ({}, False),
])  # fmt: skip
def test_a_null_rope_scaling_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rope: dict[str, Any], told: bool
) -> None:
    values = {key: value for key, value in llama_2("7B").items() if key != "rope_scaling"}
    path = written(tmp_path, {**values, **rope})
    assert run(["model", "info", str(path)]) == 0
    said = capsys.readouterr().out.replace("\n", " ")
    assert ("rope_scaling none" in said) is not told and "; --config KEY=VALUE says otherwise" in said


CONFIGS = [
    SpikeGPTConfig(40, 3, 8, n_labels=2, ctx_len=64),
    SpikeGPTConfig(40, 2, 8, model_type="RWKV-ffnPre"),
    SpikeLLMConfig(300, 64, 128, 2, 4, 2, rope_scaling='{"factor": 2.0, "rope_type": "linear"}'),
    SpikeLLMConfig(300, 64, 128, 2, 4, activation_bits=4, added_bits=1, salient_share=0.1),
    SpikeBERTConfig(40, 2, 16, 3, hidden=24, transforms=True, heads=4, timesteps=3, tau=3.0, length=12),
    SpikeBERTConfig(40, 2, 16, 3, common_thr=0.5, qk_scale=0.25),
    SpikingBERTConfig(**SMALL["spikingbert"]),
    SpikingBERTConfig(**SMALL["spikingbert"] | {"threshold": 0.5, "leak": 0.9, "has_feedback": False}),
    SpikeLMConfig(**SMALL["spikelm"]),
    SpikeLMConfig(**SMALL["spikelm"] | {"timesteps": 2, "stored_steps": 4, "layer_norm_eps": 1e-6}),
]


def test_config_files_of_every_family_are_here() -> None:
    assert {config.family for config in CONFIGS} == set(BUILT_IN)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.describe())
def test_any_familys_config_file_describes_the_model_it_was_written_for(tmp_path: Path, config: Any) -> None:
    path = written(tmp_path, family_of(config).config_json(config))
    assert find_config(str(tmp_path)) == find_config(str(path)) == path
    assert describe_model(str(tmp_path), path).config == config


def test_a_large_model_is_described_once_and_told_whole(tmp_path: Path) -> None:
    values = {**llama_2("7B"), "num_hidden_layers": 300}
    model = describe_model("m", written(tmp_path, values))
    assert model.shapes is model.shapes
    tree = discover(model.config, model.shapes, "lm")
    shown = [
        tensor for block in model_json(model, tree, "lm")["blocks"] for module in block["modules"]
        for tensor in module["tensors"]
    ]  # fmt: skip
    assert shown == [
        {**asdict(t), "shape": list(t.shape), "params": t.numel, "bytes": 4 * t.numel} for t in tree.tensors()
    ]


def test_every_family_is_known_by_its_name() -> None:
    for name in BUILT_IN:
        family = family_of_type(name)
        assert family is get_family(name) and family.name == name
    assert family_of_type("no-such-type") is None


def test_bytes_are_those_that_a_loaded_model_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    from qslm_opt.models.loading import load_model

    demo = load_model("demo")
    path = written(tmp_path, family_of(demo.config).config_json(demo.config))
    described, loaded = (info(capsys, m, "--bits", "4", "--layout", "group32/affine") for m in (path, "demo"))
    for key in ("family", "kind", "config", "params", "bytes", "ties", "blocks", "uniform", "tensors"):
        assert described[key] == loaded[key], key
    tree = discover(demo.config, demo.shapes, "classification")
    setting = QuantSetting({"network": Format.parse("int4/group32/affine"), "input/emb": SIGN})
    assert loaded["uniform"][0]["bytes"] == live_bytes(tree, setting)


def test_the_config_beside_weights_is_no_model_without(tmp_path: Path) -> None:
    written(tmp_path, llama_2("7B"))
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    assert find_config(str(tmp_path)) is None
    assert find_config("demo") is None
    assert find_config(str(tmp_path / "nothing")) is None


@pytest.mark.parametrize(("values", "words"), [
    ({**LLAMA}, "does not say hidden_size, .*give --config hidden_size=VALUE"),
    ({"hidden_size": 8}, "model_type None, .*give --family"),
    ({"model_type": "bert"}, "model_type 'bert', .*spikegpt, "),
    ([1], "not a JSON object"),
    ({**SPIKEGPT, "n_embd": "8"}, "'n_embd' is '8'"),
    ({**SPIKEGPT, "n_embd": 8, "rescale_every": 6}, "--rescale-every 6"),
])  # fmt: skip
def test_a_config_that_leaves_the_model_open_is_refused(tmp_path: Path, values: Any, words: str) -> None:
    path = written(tmp_path, values)
    with pytest.raises(ModelError, match=words):
        describe_model(str(path), path)


def test_flags_complete_a_config(tmp_path: Path) -> None:
    path = written(tmp_path, {**SPIKEGPT, "rescale_every": 6})
    made = describe_model(str(path), path, rescale_every=6, overrides={"n_embd": 8}).config
    assert made == SpikeGPTConfig(4, 1, 8, rescale_every=6)
    other = describe_model(str(path), path, rescale_every=6, overrides={"n_embd": 16}).config
    assert other == replace(made, n_embd=16, n_ffn=64)


@pytest.mark.parametrize(("words", "message"), [
    (("--layout", "channel/affine"), "give --bits too"),
    (("--bits", "four"), "no list of bits"),
    (("--bits", "20"), "20"),
])  # fmt: skip
def test_bits_that_cannot_be_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    path = written(tmp_path, llama_2("7B"))
    assert run(["model", "info", str(path), *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_null_model_type_says_nothing(name: str) -> None:
    get_family(name).declared({"model_type": None})
    with pytest.raises(ModelError, match="another family"):
        get_family(name).declared({"model_type": "clip"})
