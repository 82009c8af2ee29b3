"""The knapsack with its gate on the embedded model: real evaluations, real shares, real drifts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")

from qslm_opt.cli.main import run  # noqa: E402
from qslm_opt.store import Repository  # noqa: E402


@pytest.mark.slow
def test_the_knapsack_finds_a_smaller_model_than_the_best_uniform_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"sqlite:///{tmp_path}/k.db"
    words = [
        "study", "create", "k", "--model", "demo", "--task", "demo", "--limit", "8", "--max-increase", "5%",
        "--memory-budget", "40%", "--precisions", "4,3,2,1.58,1", "--layout", "channel/midrise",
        "--quantizer", "mse", "--strategy", "knapsack", "--gate", "--evaluations", "30", "--storage", url,
        "--progress", "none", "--json",
    ]  # fmt: skip
    assert run(words) == 0
    shown = json.loads(capsys.readouterr().out)
    with Repository(url) as repository:
        row, trials = repository.study("k"), repository.trials("k")
    uniform = [t.bytes for t in trials if t.tier == "global" and t.feasible]
    good = [t for t in trials if t.feasible]
    assert min(t.bytes for t in good) < min(uniform)
    assert all(t.value <= row.bound and t.bytes <= row.budget and t.share == 1 for t in good)
    cheap = [t for t in trials if t.tier == "steps"]
    assert cheap and all(t.value is None and t.loss > 0 and t.share == 0.5 for t in cheap)
    assert {t.used for t in cheap} == {row.baseline.n // 2}
    drifts = [t for t in trials if t.tier == "gate"]
    assert all(t.state == "pruned" and t.cheap for t in drifts)
    full = [t for t in trials if t.used and not t.cheap]
    assert len(full) + len(cheap) / 2 <= 30
    assert shown["evaluations"] == len(full)
    assert shown["cheap"] == len(cheap) + len(drifts)
    assert shown["gate"] is not None
    assert {c["trial"] for c in shown["candidates"]} <= {t.number for t in good}
