"""``model pack`` and ``model verify``: from a study's choice to a folder that is proven to be it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from qslm_opt.cli.main import run
from qslm_opt.models.loading import save_model
from qslm_opt.models.packed_file import packed_bytes, read_packed_file
from qslm_opt.models.spikegpt_config import SpikeGPTConfig
from qslm_opt.store import Repository

CONFIG = SpikeGPTConfig(vocab_size=40, n_layer=2, n_embd=16, n_labels=2)
SETTING = {"units": {"network": "int3/channel/affine", "input": "sign", "output/head": "fp32"}}
STUDY = (
    "--model", "demo", "--task", "demo-classify", "--max-drop", "1", "--memory-budget", "60%",
    "--limit", "24", "--precisions", "3", "--quantizer", "mse", "--device", "cpu", "--progress", "none",
    "--power-window", "0",
)  # fmt: skip

Ask = Callable[..., tuple[int, str, str]]


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Ask:
    """Run a ``model`` command; return its exit code, stdout and stderr."""

    def call(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run(["model", *(str(word) for word in words)])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        if code:
            assert len([line for line in err.splitlines() if line.startswith("error: ")]) == 1
        return code, out, err

    return call


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    made = torch.Generator().manual_seed(4)
    save_model(folder, CONFIG, {n: torch.randn(s, generator=made) for n, s in CONFIG.tensor_shapes().items()})
    return folder


@pytest.fixture
def setting(tmp_path: Path) -> Path:
    path = tmp_path / "setting.json"
    path.write_text(json.dumps(SETTING))
    return path


@pytest.fixture
def packed(ask: Ask, model: Path, setting: Path, tmp_path: Path) -> Path:
    assert ask("pack", model, "--setting", setting, "-o", tmp_path / "packed")[0] == 0
    return tmp_path / "packed"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> str:
    url = f"sqlite:///{tmp_path_factory.mktemp('study')}/q.db"
    assert run(["study", "create", "s", *STUDY, "--storage", url]) == 0
    return url


def value(answer: tuple[int, str, str], code: int = 0) -> dict[str, Any]:
    assert answer[0] == code, answer[2]
    found = json.loads(answer[1])
    assert found["schema"] == 1
    return found


def test_a_study_is_packed_verified_and_measured_as_it_was(ask: Ask, study: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = value(ask("pack", "demo", "--study", "s", "--storage", study, "--output", out, "--json"))
    with Repository(study, read_only=True) as repository:
        trial = next(t for t in repository.trials("s") if t.number == found["study"]["trial"])
    assert found["payload_bytes"] == trial.bytes
    assert found["file_bytes"] == trial.bytes + found["overhead_bytes"]
    assert (found["task"], found["study"]["name"]) == ("demo-classify", "s")

    proof = value(ask("verify", out, "--study", "s", "--storage", study, "--json"))
    assert proof["verified"]
    assert proof["claim"]["payload_equal"] and proof["claim"]["source"] == f"study s, trial {trial.number}"
    assert proof["agreement"]["different"] == [] and proof["agreement"]["max_difference"] == 0
    assert proof["agreement"]["logits"] > 0

    again = value(ask("evaluate", out, "--task", "demo-classify", "--limit", 24, "--device", "cpu", "--json"))
    assert again["value"] == trial.value
    assert again["live_bytes"] == trial.bytes
    assert again["setting"] == json.loads(trial.setting)
    assert again["packed"]["checksum"] == found["checksum"]


def test_a_study_with_held_back_data_and_gptq_is_packed(ask: Ask, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/h.db"
    words = (*STUDY, "--quantizer", "gptq", "--calibration", "4", "--hold-back", "0.5", "--storage", url)
    assert run(["study", "create", "h", *words]) == 0
    code, _, err = ask("pack", "demo", "--study", "h", "--storage", url, "-o", tmp_path / "out")
    assert code == 0, err
    assert ask("verify", tmp_path / "out", "--study", "h", "--storage", url)[0] == 0


def test_a_trial_is_packed_by_its_number(ask: Ask, study: str, tmp_path: Path) -> None:
    words = ("pack", "demo", "--study", "s", "--storage", study, "-o", tmp_path / "out", "--json")
    assert value(ask(*words, "--trial", 0))["study"] == {"name": "s", "trial": 0}
    code, _, err = ask("verify", tmp_path / "out", "--study", "s", "--trial", 1, "--storage", study)
    assert code == 1 and "has no trial 1 with the setting of packed model" in err
    other = ("pack", "demo", "--study", "s", "--storage", study, "-o", tmp_path / "other")
    assert ask(*other, "--trial", 999)[0] == 2


def test_other_weights_than_the_studys_are_not_packed(
    ask: Ask, study: str, tmp_path: Path, model: Path
) -> None:
    code, _, err = ask("pack", model, "--study", "s", "--storage", study, "-o", tmp_path / "out")
    assert code == 3 and "are not those of study 's'" in err
    assert not (tmp_path / "out").exists()


def test_the_study_names_the_way_to_take_it_away(
    study: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["study", "show", "s", "--storage", study]) == 0
    assert "take it away: qslm-opt model pack demo --study s --output s-packed" in capsys.readouterr().err


def test_verify_says_what_was_proven(ask: Ask, packed: Path, model: Path) -> None:
    code, out, _ = ask("verify", packed)
    assert code == 0
    assert "checksum: right" in out and "the payload equals the claim" in out
    assert "not compared; give --model ORIGINAL" in out
    assert "its header alone is more than 0.1 % of files below" in out
    code, out, _ = ask("verify", packed, "--model", model)
    assert code == 0
    assert "largest difference 0" in out
    tensors = 1 + 2 + 2 * 18 + 2 + 1
    assert f"codes: {tensors} of {tensors} tensors" in out


def test_verify_finds_one_code_that_differs(ask: Ask, packed: Path, model: Path) -> None:
    path = packed / "packed.safetensors"
    file = read_packed_file(path)
    payload = bytearray(file.payload)
    payload[0] ^= 1  # a sign of the embedding
    path.write_bytes(packed_bytes(file.header, bytes(payload)))
    found = value(ask("verify", packed, "--model", model, "--json"), code=1)
    assert found["agreement"]["different"] == ["emb.weight"]
    assert not found["verified"] and found["claim"]["payload_equal"]
    assert ask("verify", packed)[0] == 0, "without the original nothing tells"


def test_verify_refuses_another_original(ask: Ask, packed: Path, tmp_path: Path) -> None:
    other = {n: torch.ones(s) for n, s in CONFIG.tensor_shapes().items()}
    save_model(tmp_path / "other", CONFIG, other)
    code, _, err = ask("verify", packed, "--model", tmp_path / "other")
    assert code == 3 and "are not those of packed model" in err
    code, _, err = ask("verify", tmp_path / "other")
    assert code == 2 and "is not packed" in err


def test_info_tells_the_bytes_by_block(ask: Ask, packed: Path) -> None:
    found = value(ask("info", packed, "--json"))["packed"]
    assert sum(block["bytes"] for block in found["blocks"]) == found["payload_bytes"]
    assert [block["unit"] for block in found["blocks"]] == ["input", "attention.0", "attention.1", "output"]
    assert found["blocks"][0]["formats"] == ["sign", "fp16"]
    assert found["file_bytes"] == (packed / "packed.safetensors").stat().st_size
    _, out, _ = ask("info", packed)
    assert f"{found['payload_bytes']:,}" in out and "bits/weight" in out


def test_a_packed_model_is_taken_as_it_is(ask: Ask, packed: Path, setting: Path, tmp_path: Path) -> None:
    evaluate = ("evaluate", packed, "--task", "demo-classify")
    for more in (("--bits", 4), ("--setting", setting)):
        code, _, err = ask(*evaluate, *more)
        assert code == 2 and "is packed, and its weights cannot be quantized again" in err
    code, _, err = ask("analyze", packed, "--task", "demo-classify")
    assert code == 2 and "is packed" in err
    code, _, err = ask("pack", packed, "--setting", setting, "-o", tmp_path / "twice")
    assert code == 2 and "is packed already" in err
    code, _, err = ask("evaluate", packed, "--task", "demo")
    assert code == 1 and "packed for classification" in err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "none is given"),
        (("--setting", "x.json", "--study", "s"), "both are given"),
        (("--setting", "x.json", "--trial", "1"), "--trial 1 belongs to --study"),
        (("--study", "s", "--task", "sst2"), "--task sst2 belongs to --setting"),
        (("--study", "s", "--trial", "1", "--lambda", "0"), "give one of them"),
        (("--setting", "no such.json"), "cannot be read"),
        (("--setting", "x.json", "--calibration", "8"), "--calibration 8 is of the text of a task"),
        (("--setting", "x.json", "--calibration-split", "test"), "give its --task, or leave it out"),
        (("--setting", "x.json", "--data", "d"), "--data d is of the text of a task"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(
    ask: Ask, tmp_path: Path, words: tuple[str, ...], told: str
) -> None:
    code, out, err = ask("pack", "demo", "-o", tmp_path / "out", *words)
    assert (code, out) == (2, "") and told in err


def test_calibrated_codes_need_their_text(ask: Ask, tmp_path: Path) -> None:
    path = tmp_path / "gptq.json"
    units = {"network": "fp16", "output": "ternary/channel"}
    path.write_text(json.dumps({"quantizer": "gptq", "units": units}))
    out = tmp_path / "out"
    code, _, err = ask("pack", "demo", "--setting", path, "-o", out)
    assert code == 2 and "give the --task it belongs to" in err
    words = ("--task", "demo-classify", "--calibration", 8, "--device", "cpu")
    found = value(ask("pack", "demo", "--setting", path, "-o", out, *words, "--json"))
    assert (found["calibration"]["split"], found["calibration"]["sequences"]) == ("train", 8)
    proof = value(ask("verify", out, "--model", "demo", "--device", "cpu", "--json"))
    assert proof["verified"] and proof["agreement"]["different"] == []


def test_a_damaged_file_is_one_sentence_to_every_command(ask: Ask, packed: Path) -> None:
    path = packed / "packed.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    for words in (("info", packed), ("verify", packed), ("evaluate", packed, "--task", "demo-classify")):
        code, out, err = ask(*words)
        assert (code, out) == (1, "") and "truncated, altered" in err


def test_verify_refuses_another_family(ask: Ask, packed: Path) -> None:
    code, _, said = ask("verify", packed, "--family", "spikelm")
    assert code == 1 and "packed as a 'spikegpt', not a 'spikelm'; leave --family out" in said
