from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import fields
from io import StringIO
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import torch
import typer
from rich.console import Console
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from typer.testing import CliRunner

from qslm_opt.cli.model import app
from qslm_opt.cli.model_tree import model_table
from qslm_opt.cli.output import digits, print_table
from qslm_opt.errors import QslmError
from qslm_opt.formats import Layout
from qslm_opt.hierarchy.discover import discover
from qslm_opt.models.loading import save_model
from qslm_opt.models.spikegpt_config import SpikeGPTConfig
from qslm_opt.setting import UNQUANTIZED
from qslm_opt.train import TrainConfig

CONFIG = SpikeGPTConfig(vocab_size=260, n_layer=2, n_embd=16, n_labels=2)
ROOT = Path(__file__).resolve().parents[2]


class Answer:
    """What a command printed and how it ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.out)


def run(*words: object) -> Answer:
    """Run a ``model`` command in this process; a QslmError becomes its exit code and message."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    if isinstance(result.exception, QslmError):
        return Answer(result.exception.exit_code, result.stdout, str(result.exception))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Answer(result.exit_code, result.stdout, result.stderr)


def weights(config: SpikeGPTConfig = CONFIG) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {n: 0.4 * torch.randn(s, generator=generator) for n, s in config.tensor_shapes().items()}


def byte_tokenizer() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(BPE({byte: i for i, byte in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_model(folder, CONFIG, weights(), byte_tokenizer())
    return folder


def parquet(folder: Path, split: str, columns: dict[str, list[Any]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / f"{split}.parquet")
    return folder


@pytest.fixture(scope="module")
def sentences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = [f"a {'good' if i % 3 else 'bad'} film, number {i}" for i in range(20)]
    rows = {"idx": list(range(20)), "sentence": texts, "label": [int(i % 3 > 0) for i in range(20)]}
    return parquet(tmp_path_factory.mktemp("sst2"), "validation", rows)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = {"text": [f" line {i} of a short text" for i in range(40)]}
    return parquet(tmp_path_factory.mktemp("wikitext"), "test", rows)


# -- info ------------------------------------------------------------------------------------------


def test_info_tells_sizes_and_liveness_as_json(model: Path) -> None:
    value = run("info", model, "--json").json
    stored = sum(t.numel() for t in weights().values())
    assert (value["schema"], value["kind"], value["tensors"]) == (1, "classification", len(weights()))
    assert value["params"] == {"all": stored, "live": stored - 260 * 16}
    assert value["bytes"]["all"] == 4 * stored
    assert [block["unit"] for block in value["blocks"]] == ["input", "attention.0", "attention.1", "output"]
    assert sum(block["share"] for block in value["blocks"]) == pytest.approx(1.0)
    assert sum(len(m["tensors"]) for b in value["blocks"] for m in b["modules"]) == len(weights())
    emb = value["blocks"][0]["modules"][0]["tensors"][0]
    assert (emb["role"], emb["live"], emb["sign_only"]) == ("embedding", True, True)


def test_info_marks_what_the_task_never_reads(model: Path) -> None:
    def dead(*words: str) -> list[str]:
        blocks = run("info", model, "--json", *words).json["blocks"]
        tensors = [t for b in blocks for m in b["modules"] for t in m["tensors"]]
        return [t["name"] for t in tensors if not t["live"]]

    assert dead() == dead("--task", "sst2") == ["head.weight"]
    assert dead("--task", "demo") == ["classifier.weight"]


def test_info_shows_the_tree_with_blocks_that_are_alike_on_one_line(model: Path) -> None:
    answer = run("info", model)
    lines = [re.split(r"\s{2,}", line.strip()) for line in answer.out.splitlines() if line.strip()]
    by_unit = {line[0]: line[1:] for line in lines}
    assert by_unit["attention.0…1 (2)"][0] == "7,008"
    assert by_unit["emb"][:5] == ["260×16", "embedding", "signs", "4,160", "0.017"]
    assert by_unit["head"][2] == "dead"
    assert by_unit["all"][-1] == "100.000 %"
    assert "live for classification" in by_unit
    assert "\x1b" not in answer.out
    every = run("info", model, "--every").out
    assert "attention.1 " in every
    assert "(2)" not in every


def test_a_narrow_terminal_cuts_no_number() -> None:
    hierarchy = discover(CONFIG, CONFIG.tensor_shapes(), "lm")
    for width in (40, 80):
        out = Console(width=width, file=StringIO())
        print_table(out, model_table(hierarchy, "lm", every=True))
        shown = out.file.getvalue()
        assert "100.000 %" in shown
        assert "att.receptance" in shown
        assert shown.count("…") == 0
        assert out.width == width


def test_info_of_the_reference_model_has_its_published_size(shared: Path) -> None:
    value = run("info", shared / "models/spikegpt-14m-sst2", "--json").json
    assert value["params"] == {"all": 14_453_248, "live": 12_356_096}
    assert value["tokenizer"] == 8192


# -- evaluate --------------------------------------------------------------------------------------


def test_evaluate_prints_the_contracts_object(model: Path, sentences: Path) -> None:
    answer = run("evaluate", model, "--task", "sst2", "--data", sentences, "--json")
    value = answer.json
    keys = "schema metric value n correct live_bytes fp32_bytes saving device dtype data_hash"
    assert set(keys.split()) <= set(value)
    assert (value["schema"], value["metric"], value["n"]) == (1, "accuracy", 20)
    assert value["value"] == value["correct"] / 20
    assert (
        value["live_bytes"] == value["fp32_bytes"] == 4 * (sum(t.numel() for t in weights().values()) - 4160)
    )
    assert value["saving"] == 0
    assert value["setting"]["units"] == {"network": "fp32"}


def test_evaluate_says_the_same_in_one_line(model: Path, text: Path) -> None:
    words = ("evaluate", model, "--task", "wikitext2", "--data", text, "--window", 64, "--limit", 3)
    value, line = run(*words, "--json").json, run(*words).out
    assert value["n"] == 192
    assert "correct" in value
    assert value["correct"] is None
    error = value["standard_error"]
    assert value["ci_low"] < value["value"] - error < value["value"] + error < value["ci_high"]
    shown = f"{digits(value['value'], 7)} ± {digits(error, 2)}"
    assert line.startswith(f"perplexity {shown} (192 predicted tokens); ")
    assert line.count("\n") == 1


def test_nothing_quantized_is_the_baseline_bit_for_bit(model: Path, text: Path, tmp_path: Path) -> None:
    (tmp_path / "setting.json").write_text(UNQUANTIZED.to_json())
    words = ("evaluate", model, "--task", "wikitext2", "--data", text, "--window", 64, "--json")
    sums = {
        run(*words, *more).json["nll_sum"]
        for more in ((), ("--bits", 32), ("--setting", tmp_path / "setting.json"))
    }
    assert len(sums) == 1


def test_scopes_mean_what_they_say(model: Path, sentences: Path) -> None:
    words = ("evaluate", model, "--task", "sst2", "--data", sentences, "--json", "--bits", 4)
    hierarchy = discover(CONFIG, CONFIG.tensor_shapes(), "classification")
    tensors = [t for t in hierarchy.tensors() if t.counted]
    channel, tensor = Layout().with_bits(4), Layout("tensor").with_bits(4)

    searched = run(*words).json
    assert searched["setting"]["units"] == {"network": "int4/channel/affine", "input/emb": "sign"}
    assert searched["setting"]["fixed"] == "fp16"
    expected = [
        260 * 16 // 8 if t.sign_only else channel.packed_bytes(t.shape) if t.searched else 2 * t.numel
        for t in tensors
    ]
    assert searched["live_bytes"] == sum(expected)
    whole = run(*words, "--no-sign-embedding").json
    assert whole["setting"]["units"] == {"network": "int4/channel/affine"}

    every = run(*words, "--scope", "all", "--quantizer", "paper").json
    assert every["setting"]["fixed"] == every["setting"]["units"]["network"] == "int4/tensor/affine"
    assert every["setting"]["quantizer"] == "paper"
    assert every["live_bytes"] == sum(tensor.packed_bytes(t.shape) for t in tensors)

    linear = run(*words, "--scope", "linear", "--layout", "group8/symmetric").json
    grouped = Layout.parse("group8/symmetric").with_bits(4)
    assert linear["live_bytes"] == sum(
        grouped.packed_bytes(t.shape) if t.role == "matrix" else 4 * t.numel for t in tensors
    )


def test_a_setting_from_a_file_is_used(model: Path, sentences: Path, tmp_path: Path) -> None:
    units = {"network": "int8/channel/affine", "attention.1": "int3/channel/affine", "input/emb": "sign"}
    value = {"version": 1, "quantizer": "rtn", "fixed": "fp16", "units": units}
    (tmp_path / "s.json").write_text(json.dumps(value))
    words = ("evaluate", model, "--task", "sst2", "--data", sentences, "--json")
    assert run(*words, "--setting", tmp_path / "s.json").json["setting"]["units"] == units


def test_offset_formats_are_evaluated_by_bits_and_from_a_file(
    model: Path, sentences: Path, tmp_path: Path
) -> None:
    words = ("evaluate", model, "--task", "sst2", "--data", sentences, "--json")
    by_bits = run(*words, "--bits", 4, "--quantizer", "hqq").json
    (tmp_path / "s.json").write_text(json.dumps(by_bits["setting"]))
    assert by_bits["setting"]["units"]["network"] == "int4/channel/offset"
    assert run(*words, "--setting", tmp_path / "s.json").json["value"] == by_bits["value"]


def test_the_embeddings_heaviside_is_a_choice(model: Path, text: Path) -> None:
    words = ("evaluate", model, "--task", "wikitext2", "--data", text, "--window", 64, "--json")
    on, off = run(*words).json, run(*words, "--embed-spike", "off").json
    assert on["nll_sum"] != off["nll_sum"]
    bits = run(*words, "--embed-spike", "off", "--bits", 8).json
    assert "input/emb" not in bits["setting"]["units"]
    assert run(*words, "--rescale-every", 1).json["nll_sum"] != on["nll_sum"]


# -- analyze ---------------------------------------------------------------------------------------


def test_analyze_measures_each_block_at_each_precision(model: Path, text: Path) -> None:
    words = ("analyze", model, "--task", "wikitext2", "--data", text, "--window", 64, "--precisions", "8,2")
    value = run(*words, "--json").json
    assert (value["schema"], value["metric"], value["precisions"]) == (1, "perplexity", [8, 2])
    grid = [(cell["block"], cell["bits"]) for cell in value["cells"]]
    assert grid == [(b, n) for b in ("attention.0", "attention.1", "output") for n in (8, 2)]
    assert value["pins"] == {"input/emb": "sign"}
    assert sorted(value["order"]) == ["attention.0", "attention.1", "output"]
    for cell in value["cells"]:
        assert cell["loss_increase"] == pytest.approx(cell["loss"] - value["baseline"]["loss"])
    means = {b: sum(c["loss"] for c in value["cells"] if c["block"] == b) for b in value["order"]}
    assert value["order"] == sorted(means, key=means.__getitem__)


def test_one_cell_of_the_analysis_is_that_setting_evaluated(model: Path, text: Path, tmp_path: Path) -> None:
    words = (model, "--task", "wikitext2", "--data", text, "--window", 64)
    cells = run("analyze", *words, "--precisions", "3", "--no-sign-embedding", "--json").json["cells"]
    assert [cell["block"] for cell in cells] == ["input", "attention.0", "attention.1", "output"]
    units = {"network": "fp32", "attention.1": "int3/channel/affine"}
    (tmp_path / "s.json").write_text(json.dumps({"units": units, "fixed": "fp32"}))
    alone = run("evaluate", *words, "--setting", tmp_path / "s.json", "--json").json
    assert cells[2]["value"] == alone["value"]
    assert cells[2]["live_bytes"] == alone["live_bytes"]


def test_analyze_shows_a_heat_map_and_says_where_it_is(model: Path, sentences: Path) -> None:
    answer = run("analyze", model, "--task", "sst2", "--data", sentences, "--precisions", "8,4")
    lines = answer.out.splitlines()
    assert re.search(r"bits\s+8\s+4\s*\n", answer.out)
    row = re.compile(r"\s*(attention\.\d|output)( +[+-]\d?\.\d+[·░▒▓█]){2}")
    assert sum(bool(row.match(line)) for line in lines) == 3
    assert len(re.findall(r"^ +\d+\.\d\d% +\d+\.\d\d%", answer.out, re.MULTILINE)) == 3
    assert "input/emb is kept at sign, which is lossless here" in answer.out
    assert re.search(r"least sensitive first: \S+, \S+, \S+\n", answer.out)
    assert "[1/7] baseline" in answer.err
    assert "[7/7] output at 4 bits" in answer.err


# -- train -----------------------------------------------------------------------------------------


def test_every_training_choice_is_a_flag_with_the_same_default() -> None:
    command = typer.main.get_command(app).commands["train"]  # type: ignore[attr-defined]
    flags = {parameter.name: parameter.default for parameter in command.params}
    assert {f.name: flags[f.name] for f in fields(TrainConfig)} == {
        f.name: f.default for f in fields(TrainConfig)
    }


def test_train_passes_its_flags_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def fake(config: TrainConfig, out: Path, narrate: Any) -> TrainConfig:
        narrate("step 1")
        seen.extend((config, out))
        return config

    monkeypatch.setattr("qslm_opt.train.loop.train", fake)
    flags = ("--steps", 3, "--n-layer", 2, "--learning-rate", 0.01, "--no-graph", "--device", "cpu")
    answer = run("train", "--out", tmp_path / "new", *flags)
    assert seen == [
        TrainConfig(steps=3, n_layer=2, learning_rate=0.01, graph=False, device="cpu"), tmp_path / "new"
    ]  # fmt: skip
    assert answer.out == f"{tmp_path / 'new'}\n"
    assert answer.err == "step 1\n"


def test_a_training_without_an_end_is_refused(tmp_path: Path) -> None:
    answer = run("train", "--out", tmp_path / "new")
    assert answer.code == 2
    assert "--steps, --minutes" in answer.err


# -- bad input: the message and the exit code ------------------------------------------------------


def broken(folder: Path, how: str) -> Path:
    """Write a model that is wrong in one way."""
    tensors = weights()
    if how == "missing":
        del tensors["blocks.1.ffn.key.weight"]
    if how == "nan":
        tensors["blocks.0.att.key.weight"][0, 0] = float("nan")
    save_model(folder, CONFIG, tensors, byte_tokenizer())
    path = folder / "model.safetensors"
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    if how == "code":
        path.unlink()
        torch.save({"emb.weight": Bomb(folder / "pwned")}, folder / "model.pth")
    if how == "vocabulary":
        tokenizer = byte_tokenizer()
        tokenizer.add_tokens([f"<{i}>" for i in range(50)])
        tokenizer.save(str(folder / "tokenizer.json"))
    if how == "no-tokenizer":
        (folder / "tokenizer.json").unlink()
    return folder


class Bomb:
    """Creates a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize(("how", "message"), [
    ("code", r"holds code or objects, not only weights \(it would load posix\.mkdir\), and was refused"),
    ("truncated", r"is damaged or no safetensors file"),
    ("missing", r"1 tensor missing \(blocks\.1\.ffn\.key\.weight\)"),
    ("vocabulary", r"has 306 tokens but the embedding has 260 rows"),
    ("no-tokenizer", r"has no tokenizer; put its tokenizer\.json"),
    ("nan", r"'blocks\.0\.att\.key\.weight' holds 1 NaN or infinite"),
])  # fmt: skip
def test_a_broken_model_ends_with_its_message_and_code_1(tmp_path: Path, how: str, message: str) -> None:
    answer = run("evaluate", broken(tmp_path / "m", how), "--task", "demo")
    assert answer.code == 1
    assert re.search(message, answer.err)
    assert answer.out == ""
    assert not (tmp_path / "m" / "pwned").exists()


def test_info_needs_no_tokenizer(tmp_path: Path) -> None:
    assert run("info", broken(tmp_path / "m", "no-tokenizer"), "--json").json["tokenizer"] is None


@pytest.mark.parametrize(("words", "message"), [
    (("info", "/nope"), "model '/nope' does not exist"),
    (("evaluate", "/nope", "--task", "demo"), "model '/nope' does not exist"),
    (("evaluate", "MODEL", "--task", "sst"), r"task 'sst' is unknown; .* Did you mean 'sst2'\?"),
    (("info", "MODEL", "--task", "wikitext"), r"Did you mean 'wikitext2'\?"),
    (("evaluate", "MODEL"), "Missing option '--task'"),
    (("evaluate", "MODEL/config.json", "--task", "demo"), "JSON file and holds no weights, and only"),
    (("evaluate", "MODEL", "--task", "demo", "--bits", "17"),
     r"17 bits is not a width of an affine format .*; use 2 to 16 bits, 1.58 \(ternary\) or 1 \(midrise\)"),
    (("evaluate", "MODEL", "--task", "demo", "--bits", "1.5"), "1.5 bits is not a width"),
    (("evaluate", "MODEL", "--task", "demo", "--limit", "0"), "limit 0 is out of range"),
    (("evaluate", "MODEL", "--task", "demo", "--scope", "all"), "give --bits too"),
    (("evaluate", "MODEL", "--task", "demo", "--bits", "4", "--scope", "al"), r"Did you mean 'all'\?"),
    (("evaluate", "MODEL", "--task", "demo", "--bits", "4", "--layout", "row"), "layout 'row' is not"),
    (("evaluate", "MODEL", "--task", "demo", "--bits", "4", "--quantizer", "rtm"), r"Did you mean 'rtn'\?"),
    (("evaluate", "MODEL", "--task", "demo", "--bits", "4", "--setting", "x"), "exclude each other"),
    (("evaluate", "MODEL", "--task", "demo", "--setting", "/no.json"), r"file '/no\.json' cannot be read"),
    (("evaluate", "MODEL", "--task", "demo", "--calibration", "3"), "text, nor does the model"),
    (("evaluate", "MODEL", "--task", "demo", "--bits", "4", "--calibration", "3"), "with quantizer 'rtn'"),
    (("evaluate", "MODEL", "--task", "demo", "--no-sign-embedding"), "--no-sign-embedding changes only"),
    (("evaluate", "MODEL", "--task", "demo", "--embed-spike", "yes"), "embed_spike 'yes' is unknown"),
    (("analyze", "MODEL", "--task", "demo", "--precisions", "8;4"), "'8;4' is no list of bits"),
    (("analyze", "MODEL", "--task", "demo", "--precisions", "4,8"), "must fall strictly"),
])  # fmt: skip
def test_a_wrong_flag_ends_with_its_message_and_code_2(
    model: Path, words: tuple[str, ...], message: str
) -> None:
    answer = run(*(word.replace("MODEL", str(model)) for word in words))
    assert answer.code == 2
    assert re.search(message, " ".join(answer.err.split()))
    assert answer.out == ""


def test_a_setting_that_names_another_models_unit_is_refused(model: Path, tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text('{"units": {"network": "fp32", "attention.7": "fp16"}}')
    answer = run("evaluate", model, "--task", "demo", "--setting", tmp_path / "s.json")
    assert answer.code == 2
    assert "unit 'attention.7' is not in this model" in answer.err


@pytest.mark.parametrize(("columns", "message"), [
    ({"idx": [0], "sentence": ["fine"]}, "no column 'label'"),
    ({"idx": [], "sentence": [], "label": []}, "is empty"),
])  # fmt: skip
def test_data_that_does_not_fit_ends_with_its_message_and_code_1(
    model: Path, tmp_path: Path, columns: dict[str, list[Any]], message: str
) -> None:
    folder = parquet(tmp_path / "data", "validation", columns)
    answer = run("evaluate", model, "--task", "sst2", "--data", folder)
    assert answer.code == 1
    assert message in answer.err


def test_a_language_model_cannot_classify(tmp_path: Path, sentences: Path) -> None:
    config = SpikeGPTConfig(vocab_size=260, n_layer=2, n_embd=16)
    save_model(tmp_path / "lm", config, weights(config), byte_tokenizer())
    answer = run("evaluate", tmp_path / "lm", "--task", "sst2", "--data", sentences)
    assert answer.code == 1
    assert "needs a classification head" in answer.err
    assert "needs a classification head" in run("info", tmp_path / "lm", "--task", "sst2").err


# -- the installed command -------------------------------------------------------------------------


def command(*words: object) -> subprocess.CompletedProcess[str]:
    call = [sys.executable, "-m", "qslm_opt", *map(str, words)]
    return subprocess.run(call, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_the_command_maps_an_error_to_one_line_and_its_code(tmp_path: Path) -> None:
    result = command("model", "info", broken(tmp_path / "m", "code"))
    assert result.returncode == 1
    assert result.stdout == ""
    assert "holds code or objects" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_model_that_does_not_exist_is_said_before_torch_is_imported() -> None:
    code = (
        "import sys; from qslm_opt.cli.model import app\n"
        "try: app(['evaluate', '/nope', '--task', 'demo'], standalone_mode=False)\n"
        "except Exception as error: print(error.exit_code, 'torch' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert result.stdout == "2 False\n"
