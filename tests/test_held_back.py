"""Whole studies of the demo model that report on data they never searched, on both tasks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from qslm_opt import stats  # noqa: E402
from qslm_opt.cli.main import run  # noqa: E402
from qslm_opt.pipeline import Session  # noqa: E402
from qslm_opt.setting import UNQUANTIZED, QuantSetting  # noqa: E402
from qslm_opt.store import Repository  # noqa: E402
from qslm_opt.store.held_back import delete_comparisons  # noqa: E402

COMMON = ("--model", "demo", "--device", "cpu", "--precisions", "4,3", "--sensitivity-precisions", "3")
CASES = {
    "demo": ("--max-increase", "30%", "--memory-budget", "12%", "--limit", "12", "--hold-back", "0.5"),
    "demo-classify": (
        "--max-drop", "0.1", "--memory-budget", "12%", "--limit", "120", "--report-split", "validation",
        "--confidence", "0.8",
    ),
}  # fmt: skip


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert run([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("task", CASES)
def test_a_study_reports_on_data_that_it_never_searched(
    task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"sqlite:///{tmp_path}/q.db"
    words = ("study", "create", "s", "--task", task, *COMMON, *CASES[task], "--storage", url)
    value = printed(capsys, *words)
    best, held = value["best"], value["best"]["held_back"]
    base = value["generalisation"]["baseline"]
    assert value["fingerprint"]["held_back"] == held["data_hash"] != value["fingerprint"]["data"]
    assert value["generalisation"]["measured"] == sum(bool(row["held_back"]) for row in value["candidates"])
    assert held["baseline"] == base["value"]
    assert held["ci_low"] < held["value"] < held["ci_high"]
    assert held["change_low"] <= held["change"] <= held["change_high"]
    assert best["ci_low"] < best["value"] < best["ci_high"]

    with Repository(url) as repository:
        row = repository.study("s")
        items = repository.items(row.uuid, "held back", best_digest(value))
    session = Session.open(row.spec)
    setting = QuantSetting.from_value(best["setting"])
    again, unquantized = session.evaluate_held_back(setting), session.evaluate_held_back(UNQUANTIZED)
    assert (again.value, unquantized.value) == (held["value"], held["baseline"])
    assert again.items is not None
    assert items is not None
    assert again.items.to_json() == items.to_json()
    if task == "demo":
        check_windows(session, again, held)
    else:
        check_sentences(session, again, unquantized, held)

    assert run(["study", "show", "s", "--storage", url]) == 0
    shown = capsys.readouterr().out
    assert f"p = {held['p_value']:.2g}" in shown
    assert run(["study", "candidates", "s", "--storage", url]) == 0
    assert "held back" in capsys.readouterr().out
    assert run(["study", "resume", "s", "--storage", url]) == 0
    assert "nothing is left to run" in capsys.readouterr().err

    with Repository(url) as repository, repository._write() as connection:
        delete_comparisons(connection, [row.uuid])
    again = printed(capsys, "study", "resume", "s", "--storage", url)
    assert again["best"]["held_back"] == held
    assert again["counts"] == value["counts"]


def best_digest(value: Any) -> str:
    return next(r["digest"] for r in value["candidates"] if r["trial"] == value["best"]["trial"])


def check_windows(session: Session, run: Any, held: Any) -> None:
    """Every window is in one half; their losses add up to the metric."""
    whole = session.data.sequences, session.held_back.sequences
    assert [len(part) for part in whole] == [6, 6]
    assert not {ids.tobytes() for ids in whole[0]} & {ids.tobytes() for ids in whole[1]}
    losses, tokens = run.items.sums
    assert tokens.sum() == run.n == held["n"]
    assert losses.sum() == pytest.approx(run.nll_sum, rel=1e-6)
    assert held["standard_error"] == pytest.approx(stats.perplexity_error(losses, tokens).error)


def check_sentences(session: Session, run: Any, unquantized: Any, held: Any) -> None:
    """The report is on another split; right sentences add up, and the p value is that of the pairs."""
    assert (session.data.split, session.held_back.split) == ("test", "validation")
    assert session.held_back.data_hash != session.data.data_hash
    right, before = run.items.right, unquantized.items.right
    assert right.sum() == run.correct == held["correct"]
    assert before.sum() == unquantized.correct
    assert run.items.losses.sum() == pytest.approx(run.nll_sum, rel=1e-6)
    lost, won = int((before & ~right).sum()), int((right & ~before).sum())
    assert held["p_value"] == stats.mcnemar(lost, won)


@pytest.mark.parametrize("task", CASES)
def test_items_change_no_number(task: str) -> None:
    """Whether items are kept decides nothing about the evaluation."""
    from qslm_opt.spec import StudySpec

    bound = {"max_increase": "30%"} if task == "demo" else {"max_drop": 0.1}
    values = {"name": "s", "model": "demo", "task": task, "memory_budget": "12%", "limit": 12}
    session = Session.open(StudySpec.from_mapping({**values, "device": "cpu", **bound}))
    without, _ = session.run(UNQUANTIZED)
    session.keeps_items = True
    with_items, _ = session.run(UNQUANTIZED)
    assert without.items is None
    assert with_items.items is not None
    assert with_items.items.complete
    assert (with_items.value, with_items.nll_sum) == (without.value, without.nll_sum)
    assert set(with_items.to_json()) == set(without.to_json())


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (("--hold-back", "0.5", "--report-split", "validation"), "both say what the result is measured on"),
        (("--hold-back", "0.95"), "hold_back 0.95 is out of range; it is a share from 0 (off) to 0.9"),
        (("--confidence", "1"), "confidence 1.0 is out of range; it must be at least 0.5 and below 1"),
        (("--report-split", "test"), "--report-split test is the split that is searched on"),
        (("--hold-back", "0.01", "--limit", "4"), "too few to hold back 0.01 of them"),
        (
            ("--report-split", "train", "--quantizer", "gptq"),
            "would be calibrated on split 'train', which the result is reported on",
        ),
    ],
)
def test_what_cannot_be_held_back_is_said_in_a_sentence(
    keys: tuple[str, ...], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bound = ("--task", "demo", "--max-increase", "30%", "--memory-budget", "12%", "--limit", "8")
    url = f"sqlite:///{tmp_path}/q.db"
    create = ["study", "create", "s", "--model", "demo", *bound, "--storage", url, "--no-run"]
    assert run([*create, *keys]) in (1, 2)
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert words in last
