"""What is said when ``--tune`` found no setting that is good enough: what the best tuned one reached."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qslm_opt.cli import study_create
from qslm_opt.cli.main import run
from qslm_opt.cli.tuning import tuned_in_vain, tuned_json
from qslm_opt.results import Evaluation, TrialRecord
from qslm_opt.setting import QuantSetting
from qslm_opt.store import Repository
from tests.cli.fake_session import FakeSession
from tests.store.fake_study import FakeStudy
from tests.tui.fakes import Study


class Spoiling(FakeSession):
    """A session in which tuning makes a setting worse."""

    def _evaluate(self, setting: QuantSetting) -> Evaluation:
        run = super()._evaluate(setting)
        return replace(run, value=0.5, correct=50) if setting.tune else run


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeStudy:
    study = FakeStudy(tmp_path / "q.db", tune=400)
    monkeypatch.setenv("QSLM_OPT_STORAGE", study.url)
    study.trial(0.88, 6_000, bits=6)
    study.trial(0.80, 4_000, tier="tuned", bits=3, metric_slack=0.0588)
    study.trial(0.70, 3_000, tier="tuned", bits=2, metric_slack=0.176)
    return study


def end(study: FakeStudy, state: Any) -> None:
    with Repository(study.url) as repository:
        repository.set_state(study.uuid, state)


def test_show_says_what_came_closest_once_the_search_has_ended(
    study: FakeStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (
        "tuning by 400 steps found no setting that is good enough: of 2 tuned, trial 1 came closest: it "
        "reached accuracy 80.00 %, 5.9 % beyond the bound, in 4.00 kB"
    )
    assert run(["study", "show", "s"]) == 0
    assert "tuning by" not in capsys.readouterr().err  # it may still find one
    end(study, "finished")
    assert run(["study", "show", "s"]) == 0
    assert words in " ".join(capsys.readouterr().err.split())
    assert run(["study", "show", "s", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tuned"] == {
        "steps": 400, "settings": 2, "candidates": 0,
        "closest": {"trial": 1, "value": 0.8, "bytes": 4000, "slack": {"metric": 0.0588, "memory": -0.6}},
    }  # fmt: skip


def test_nothing_is_said_where_a_tuned_setting_is_a_candidate(
    study: FakeStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    study.trial(0.86, 5_000, tier="tuned", bits=4)
    end(study, "finished")
    assert run(["study", "show", "s"]) == 0
    assert "tuning by" not in capsys.readouterr().err


def test_the_end_of_a_search_says_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("QSLM_OPT_STORAGE", f"sqlite:///{tmp_path}/q.db")
    monkeypatch.setattr(study_create, "open_session", Spoiling)
    flags = ("--model", "demo", "--task", "demo-classify", "--memory-budget", "9500B", "--max-drop", "0.05")
    assert run(["study", "create", "t", *flags, "--precisions", "8,4,3", "--tune", "5"]) == 0
    err = " ".join(capsys.readouterr().err.split())
    assert "tuning by 5 steps found no setting that is good enough: of 3 tuned, trial" in err


def tuned(number: int, **changes: Any) -> TrialRecord:
    one = Study().fill().trials[number]
    return replace(one, tier="tuned", used=10, **{"slack": {"metric": 0.1, "memory": -0.2}, **changes})


@pytest.mark.parametrize(
    ("trials", "words"),
    [
        ([], "the search ended before any was tuned"),
        ([tuned(1, state="pruned", value=None)], "was stopped at best 10 % beyond the bound, in "),
        (
            [tuned(1, state="failed", value=None, slack={}, reason="NumericsError: nan")],
            "of 1 tuned none was measured to a verdict (NumericsError: nan)",
        ),
    ],
)
def test_what_was_stopped_failed_or_never_tuned_is_told_apart(trials: list[TrialRecord], words: str) -> None:
    spec = replace(Study().spec, tune=7)
    assert words in (tuned_in_vain(spec, trials) or "")
    assert tuned_in_vain(replace(spec, tune=0), trials) is None
    assert tuned_json(replace(spec, tune=0), trials) is None


def test_a_stopped_tuning_that_ran_again_is_one_setting() -> None:
    spec = replace(Study().spec, tune=7)
    cut = tuned(1, state="failed", value=None, slack={}, reason="interrupted: the run was stopped")
    again = replace(tuned(1, state="complete", value=40.0), number=99)
    assert "of 1 tuned, trial 99 came closest" in (tuned_in_vain(spec, [cut, again]) or "")
