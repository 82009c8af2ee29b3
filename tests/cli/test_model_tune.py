"""``--tune`` on the command line: evaluate, pack and verify one tuned setting of the demo model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from qslm_opt.cli.main import run

TUNED = {
    "units": {"network": "ternary/channel", "input/emb": "sign"}, "quantizer": "mse", "tune": 3
}  # fmt: skip
TASK = ("--task", "demo-classify")


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def call(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run([str(word) for word in words])
        return (code, *capsys.readouterr())

    return call


def test_a_tuned_setting_is_evaluated_packed_and_verified(ask, tmp_path: Path):
    file, packed = tmp_path / "s.json", tmp_path / "packed"
    file.write_text(json.dumps(TUNED))
    how = (*TASK, "--limit", "20", "--device", "cpu", "--json")
    code, out, err = ask("model", "evaluate", "demo", "--setting", file, *how)
    assert code == 0 and "tuned in" in err
    simulated = json.loads(out)
    code, _, _ = ask("model", "pack", "demo", "--setting", file, *TASK, "--device", "cpu", "-o", packed)
    assert code == 0
    code, out, err = ask("model", "evaluate", packed, *how)
    assert code == 0 and "tuning" not in err
    same = ("value", "correct", "live_bytes")
    assert {k: json.loads(out)[k] for k in same} == {k: simulated[k] for k in same}
    code, out, _ = ask("model", "verify", packed, "--model", "demo", "--device", "cpu", "--json")
    found = json.loads(out)
    assert code == 0 and found["verified"] and found["agreement"]["max_difference"] == 0
    assert found["tuning"]["split"] == "train" and found["setting"]["tune"] == 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--tune", "5"), "give --bits below 32"),
        (("--tune", "5", "--bits", "32"), "give --bits below 32"),
        (("--tune", "-5", "--bits", "2"), "tune -5 is out of range"),
        (("--tune", "5", "--bits", "2", "--calibration-split", "test"), "give another"),
    ],
)
def test_what_cannot_be_tuned_is_said(ask, words, said):
    code, _, err = ask("model", "evaluate", "demo", *TASK, "--limit", "4", *words)
    assert code == 2 and said in err
