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


def test_a_tuned_trial_of_a_study_that_holds_data_back_is_packed(monkeypatch: pytest.MonkeyPatch):
    """What is measured does not matter there: one sentence cannot be halved."""
    from qslm_opt.cli import originals
    from qslm_opt.pipeline import Session
    from qslm_opt.setting import QuantSetting
    from qslm_opt.spec import StudySpec

    monkeypatch.setattr(Session, "codes", lambda *_: {})
    values = {
        "name": "x", "model": "demo", "task": "demo-classify", "max_drop": 0.1, "memory_budget": "50%",
        "hold_back": 0.5, "confidence": 0.9, "tune": 3, "device": "cpu",
    }  # fmt: skip
    made = originals.original_codes(
        "demo", QuantSetting.from_value(TUNED), kind="classification", spec=StudySpec.from_mapping(values),
        reading={}, device="cpu", narrate=lambda _: None,
    )  # fmt: skip
    assert made.tuning is not None and made.tuning["split"] == "train"
