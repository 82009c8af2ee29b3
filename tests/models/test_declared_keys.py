"""Keys of config.json and --config: other words, what is missing, bounds, and the table of the docs."""

from __future__ import annotations

import json
import re
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from qslm_opt.cli.main import run
from qslm_opt.errors import ModelError
from qslm_opt.hierarchy.discover import discover
from qslm_opt.models.config import MOST_BLOCKS, ModelConfig
from qslm_opt.models.declared import describe_model
from qslm_opt.models.loading import load_model, save_model
from qslm_opt.models.registry import BUILT_IN, get_family
from tests.models.key_samples import SAMPLES, told_by_shapes

ROOT = Path(__file__).resolve().parents[2]
BERT: dict[str, Any] = {
    "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 20,
    "vocab_size": 30, "max_position_embeddings": 16, "type_vocab_size": 2,
}  # fmt: skip
"""What a config.json of Hugging Face's library says of a model's sizes."""
SPIKING = ("spikebert", "spikelm", "spikingbert")
FAMILIES = {config.family: type(config) for config in SAMPLES}


def described(folder: Path, family: str, values: dict[str, Any], **overrides: Any) -> ModelConfig:
    path = folder / "config.json"
    path.write_text(json.dumps(values), "utf-8")
    return describe_model(str(path), path, family=family, overrides=overrides).config


# ----------------------------------------------------------------------------------------- words of others


@pytest.mark.parametrize("family", SPIKING)
@pytest.mark.parametrize("labels", [
    {"num_labels": 3}, {"id2label": {"0": "a", "1": "b", "2": "c"}},
    {"num_labels": 3, "id2label": {"0": "a"}},
])  # fmt: skip
def test_the_words_of_a_bert_config_are_enough(tmp_path: Path, family: str, labels: dict[str, Any]) -> None:
    found = described(tmp_path, family, {**BERT, **labels})
    assert (found.vocabulary, found.blocks, found.labels) == (30, 2, 3)
    tree = discover(found, found.tensor_shapes(), "classification")
    shapes = {tensor.shape for tensor in tree.tensors()}
    assert {(30, 8), (20, 8), (8, 20), (3, 8)} <= shapes
    assert getattr(found, FAMILIES[family].words.get("num_attention_heads", "num_attention_heads")) == 2


def test_the_words_of_transformers_are_enough_for_a_spikegpt(tmp_path: Path) -> None:
    found = described(tmp_path, "spikegpt", {**BERT, "rwkv_type": "RWKV-ffnPre", "num_labels": 3})
    assert found == FAMILIES["spikegpt"](30, 2, 8, "RWKV-ffnPre", 20, 3, ctx_len=16)  # type: ignore[call-arg]


def test_a_sequence_classifier_without_names_has_two_classes(tmp_path: Path) -> None:
    made = {"architectures": ["BertForSequenceClassification"]}
    assert described(tmp_path, "spikelm", {**BERT, **made}).labels == 2
    with pytest.raises(ModelError, match="num_labels"):
        described(tmp_path, "spikelm", {**BERT, "architectures": ["BertForMaskedLM"]})
    with pytest.raises(ModelError, match="id2label is 3; it must be an object"):
        described(tmp_path, "spikelm", {**BERT, "id2label": 3})


def test_a_keys_own_name_wins_over_another_word_in_a_file(tmp_path: Path) -> None:
    assert described(tmp_path, "spikebert", {**BERT, "num_labels": 3, "num_classes": 4}).labels == 4
    assert described(tmp_path, "spikebert", {**BERT, "num_labels": 3, "num_classes": None}).labels == 3


def test_the_depth_of_an_original_spikingberts_file_counts_only_without_tensors(tmp_path: Path) -> None:
    config = FAMILIES["spikingbert"](**{**BERT, "n_labels": 2, "timesteps": 3})
    save_model(tmp_path, config, weights(config))
    (tmp_path / "config.json").write_text(json.dumps({**BERT, "num_hidden_layers": 7}))
    assert load_model(str(tmp_path), overrides={"T": 3}).config == config
    assert described(tmp_path, "spikingbert", {**BERT, "num_hidden_layers": 7}, num_labels=2).blocks == 7


def weights(config: ModelConfig) -> dict[str, Any]:
    import torch

    generator = torch.Generator().manual_seed(1)
    return {n: 0.3 * torch.randn(s, generator=generator) for n, s in config.tensor_shapes().items()}


# --------------------------------------------------------------------------------------- what is not told


def test_every_missing_key_is_named_with_one_fix(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {key: value for key, value in BERT.items() if key not in ("num_attention_heads", "vocab_size")}
    (tmp_path / "config.json").write_text(json.dumps(values))
    words = ["model", "info", str(tmp_path), "--family", "spikelm"]
    assert run(words) == 1
    said = capsys.readouterr().err
    assert "does not say vocab_size, num_labels, num_attention_heads, and" in said and "add them, or" in said
    fix = re.findall(r"--config \w+=VALUE", said)
    assert len(fix) == 3 and said.count("\n") == 1
    given = [word.replace("VALUE", "2") for one in fix for word in one.split()]
    assert run([*words, *given, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["config"]["num_labels"] == found["config"]["num_attention_heads"] == 2
    assert found["assumed"] == {"timesteps": 4, "input_bits": 2, "layer_norm_eps": 1e-12}


def test_other_words_are_keys_of_config_too(tmp_path: Path) -> None:
    assert described(tmp_path, "spikingbert", BERT, num_labels=3, T=5).to_dict() == {
        **described(tmp_path, "spikingbert", BERT, n_labels=3, timesteps=5).to_dict()
    }
    with pytest.raises(ModelError, match=r"'n_labels' is 4 and 'num_labels', which is another word .* is 3;"):
        described(tmp_path, "spikingbert", BERT, num_labels=3, n_labels=4)


def test_other_words_are_keys_of_config_with_weights(tmp_path: Path) -> None:
    config = FAMILIES["spikebert"](30, 2, 8, 3, heads=2, length=16)  # type: ignore[call-arg]
    save_model(tmp_path, config, weights(config))
    (tmp_path / "config.json").unlink()
    found = load_model(str(tmp_path), overrides={"num_attention_heads": 2, "length": 16, "T": 4})
    assert found.config == config and not {"heads", "length", "timesteps"} & set(found.assumed)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_unknown_key_is_refused_with_all_that_there_are(tmp_path: Path, family: str) -> None:
    with pytest.raises(ModelError, match=f"'no_key' is unknown; a model of family {family} has ") as refused:
        described(tmp_path, family, BERT, no_key=1)
    assert all(re.search(rf"\b{key}\b", str(refused.value)) for key in FAMILIES[family].key_names())
    assert all(re.search(rf"\b{word}\b", str(refused.value)) for word in FAMILIES[family].words)


@pytest.mark.parametrize("family", ["spikegpt", "spikellm"])
def test_a_family_without_time_steps_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], family: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(BERT))
    for given in (["--timesteps", "4"], ["--config", "T=4"]):
        assert run(["model", "info", str(tmp_path), "--family", family, *given]) == 1
        title = FAMILIES[family].title
        assert f"a {title} has no time steps; leave --timesteps, or" in capsys.readouterr().err


def test_a_word_for_nan_is_no_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**BERT, "num_labels": 2}))
    words = ["model", "info", str(tmp_path), "--family", "spikingbert", "--config", "threshold=nan"]
    assert run(words) == 1
    assert "'threshold' is 'nan'; it must be a finite number" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------- bounds

NONSENSE = (0, -1, 1.5, 10**9, 10**30, float("nan"), float("inf"), "eight", [8], True, 10**4000)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("word", ["num_attention_heads", "num_hidden_layers", "hidden_size", "vocab_size"])
def test_nonsense_is_one_sentence_with_value_bound_and_fix(tmp_path: Path, family: str, word: str) -> None:
    kind = FAMILIES[family]
    if kind.words.get(word, word) not in kind.key_names():
        return
    labels = {"num_labels": 2} if family != "spikellm" else {}
    for value in NONSENSE:
        for values, given in (({word: value}, {}), ({}, {word: value})):
            with pytest.raises(ModelError) as refused:
                described(tmp_path, family, {**BERT, **labels, **values}, **given)
            said = str(refused.value)
            assert len(said) < 400 and re.search(r"must (be|divide)", said) and "--config" in said, said
            assert repr(value)[:60] in said and (word in said or kind.words[word] in said), said


@pytest.mark.parametrize("family", FAMILIES)
def test_every_number_has_bounds(family: str) -> None:
    kind = FAMILIES[family]
    numbers = {f.name for f in fields(kind) if f.type in ("int", "float")}
    assert numbers == set(kind.bounds)
    assert all(least < most < float("inf") for least, most in kind.bounds.values())
    depth = kind.words.get("num_hidden_layers", "num_hidden_layers")
    assert kind.bounds[depth] == (1, MOST_BLOCKS)


def test_a_wrong_number_of_heads_is_refused_beside_weights(tmp_path: Path) -> None:
    config = FAMILIES["spikellm"](30, 8, 16, 2, 2)  # type: ignore[call-arg]
    save_model(tmp_path, config, weights(config))
    for value in (0, -2, 10**9):
        with pytest.raises(ModelError, match=rf"'num_attention_heads' is {value}; it must be at"):
            load_model(str(tmp_path), overrides={"num_attention_heads": value})
    with pytest.raises(ModelError, match="num_attention_heads 1000 must divide hidden_size 8"):
        load_model(str(tmp_path), overrides={"num_attention_heads": 1000})


# -------------------------------------------------------------------------------------- tokenizer and task


def test_a_tokenizer_is_shown_and_checked_without_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**BERT, "num_labels": 2}))
    vocabulary = tmp_path / "words.txt"
    words = ["model", "info", str(tmp_path), "--family", "spikelm", "--tokenizer", str(vocabulary)]
    assert run([*words, "--json"]) == 2 and "does not exist" in capsys.readouterr().err
    assert run([*words[:-1], str(tmp_path)]) == 2
    assert f"{str(tmp_path)!r} is a folder without tokenizer.json, " in capsys.readouterr().err
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad"]))
    assert run([*words, "--json"]) == 0 and json.loads(capsys.readouterr().out)["tokenizer"] == 6
    assert run(words) == 0 and "tokenizer: 6 tokens" in capsys.readouterr().out
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *map(str, range(40))]))
    assert run(words) == 1 and "44 tokens but the embedding has 30 rows" in capsys.readouterr().err


@pytest.mark.parametrize(("family", "task", "head"), [
    ("spikellm", "sst2", "classification"), ("spikelm", "wikitext2", "language-model"),
])  # fmt: skip
def test_a_task_that_there_is_no_head_for_is_refused_as_evaluate_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], family: str, task: str, head: str
) -> None:
    labels = {} if family == "spikellm" else {"num_labels": 2}
    (tmp_path / "config.json").write_text(json.dumps({**BERT, **labels}))
    assert run(["model", "info", str(tmp_path), "--family", family, "--task", task]) == 1
    told = capsys.readouterr()
    assert not told.out and f"task '{task}' needs a {head} head, but '{tmp_path}' has none" in told.err


# ---------------------------------------------------------------------------------------------- the table


def test_the_table_of_the_docs_is_the_codes() -> None:
    text = (ROOT / "docs/models.md").read_text("utf-8").partition("## Keys of `--config`")[2]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line[:1] == "|"]
    table = {(row[0], row[1].strip("`")): row[2:] for row in rows[2:]}
    assert len(table) == len(rows) - 2
    expected = [(name, key) for name in BUILT_IN for key in get_family(name).config_class.key_names()]
    assert sorted(table) == sorted(expected)
    for name in BUILT_IN:
        kind = get_family(name).config_class
        for field in fields(kind):
            also, meaning, default, told = table[name, field.name]
            words = [word for word, key in kind.words.items() if key == field.name]
            assert re.findall(r"`(\w+)`", also) == words, field.name
            assert meaning and default == _default(kind, field), field.name
            assert told == ("shapes" if told_by_shapes(field.name, name) else "config.json"), field.name


def _default(kind: type[ModelConfig], field: Any) -> str:
    if field.default is MISSING or field.name in kind.untold:
        return ""
    if isinstance(field.default, str):
        return f"`{field.default}`" if field.default else "none"
    return f"`{json.dumps(field.default)}`"
