"""``model generate`` and ``model evaluate --packed-kernels`` on a packed demo model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from qslm_opt.cli.model import app
from qslm_opt.errors import QslmError, UsageError

SETTING = {
    "version": 1, "quantizer": "mse", "fixed": "fp16",
    "units": {"network": "int3/channel/midrise", "input/emb": "sign"},
}  # fmt: skip


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the demo model at 3 bits."""
    folder = tmp_path_factory.mktemp("packed")
    (folder / "setting.json").write_text(json.dumps(SETTING))
    flags = ("--task", "demo", "--setting", folder / "setting.json", "-o", folder / "model", "--json")
    run("pack", "demo", *flags)
    return folder / "model"


def run(*words: object) -> dict[str, object]:
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception is not None:
        raise result.exception
    return json.loads(result.stdout)


def test_a_packed_model_goes_on_with_a_text(packed):
    words = ("generate", packed, "--prompt", "The value of", "--device", "cpu", "--tokens", 8, "--json")
    value = run(*words)
    memory = value["memory"]
    assert value["packed"] is True
    assert value["kernel"] == "numba-step"
    assert len(value["token_ids"]) == value["tokens"] == 8
    assert run(*words)["token_ids"] == value["token_ids"]
    assert memory["file_bytes"] == (packed / "packed.safetensors").stat().st_size
    assert memory["payload_bytes"] <= memory["weight_bytes"] <= 1.03 * memory["payload_bytes"]
    assert memory["peak_bytes"] >= 0
    assert memory["peak_source"]
    assert value["power"]["mean_w"] is None or value["power"]["token_j"] > 0


def test_what_stays_packed_evaluates_to_the_same_number(packed):
    words = ("evaluate", packed, "--task", "demo", "--limit", 2, "--device", "cpu", "--json")
    plain, kept = run(*words), run(*words, "--packed-kernels")
    assert (plain["value"], plain["firing_rate"]) == (kept["value"], kept["firing_rate"])
    assert (plain["kernel"], kept["kernel"]) == ("numba", "numba-packed")
    memory = kept["memory"]
    assert plain["memory"]["weight_bytes"] is None
    assert memory["payload_bytes"] <= memory["weight_bytes"] <= 1.03 * memory["payload_bytes"]


def test_seeds_without_temperature_and_models_without_a_head_are_refused(packed):
    with pytest.raises(UsageError, match="temperature"):
        run("generate", packed, "--prompt", "a", "--seed", 3)
    with pytest.raises(UsageError, match="no tokens"):
        run("generate", packed, "--prompt", "", "--device", "cpu")
    with pytest.raises(QslmError, match="packed model"):
        run("evaluate", "demo", "--task", "demo", "--limit", 1, "--device", "cpu", "--packed-kernels")
