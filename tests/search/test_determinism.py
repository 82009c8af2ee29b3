"""Loss of determinism is seen, said and stored, and decides nothing."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from pathlib import Path

import optuna
import pytest

from qslm_opt.results import TrialRecord
from qslm_opt.search.determinism import ATTRIBUTE, disagreements
from qslm_opt.search.driver import create_study, run_study
from qslm_opt.store import Repository
from tests.search.toy import Recorder, Toy, spec, toy
from tests.store.fake_study import url_of

STUDY = spec(memory_budget="24%", precisions=(8, 6, 4, 3))


@pytest.fixture
def url(tmp_path: Path) -> str:
    return url_of(tmp_path / "q.db")


def go_on(url: str, session: Toy, last: int | None = None) -> Recorder:
    """Run the study until a trial of this number has ended."""

    def on_end(record: TrialRecord) -> None:
        if record.number == last:
            with Repository(url) as repository:
                repository.request_stop(repository.study("toy").uuid)

    recorder = Recorder(on_end=on_end)
    run_study("toy", url, session, listener=recorder)
    return recorder


def stored(url: str) -> dict[str, object]:
    found: dict[str, object] = optuna.load_study(study_name="toy", storage=url).user_attrs[ATTRIBUTE]
    return found


def complaints(recorder: Recorder) -> list[str]:
    return [line for line in recorder.lines if "not deterministic" in line]


def test_a_study_that_is_deterministic_says_nothing(url: str) -> None:
    create_study(STUDY, url, toy(STUDY))
    for last in (5, None):
        assert complaints(go_on(url, toy(STUDY), last)) == []
    assert stored(url) == {"probe": "toy", "differs": []}


def test_two_runs_of_one_process_that_differ_are_said_and_the_study_goes_on(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_study(STUDY, url, toy(STUDY))
    numbers = count()
    monkeypatch.setattr(Toy, "probe", lambda self: f"bits {next(numbers)}")
    recorder = go_on(url, toy(STUDY))
    (line,) = complaints(recorder)
    assert "two runs of the same sequences in one process gave different bits" in line
    (entry,) = stored(url)["differs"]  # type: ignore[misc]
    assert entry["what"] in line
    assert entry["pid"] > 0
    assert len(recorder.ended) > 20


def test_a_process_that_computes_other_bits_than_the_first_is_said(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_study(STUDY, url, toy(STUDY))
    assert complaints(go_on(url, toy(STUDY), 5)) == []
    monkeypatch.setattr(Toy, "probe", lambda self: "others")
    (line,) = complaints(go_on(url, toy(STUDY)))
    assert "this process computes other bits than the one that began the study" in line
    assert stored(url)["probe"] == "toy"


def test_trials_that_disagree_on_one_setting_are_named_once(url: str) -> None:
    session = toy(STUDY)
    create_study(STUDY, url, session)
    first = go_on(url, session).ended
    study = optuna.load_study(study_name="toy", storage=url)
    trial = next(t for t in study.trials if t.value is not None)
    other = {**trial.user_attrs, "loss": trial.user_attrs["loss"] + 1e-12}
    study.add_trial(
        optuna.trial.create_trial(
            value=trial.value, params=trial.params, distributions=trial.distributions, user_attrs=other
        )
    )
    (line,) = complaints(go_on(url, toy(STUDY)))
    assert f"trials {trial.number} and {len(first)} measured the same setting and found" in line
    assert line.endswith("the first one counts")
    assert complaints(go_on(url, toy(STUDY))) == []
    assert len(stored(url)["differs"]) == 1  # type: ignore[arg-type]


def test_only_complete_trials_of_one_setting_are_compared() -> None:
    trial = TrialRecord(0, "u", "complete", "global", "network", 8, "{}", "d", 20.0, 10, 40, loss=3.0)
    others = [
        replace(trial, number=1), replace(trial, number=2, digest="e", value=1.0),
        replace(trial, number=3, state="failed", value=None),
        replace(trial, number=4, state="pruned", loss=9.0),
    ]  # fmt: skip
    assert list(disagreements([trial, *others])) == []
    worse = replace(trial, number=5, value=20.000000001)
    (said,) = disagreements([*others, worse, trial])
    words = "trials 0 and 5 measured the same setting and found 20.0 (loss 3.0) and 20.000000001"
    assert said.startswith(words)


def test_silent_blocks_are_said_once_and_stored_with_each_trial(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = Toy._result

    def silent(self: Toy, *given: object) -> object:
        return replace(measured(self, *given), silent=("attention.0",))  # type: ignore[arg-type]

    monkeypatch.setattr(Toy, "_result", silent)
    create_study(STUDY, url, toy(STUDY))
    recorder = go_on(url, toy(STUDY))
    said = [line for line in recorder.lines if "no neuron fires in attention.0; the metric counts" in line]
    assert len(said) == 1
    trials = optuna.load_study(study_name="toy", storage=url).trials
    ran = [trial for trial in trials if trial.user_attrs.get("used")]
    assert len(ran) > 20
    assert all(trial.user_attrs["silent"] == ["attention.0"] for trial in ran)
