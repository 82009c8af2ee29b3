"""Anytime and steerable on the packaged model: a deadline, an answer, and a study that goes on from it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from qslm_opt.cli.main import run
from qslm_opt.setting import QuantSetting

FLAGS = (
    "--model", "demo", "--task", "demo", "--limit", "1", "--max-increase", "6%", "--memory-budget", "12%",
    "--precisions", "4,3", "--sensitivity-precisions", "3", "--device", "cpu", "--progress", "none",
    "--pin", "attention.2=int4/channel/affine", "--pin", "attention.3=int4/channel/affine",
    "--tie", "attention.[01]/att.key", "--exclude", "attention.0/ffn.receptance",
)  # fmt: skip


def test_a_deadline_an_answer_and_a_study_that_runs_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("QSLM_OPT_STORAGE", f"sqlite:///{tmp_path}/q.db")

    def said(*words: str, code: int = 0) -> dict[str, Any]:
        assert run(["study", *words, "--json"]) == code
        captured = capsys.readouterr()
        found: dict[str, Any] = json.loads(captured.out)
        return {**found, "err": captured.err}

    stopped = said("create", "x", *FLAGS, "--deadline", "0.001s", code=4)
    assert (stopped["state"], stopped["reason"], stopped["evaluations"]) == ("stopped", "deadline reached", 0)
    finished = said("resume", "x", "--deadline", "300h", "--progress", "none")
    assert finished["state"] == "finished"
    setting = QuantSetting.from_value(finished["best"]["setting"])
    assert len({setting.format_of(f"attention.{i}/att.key") for i in range(2)}) == 1
    assert str(setting.format_of("attention.0/ffn.receptance")) == "fp32"

    own = said("answer", "x")
    assert own["proven"]
    assert own["best"]["trial"] == finished["best"]["trial"]
    other = said("answer", "x", "--max-increase", "15%", "--lambda", "50")
    made = said("create", "y", "--from", "x", "--max-increase", "15%", "--lambda", "50", "--progress", "none")
    assert made["state"] == "finished"
    taken = re.search(r"^(\d+) evaluations of study 'x' are used", made["err"], re.MULTILINE)
    assert taken is not None
    ran = made["evaluations"] - int(taken[1])
    assert 0 <= ran <= other["search"]["at_most_evaluations"]
    assert other["search"]["done"] == (ran == 0)
    assert said("answer", "y")["search"]["best"] == made["best"]["trial"]
