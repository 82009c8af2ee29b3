"""Time steps and firing rates before and after, as ``study`` shows them; runs that were made ahead."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qslm_opt.cli.main import run
from qslm_opt.figures import total_text
from qslm_opt.store import Repository
from tests.store.fake_study import FakeStudy, baseline_of


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeStudy:
    """A study at T = 4 whose baseline fires at 0.531 and whose two candidates at 0.535 and 0.542."""
    study = FakeStudy(tmp_path / "q.db", baseline=False, timesteps=4)
    monkeypatch.setenv("QSLM_OPT_STORAGE", study.url)
    evaluation = {"device": "cpu", "firing_rate": 0.531}
    with Repository(study.url) as repository:
        repository.set_baseline(study.uuid, replace(baseline_of(), evaluation=evaluation))
    study.trial(0.88, 6_000, bits=6, firing_rate=0.542)
    study.trial(0.885, 5_000, bits=4, firing_rate=0.535)
    return study


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert run(words) == 0
    return json.loads(capsys.readouterr().out)


def test_show_says_the_time_steps_and_both_rates(
    study: FakeStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["study", "show", "s"]) == 0
    out = capsys.readouterr().out
    assert "demo on task demo-classify, 4 time steps\n" in out
    assert "firing    53.10 % of the neurons at a step, unquantized\n" in out
    (best,) = (line for line in out.splitlines() if line.startswith("best at"))
    assert "trial 1," in best and best.endswith(", 53.50 % firing")


def test_json_has_the_time_steps_and_the_rates_of_the_baseline_and_of_every_candidate(
    study: FakeStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = printed(capsys, "study", "show", "s", "--json")
    assert (shown["timesteps"], shown["baseline"]["firing_rate"]) == (4, 0.531)
    assert (shown["best"]["trial"], shown["best"]["firing_rate"]) == (1, 0.535)
    rows = printed(capsys, "study", "candidates", "s", "--json")["rows"]
    assert [(row["trial"], row["firing_rate"]) for row in rows] == [(1, 0.535), (0, 0.542)]


def test_what_was_not_counted_is_null_and_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study = FakeStudy(tmp_path / "q.db")
    monkeypatch.setenv("QSLM_OPT_STORAGE", study.url)
    study.trial(0.88, 6_000)
    shown = printed(capsys, "study", "show", "s", "--json")
    assert shown["baseline"]["firing_rate"] is None and shown["best"]["firing_rate"] is None
    assert run(["study", "show", "s"]) == 0
    out = capsys.readouterr().out
    assert "firing" not in out and "time steps" not in out and "work ahead" not in out


def test_a_total_is_about_so_many_until_they_are_done() -> None:
    assert [total_text(3, n) for n in (None, 9, 3, 2, 0)] == ["?", "~9", "3", "2", "0"]
    assert total_text(3, 9, ended=True) == "9"


def test_runs_that_were_made_ahead_are_told_apart_while_it_runs_and_in_the_end(
    study: FakeStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    study.trial(0.87, 4_000, tier="block", unit="attention.0", bits=3)
    study.trial(0.86, 3_000, tier="block", unit="attention.0", bits=2)
    progress = [{"tier": "global", "done": 2, "total": 2}, {"tier": "block", "done": 1, "total": 9}]
    with Repository(study.url) as repository:
        repository.set_progress(study.uuid, progress)
    assert run(["study", "show", "s"]) == 0
    out = capsys.readouterr().out
    tiers = {words[0]: words[1:4] for words in map(str.split, out.splitlines()) if len(words) > 3}
    assert (tiers["global"], tiers["block"]) == (["2", "2", "2"], ["1", "~9", "2"])
    assert "work ahead: model runs beyond 'done' are of steps that the search has not reached yet" in out
    with Repository(study.url) as repository:
        repository.set_progress(study.uuid, [{**progress[0]}, {"tier": "block", "done": 1, "total": 1}])
        repository.set_extra(study.uuid, ["block-attention.0-2"])
        repository.set_state(study.uuid, "finished")
    assert run(["study", "show", "s"]) == 0
    assert "work ahead: 1 of the model runs was not needed in the end; workers" in capsys.readouterr().out
    tier = printed(capsys, "study", "show", "s", "--json")["tiers"][2]
    assert (tier["tier"], tier["done"], tier["evaluations"], tier["not_needed"]) == ("block", 1, 2, 1)
