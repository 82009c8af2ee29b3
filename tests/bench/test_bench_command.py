"""``qslm-opt bench`` as a user runs it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from qslm_opt.bench import neurons, packed, packed_arms, rates, run, study, timing, workers
from qslm_opt.bench.timing import Timing
from qslm_opt.cli import bench as command
from qslm_opt.cli.main import run as qslm_opt

TINY = {
    "name": "bench", "model": "demo", "task": "demo", "max_increase": "0.01%", "memory_budget": "12%",
    "precisions": [3], "limit": 4, "window": 16, "window_batch": 1,
}  # fmt: skip
FLAGS = ("--device", "cpu", "--batches", "1,2", "--window", "8", "--repeats", "1", "--trials", "12")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "STUDIES", (TINY,))
    monkeypatch.setattr(run, "SENTENCE_BATCHES", (2,))
    monkeypatch.setattr(packed, "WINDOW_SECONDS", 0.0)
    monkeypatch.setattr(packed_arms, "BITS", (3,))
    monkeypatch.setattr(neurons, "BATCH", 1)
    monkeypatch.setattr(neurons, "TOKENS", 2)
    monkeypatch.setattr(timing, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(workers, "LEAST_TRIALS", 2)
    monkeypatch.setattr(workers, "COST_SECONDS", 0.0)
    monkeypatch.setattr(run, "variants", lambda workers: study.variants(workers)[::5])
    monkeypatch.setattr(rates, "CPU_SHAPES", ((64, 64, 64),))
    monkeypatch.setattr(rates, "COPY_BYTES", {"cpu": 2**16, "cuda": 2**16})
    monkeypatch.setattr(rates, "_ROWS", {"cpu": 8, "cuda": 8})


@pytest.mark.usefixtures("small")
def test_every_section_reports_positive_figures_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert qslm_opt(("bench", "--versions", "reference,fast", *FLAGS, "--json")) == 0
    value: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert value["schema"] == 1 and value["device"] == "cpu" and value["device_name"]
    assert {"qslm-opt", "torch", "python", "numba"} <= set(value["versions"])
    assert value["flop_per_token"] > 0 and value["weight_bits"] == 8 and value["model"] == "demo"
    assert value["rates"]["copy_bytes_per_s"] > 0
    assert [rate["mode"] for rate in value["rates"]["gemm"]] == ["fp32"]
    assert [(r["batch"], r["version"]) for r in value["throughput"]] == [
        (1, "reference"), (1, "fast"), (2, "reference"), (2, "fast")
    ]  # fmt: skip
    assert all(r["tokens_per_s"] > 0 and r["ratio_to_reference"] > 0 for r in value["throughput"])
    assert [r["sentences_per_s"] > 0 for r in value["sentences"]] == [True, True]
    (one,) = value["study"]
    assert one["same_verdicts"] and one["rows"][-1]["workers"] == 2 and len(one["rows"]) == 2
    assert all(row["evaluations_per_s"] > 0 for row in one["rows"])
    assert {"ms_per_block", "us_per_1k_tokens"} <= set(value["scaling"])
    assert value["storage"]["trials"] == 12 and value["storage"]["ms_median_last"] > 0
    assert [point["trials"] for point in value["storage"]["growth"]] == [10, 12]
    assert all(point["file_bytes"] > 0 for point in value["storage"]["growth"])
    for row, count in zip(value["workers"], (1, 2), strict=True):
        assert (row["workers"], row["duplicates"], row["locked"], row["same_result"]) == (count, 0, 0, True)
        assert row["evaluations"] >= 20 and row["trials_per_s"] > 0
    rows = value["packed"]["rows"]
    assert [(r["load"], r["arm"]) for r in rows] == [
        ("generation", "fp32"), ("generation", "fp32 torch"), ("generation", "packed 3 bits"),
        ("evaluation", "fp32"), ("evaluation", "packed 3 bits, fp32"),
    ]  # fmt: skip
    assert all(r["ms_per_token"] > 0 and r["ms_low"] <= r["ms_per_token"] <= r["ms_high"] for r in rows)
    assert rows[0]["speedup"] == rows[3]["speedup"] == 1
    assert rows[2]["weight_bytes"] < rows[0]["weight_bytes"] / 9
    sites = value["neurons"]
    assert [r["work"] for r in sites] == ["fire", "count", "train"] * 6
    assert sites[0]["shape"] == [4, 1, 2, 128] and sites[-1]["model"] == "spikelm"
    assert all(r["ratio"] == pytest.approx(r["plain_ms"] / r["ms"]) and r["copy_ms"] > 0 for r in sites)


@pytest.mark.usefixtures("small")
def test_tables_go_to_stdout_and_narration_to_stderr(
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = ("--sections", "throughput,scaling,storage", "--versions", "fast", *FLAGS)
    assert qslm_opt(("bench", *flags)) == 0
    out, err = capsys.readouterr()
    for words in ("tokens/s", "× reference", "of floor", "peak memory", "a block", "bare Optuna", "GFLOP/s"):
        assert words in out
    assert "batch 2, 8 tokens" in err and "batch 2, 8 tokens" not in out
    assert "…" not in out.replace(" … ", "")


@pytest.mark.usefixtures("small")
def test_a_changed_verdict_is_exit_code_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    second = Timing(1.0, 1.0, 1.0, 1)
    rows = (
        study.StudyRow(study.EVERYTHING, second, 3, 0, 1.0, True),
        study.StudyRow(study.variants()[1], second, 3, 0, 1.0, False, ("ab: complete ≠ not visited",)),
    )
    found = study.StudySpeeds("demo", "demo", 512, 4, rows, "predicted tokens")
    monkeypatch.setattr(run, "measure_studies", lambda *args, **keys: found)
    assert qslm_opt(("bench", "--sections", "study", *FLAGS)) == 1
    out, err = capsys.readouterr()
    assert "NO" in out
    assert "error: a saving changed a verdict: task demo, no prefix cache: ab: complete ≠ not visited" in err


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (("--sections", "thruput"), 2, "--sections 'thruput' is unknown; use throughput, sentences, study"),
        (("--sections", "study,"), 2, "--sections '' is unknown"),
        (("--versions", "slow"), 2, "use reference, compiled, fast"),
        (("--modes", "fp8"), 2, "use fp32, tf32, fp16, split"),
        (("--modes", "split", "--device", "cpu"), 5, "'split' needs a CUDA device"),
        (("--batches", "4,x"), 2, "write for instance 4,16,32"),
        (("--batches", "0"), 2, "sizes of 1 or more"),
        (("--bits", "17", "--device", "cpu"), 2, "--bits 17 is out of range; use 1 to 16, or 32"),
        (("--shape", "15m", "--sections", "throughput", "--device", "cpu"), 2, "use 14m, 216m"),
        (("demo", "--shape", "14m"), 2, "exclude each other"),
        (("--shape", "14m", "--task", "demo"), 2, "no trained weights"),
        (("--limit", "3"), 2, "--limit 3 is about --task"),
        (("--task", "demos"), 2, "task 'demos' is unknown"),
        (("no/such/model",), 2, "no/such/model"),
        (("--workers", "0"), 2, "--workers"),
    ],
)
def test_bad_input_is_one_sentence(
    capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], code: int, words: str
) -> None:
    assert qslm_opt(("bench", *flags)) == code
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 1 or err[0].startswith("loading")
    assert err[-1].startswith("error: ") and words in err[-1]
