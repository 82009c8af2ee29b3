from __future__ import annotations

from pathlib import Path

import optuna
import pytest

from qslm_opt.cli import dashboard
from qslm_opt.cli.main import run
from qslm_opt.search.dashboard_storage import DashboardStorage
from qslm_opt.store import optuna_storage_kwargs
from tests.store.fake_study import FakeStudy


@pytest.fixture
def study(tmp_path: Path) -> FakeStudy:
    study = FakeStudy(tmp_path / "q.db")
    study.trial(0.99, 5_000, bits=8, metric_slack=0.5)
    study.trial(0.80, 5_000, bits=4)
    study.trial(0.85, 4_000, bits=6)
    study.trial(state="pruned", bits=2, metric_slack=0.0, size=20_000)
    return study


def storage(study: FakeStudy) -> DashboardStorage:
    return DashboardStorage(study.url, engine_kwargs=optuna_storage_kwargs(study.url))


def test_the_best_trial_is_a_feasible_one(study: FakeStudy) -> None:
    shown = storage(study)
    study_id = shown.get_study_id_from_name("s")
    assert shown.get_best_trial(study_id).number == 2
    assert study.study._storage.get_best_trial(study.study._study_id).number == 0


def test_constraints_are_listed_for_the_dashboard_and_not_written(study: FakeStudy) -> None:
    shown = storage(study)
    trials = shown.get_all_trials(shown.get_study_id_from_name("s"))
    assert trials[0].system_attrs["constraints"] == [-0.5, 0.5]
    assert shown.get_trial(trials[3]._trial_id).system_attrs["constraints"] == [1.0, 0.0]
    reread = optuna.load_study(study_name="s", storage=study.url).trials
    assert all("constraints" not in trial.system_attrs for trial in reread)


def test_without_a_feasible_trial_there_is_no_best(tmp_path: Path) -> None:
    study = FakeStudy(tmp_path / "q.db")
    study.trial(0.9, metric_slack=0.1)
    shown = storage(study)
    with pytest.raises(ValueError, match="No feasible trials"):
        shown.get_best_trial(shown.get_study_id_from_name("s"))


def test_optunas_dashboard_serves_them(study: FakeStudy) -> None:
    served = pytest.importorskip("optuna_dashboard")
    import json
    from io import BytesIO, StringIO

    application, answers = served.wsgi(storage(study)), []

    def get(path: str) -> dict[str, object]:
        environment = {
            "REQUEST_METHOD": "GET", "PATH_INFO": path, "SERVER_NAME": "x", "SERVER_PORT": "80",
            "wsgi.input": BytesIO(), "wsgi.errors": StringIO(), "wsgi.url_scheme": "http",
            "QUERY_STRING": "after=0",
        }  # fmt: skip
        body = b"".join(application(environment, lambda status, *_: answers.append(status)))
        return dict(json.loads(body))

    detail = get("/api/studies/1")
    assert answers[-1].startswith("200")
    assert [trial["number"] for trial in detail["best_trials"]] == [2]  # type: ignore[attr-defined]
    assert detail["trials"][0]["constraints"] == [-0.5, 0.5]  # type: ignore[index]


def test_without_the_package_the_command_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(dashboard, "find_spec", lambda name: None)
    assert run(["dashboard"]) == 2
    assert "pip install 'qslm-opt[dashboard]'" in capsys.readouterr().err


def test_it_serves_this_machine_only_unless_told_otherwise(
    study: FakeStudy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    served = []
    monkeypatch.setattr(dashboard, "find_spec", lambda name: object())
    monkeypatch.setattr("qslm_opt.search.dashboard_storage.serve", lambda *where: served.append(where))
    assert run(["dashboard", "--storage", study.url]) == 0
    assert served == [(study.url, "127.0.0.1", 8080)]
    assert "http://127.0.0.1:8080/" in capsys.readouterr().err
