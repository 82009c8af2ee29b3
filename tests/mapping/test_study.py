"""A model that no adapter knows goes the whole way: studied, tuned, packed, verified, evaluated again."""

from __future__ import annotations

import json
import shlex
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch
from safetensors.torch import save_file

import qslm_opt.data
from qslm_opt.cli.main import run
from qslm_opt.errors import ModelError
from qslm_opt.models import load_model, registry
from qslm_opt.models.mapping.built import build
from qslm_opt.models.registry import open_family

HERE = Path(__file__).parent
TOKENIZER = Path(qslm_opt.data.__file__).parent / "demo_model/tokenizer.json"
ROWS = 2048
"""Tokens of the demo's tokenizer."""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with mapping files, their code and a tokenizer; families given are forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_registered", {})
    for path in (*HERE.glob("*_snn.*"), TOKENIZER):
        shutil.copy(path, tmp_path)
    for path in tmp_path.glob("*.toml"):
        path.write_text(path.read_text("utf-8").replace("vocab_size = 512", f"vocab_size = {ROWS}"))
    return tmp_path


def save(folder: Path, mapping: str) -> None:
    """Write a checkpoint of random weights, as the module's own ``state_dict`` has them."""
    config = open_family(str(folder / mapping)).config_class()
    torch.manual_seed(0)
    state = build(config.file, config.arguments()).module.state_dict()
    (folder / "model").mkdir()
    save_file({name: tensor.clone() for name, tensor in state.items()}, folder / "model/model.safetensors")
    shutil.copy(folder / "tokenizer.json", folder / "model")
    registry._registered.clear()


def test_what_the_mapping_file_says_is_not_assumed(folder, capsys):
    save(folder, "plain_snn.toml")
    for more in ((), ("--config", "width=24")):
        assert run(["model", "info", "model", "--family", "plain_snn.toml", *more]) == 0
        assert "assumed" not in capsys.readouterr().out


def answer(capsys: pytest.CaptureFixture[str], *words: str) -> dict:
    capsys.readouterr()
    assert run([*words, "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


STUDY = (
    "--precisions", "4,2", "--layout", "channel/midrise", "--quantizer", "gptq", "--memory-budget", "20%",
    "--calibration", "8", "--power-window", "0", "--strategy", "knapsack",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "task", "more"),
    [
        ("plain_snn", "demo-classify", ("--max-drop", "0.5", "--limit", "12", "--tune", "2")),
        ("snntorch_snn", "demo-classify", ("--max-drop", "0.5", "--limit", "12", "--tune", "2")),
        ("spikingjelly_snn", "demo", ("--max-increase", "50%", "--limit", "4", "--window", "24")),
    ],
)
def test_the_whole_way(name, task, more, folder, capsys):
    if name != "plain_snn":
        pytest.importorskip(name.removesuffix("_snn"))
    mapping = f"{name}.toml"
    save(folder, mapping)
    words = ["study", "create", "s", "--model", "model", "--family", mapping, "--task", task, *STUDY, *more]
    assert run(words) == 0, capsys.readouterr().err
    shown = answer(capsys, "study", "show", "s")
    assert shown["best"]["saving"] > 0.8 and shown["counts"]["failed"] == 0
    assert ("tuned" in [tier["tier"] for tier in shown["tiers"]]) == ("--tune" in more)
    registry._registered.clear()
    assert run(["model", "pack", "model", "--study", "s", "--output", "packed"]) == 0, capsys.readouterr().err
    registry._registered.clear()
    assert answer(capsys, "model", "verify", "packed", "--study", "s")["verified"] is True
    data = [word for word in more if word in ("--limit", "--window") or word.isdecimal()][:4]
    found = answer(capsys, "model", "evaluate", "packed", "--task", task, "--family", mapping, *data[:2],
                   *(("--window", "24") if task == "demo" else ()))  # fmt: skip
    assert found["value"] == shown["best"]["value"]
    if name == "plain_snn":
        held = answer(capsys, "model", "evaluate", "packed", "--task", task, "--family", mapping, *data[:2],
                      "--packed-kernels")  # fmt: skip
        assert held["nll_sum"] == pytest.approx(found["nll_sum"], rel=1e-4)
        assert 0 < held["memory"]["weight_bytes"] < 206_800 / 4
    assert set(found["rates"]) and all(0 <= rate <= 1 for rate in found["rates"].values())


def test_a_packed_model_says_which_mapping_file_it_needs(folder, capsys):
    save(folder, "plain_snn.toml")
    (folder / "four.json").write_text('{"units": {"network": "int4/channel/affine"}}')
    assert run(["model", "pack", "model", "--family", "plain_snn.toml", "--task", "demo-classify",
                "--setting", "four.json", "--output", "packed"]) == 0, capsys.readouterr().err  # fmt: skip
    prove = shlex.split(capsys.readouterr().err.rpartition("prove it: qslm-opt ")[2])
    registry._registered.clear()
    assert run(prove) == 0, capsys.readouterr().err  # the command that is printed works as it is
    assert run(["model", "verify", "packed", "--family", "spikebert"]) == 1
    assert "packed as a 'plain-snn@" in capsys.readouterr().err
    packed = load_model("packed", family="plain_snn.toml")
    assert "teacher.weight" not in packed.tensors
    registry._registered.clear()
    with pytest.raises(ModelError, match=r"mapping file with a SHA-256 that begins with .*; give that file"):
        load_model("packed")
    (folder / "plain_snn.toml").write_text((folder / "plain_snn.toml").read_text("utf-8") + "# other\n")
    with pytest.raises(ModelError, match=r"begins with \w+, and not plain-snn@\w+; give that file"):
        load_model("packed", family="plain_snn.toml")


def test_a_gate_is_refused_before_anything_is_stored_or_run(folder, capsys):
    save(folder, "plain_snn.toml")
    (folder / "both.toml").write_text(
        'model = "model"\nfamily = "plain_snn.toml"\ntask = "demo-classify"\nlimit = 8\nmax_drop = 0.5\n'
        'memory_budget = "50%"\nstrategy = "beam"\nprecisions = [4]\npower_window = 0\n'
    )
    gate = "gate compares membrane potentials, and those of Plain SNN are not seen"
    assert run(["study", "create", "s", "--spec", "both.toml", "--gate", "--no-run"]) == 2
    assert gate in capsys.readouterr().err
    assert not list(folder.glob("qslm-opt.db*"))
    assert run(["study", "create", "s", "--spec", "both.toml", "--no-run"]) == 0
    assert run(["study", "create", "t", "--from", "s", "--gate"]) == 2
    assert gate in capsys.readouterr().err
    with closing(sqlite3.connect("qslm-opt.db")) as storage, storage:  # as an earlier release stored it
        (text,) = storage.execute("SELECT spec FROM qslm_study").fetchone()
        storage.execute("UPDATE qslm_study SET spec = ?", (json.dumps(json.loads(text) | {"gate": True}),))
    assert run(["study", "resume", "s"]) == 2
    assert gate in capsys.readouterr().err
    assert answer(capsys, "study", "show", "s")["state"] == "created"
    with (folder / "both.toml").open("a") as file:
        file.write("gate = true\n")
    assert run(["compare", "both.toml", "--strategies", "beam"]) == 2
    assert gate in capsys.readouterr().err
    assert [study["name"] for study in answer(capsys, "study", "list")["studies"]] == ["s"]


def test_a_study_is_of_the_mapping_files_content(folder, capsys, monkeypatch):
    save(folder, "plain_snn.toml")
    shutil.move(folder / "model/tokenizer.json", folder / "words.json")
    words = ["--model", "model", "--family", "plain_snn.toml", "--task", "demo-classify", "--limit", "8",
             "--tokenizer", "words.json",
             "--max-drop", "0.5", "--memory-budget", "50%", "--precisions", "4", "--no-run"]  # fmt: skip
    assert run(["study", "create", "s", *words]) == 0, capsys.readouterr().err
    capsys.readouterr()
    assert run(["study", "show", "s"]) == 0
    shown = capsys.readouterr().out
    assert f"family    {folder}/plain_snn.toml (SHA-256 " in shown
    assert f"tokenizer {folder}/words.json" in shown
    path, code = folder / "plain_snn.toml", folder / "plain_snn.py"
    text, source = path.read_text("utf-8"), code.read_text("utf-8")
    others = (path, text + "# other\n"), (code, f"open({str(folder / 'it-ran')!r}, 'w').close()\n{source}")
    commands = (["study", "resume", "s"], ["worker", "--study", "s"],
                ["study", "create", "t", "--from", "s", "--max-drop", "0.4"])  # fmt: skip
    for changed, content in others:
        registry._registered.clear()
        before = changed.read_text("utf-8")
        changed.write_text(content)
        for words in commands:
            assert run(words) == 3
            said = capsys.readouterr().err
            assert "another mapping file" in said and "so none of its code was run" in said
        assert not (folder / "it-ran").exists()
        changed.write_text(before)
    path.unlink()
    assert run(["study", "resume", "s"]) == 2
    assert "does not exist, and study 's' was created with it" in capsys.readouterr().err
    path.write_text(text)
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")  # the study knows where its files are
    assert run(["study", "resume", "s", "--storage", f"sqlite:///{folder}/qslm-opt.db"]) == 0, (
        capsys.readouterr().err
    )


def test_a_checkpoint_of_other_sizes_is_told_how_to_say_them(folder):
    save(folder, "plain_snn.toml")
    with pytest.raises(ModelError, match=r"emb.weight \[2048, 24\] instead of \[99.*--config KEY=VALUE"):
        load_model("model", family="plain_snn.toml", overrides={"vocab_size": 99})
    assert load_model("model", family="plain_snn.toml", overrides={"timesteps": 7}).config.timesteps == 7
