"""``qslm-opt compare`` without a model: studies by strategy and seed, means, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qslm_opt.cli import compare
from qslm_opt.cli.main import run
from qslm_opt.spec import StudySpec
from tests.cli.fake_session import FakeSession


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QSLM_OPT_STORAGE", f"sqlite:///{tmp_path}/q.db")
    monkeypatch.setattr(compare, "open_session", FakeSession)
    path = tmp_path / "c.toml"
    path.write_text(
        'model = "demo"\ntask = "demo-classify"\nmax_drop = 0.1\nmemory_budget = "60%"\n'
        "precisions = [8, 6, 4, 3, 2]\nsign_embedding = false\n"
    )
    return path


def result(capsys: pytest.CaptureFixture[str]) -> dict:
    return json.loads(capsys.readouterr().out)


def test_strategies_are_run_with_their_seeds_and_compared(
    spec: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compare", str(spec), "--strategies", "tpe,tiered,knapsack", "--seeds", "2", "--json"]
    assert run(words) == 0
    found = result(capsys)
    rows = found["rows"]
    assert found["schema"] == 1
    assert [(r["strategy"], r["seed"]) for r in rows] == [
        ("tiered", None), ("knapsack", None), ("tpe", 0), ("tpe", 1)
    ]  # fmt: skip
    assert [r["study"] for r in rows] == ["c-tiered", "c-knapsack", "c-tpe-0", "c-tpe-1"]
    assert all(r["state"] == "finished" and r["wall_s"] >= 0 for r in rows)
    most = max(r["equivalents"] for r in rows[:2])
    assert all(r["full"] <= round(most) for r in rows[2:])  # as many as the longest of ours
    assert rows[1]["cheap"] > 0
    assert rows[1]["equivalents"] < rows[1]["full"] + rows[1]["cheap"]
    by_name = {row["strategy"]: row for row in found["means"]}
    assert by_name["tpe"]["runs"] == 2
    assert by_name["tpe"]["bytes"]["std"] is not None
    assert by_name["tiered"]["bytes"]["mean"] == rows[0]["bytes"]
    assert run(["study", "show", "c-knapsack", "--json"]) == 0
    shown = result(capsys)
    assert [t["tier"] for t in shown["tiers"]] == ["global", "steps", "allocation", "refinement"]
    assert shown["full_equivalents"] == rows[1]["equivalents"]
    assert shown["best"]["trial"] == rows[1]["best"]


def test_a_second_time_what_has_ended_is_taken_as_it_is_without_a_wall_time(
    spec: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compare", str(spec), "--strategies", "knapsack", "--json"]
    assert run(words) == 0
    first = result(capsys)["rows"][0]
    assert run(words) == 0
    assert result(capsys)["rows"][0] == {**first, "wall_s": None}
    assert run([*words, "--evaluations", "9"]) == 2
    assert "there with another spec" in capsys.readouterr().err


def test_the_table_names_every_strategy(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compare", str(spec), "--strategies", "tiered,random", "--seeds", "2"]) == 0
    out = capsys.readouterr().out
    assert "tiered" in out and "random" in out and "±" in out


def test_a_strategy_that_its_evaluations_cut_off_is_named(
    spec: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compare", str(spec), "--strategies", "tiered,knapsack,random", "--seeds", "1"]
    assert run([*words, "--evaluations", "12", "--json"]) == 0
    found = result(capsys)
    ends = {row["strategy"]: row["cut_off"] for row in found["rows"]}
    assert ends == {"tiered": True, "knapsack": False, "random": False}  # drawing has no end of its own
    assert [row["cut_off"] for row in found["means"]] == [1, 0, 0]
    assert run([*words, "--evaluations", "12"]) == 0  # all has ended: it is read from the storage
    told = capsys.readouterr()
    assert "cut off by --evaluations 12 before their own end (runs): tiered (1/1); what" in told.out
    assert "c-tiered: " in told.err and "evaluations, cut off by --evaluations 12" in told.err
    assert run(["study", "show", "c-tiered"]) == 0
    assert "finished (cut off by --evaluations 12)" in capsys.readouterr().out


def test_nothing_is_cut_off_without_a_limit(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compare", str(spec), "--strategies", "tiered,tpe", "--seeds", "1"]) == 0
    assert "cut off" not in "".join(capsys.readouterr())


@pytest.mark.parametrize(("given", "words"), [("knapsak", "Did you mean 'knapsack'"), (",", "names none")])
def test_strategies_that_cannot_be_are_refused(
    spec: Path, capsys: pytest.CaptureFixture[str], given: str, words: str
) -> None:
    assert run(["compare", str(spec), "--strategies", given]) == 2
    assert words in capsys.readouterr().err


def test_every_search_of_a_comparison_differs_only_in_how_is_searched() -> None:
    base = StudySpec.from_mapping(
        {"name": "c", "model": "demo", "task": "demo", "memory_budget": "50%", "max_increase": "5%",
         "strategy": "knapsack", "gate": True}
    )  # fmt: skip
    make = compare._spec
    assert make(base, "tiered", None, None).gate is False
    assert make(base, "beam", None, 9).gate is True
    sampled = make(base, "tpe", 4, 9)
    assert (sampled.name, sampled.strategy, sampled.seed, sampled.evaluations) == ("c-tpe-4", "tpe", 4, 9)
    assert sampled.gate is False
