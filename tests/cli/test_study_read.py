from __future__ import annotations

import csv
import io
import json
import os
import sqlite3
from pathlib import Path
from typing import Any

import optuna
import pytest

from qslm_opt.cli.main import run
from qslm_opt.cli.options import complete_names
from qslm_opt.rank import score
from qslm_opt.setting import QuantSetting
from qslm_opt.store import Repository, migrations
from qslm_opt.store.rows import own_host
from tests.store.fake_study import BUDGET, FP32_BYTES, FakeStudy


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeStudy:
    study = FakeStudy(tmp_path / "q.db")
    monkeypatch.setenv("QSLM_OPT_STORAGE", study.url)
    return study


@pytest.fixture
def filled(study: FakeStudy) -> FakeStudy:
    study.trial(0.89, 30_000, tier="sensitivity", unit="attention.0", bits=8)
    study.trial(0.885, 9_000, bits=8)
    study.trial(0.88, 6_000, bits=6)
    study.trial(0.86, 5_000, bits=4, power_w=310.25)
    study.trial(0.70, 3_000, bits=3, metric_slack=0.17)
    study.trial(None, 2_000, state="pruned", tier="block", bits=2, metric_slack=0.3, used=40)
    study.trial(None, state="running", tier="block", unit="attention.0", bits=3)
    with Repository(study.url) as repository:
        repository.set_progress(
            study.uuid,
            [{"tier": "sensitivity", "done": 1, "total": 10}, {"tier": "global", "done": 4, "total": 5}],
        )
    return study


def printed(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> Any:
    assert run(words) == code
    value = json.loads(capsys.readouterr().out)
    assert value["schema"] == 1
    return value


def test_what_was_cut_off_is_told_apart_from_what_failed(
    filled: FakeStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    for reason in ("interrupted: the run was stopped", "stale: its process is gone", "NumericsError: loss"):
        filled.trial(None, state="failed", reason=reason)
    value = printed(capsys, "study", "show", "s", "--json")
    assert (value["counts"]["failed"], value["interrupted"]) == (3, 2)
    assert run(["study", "show", "s"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "5 complete, 1 pruned, 1 failed, 1 running, 2 interrupted (run again)" in shown


def test_list_names_every_study(
    filled: FakeStudy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    FakeStudy(tmp_path / "q.db", name="other", metric="perplexity")
    value = printed(capsys, "study", "list", "--json")
    assert [(row["name"], row["metric"]) for row in value["studies"]] == [
        ("s", "accuracy"),
        ("other", "perplexity"),
    ]
    assert value["studies"][0]["counts"] == {"complete": 5, "pruned": 1, "failed": 0, "running": 1}
    assert run(["study", "list"]) == 0
    out = capsys.readouterr().out
    assert "other" in out
    assert "\x1b" not in out


def test_an_empty_storage_says_how_to_begin(study: FakeStudy, capsys: pytest.CaptureFixture[str]) -> None:
    optuna.delete_study(study_name="s", storage=study.url)
    Repository(study.url).delete(study.uuid)
    assert run(["study", "list"]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "study create" in captured.err


def test_show_json_has_every_key_of_the_contract(
    filled: FakeStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    value = printed(capsys, "study", "show", "s", "--json")
    assert (value["name"], value["state"], value["spec"]["task"]) == ("s", "created", "demo-classify")
    assert value["baseline"] == {
        "metric": "accuracy",
        "value": 0.9,
        "bytes": FP32_BYTES,
        "n": 100,
        "correct": 90,
        "ci_low": pytest.approx(0.825634, abs=1e-6),  # Wilson: R's prop.test(90, 100, correct = FALSE)
        "ci_high": pytest.approx(0.944771, abs=1e-6),
        "confidence_level": 0.95,
        "firing_rate": None,
    }
    assert value["generalisation"] is None
    assert value["constraints"]["metric"] == {"name": "accuracy", "bound": 0.85, "max_drop": 0.05}
    assert value["constraints"]["memory"] == {"budget": BUDGET, "memory_budget": "10kB"}
    assert [(t["tier"], t["done"], t["total"], t["best"]) for t in value["tiers"]] == [
        ("sensitivity", 1, 10, None),
        ("global", 4, 5, 0.88),
        ("block", 1, None, None),
        ("module", 0, None, None),
    ]
    assert value["counts"] == {"complete": 5, "pruned": 1, "failed": 0, "running": 1}
    assert value["evaluations"] == 6
    best = value["best"]
    assert (best["trial"], best["value"], best["bytes"]) == (2, 0.88, 6_000)
    assert best["saving"] == pytest.approx(1 - 6_000 / FP32_BYTES)
    assert best["score"] == pytest.approx(score("accuracy", 0.88, 6_000 / FP32_BYTES, 0.2))
    assert QuantSetting.from_value(best["setting"])


def test_show_for_people_says_what_was_found(filled: FakeStudy, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["study", "show", "s", "--lambda", "0"]) == 0
    out = capsys.readouterr().out
    assert "accuracy 90.00 % over 100 (95 % interval 82.6–94.5)" in out
    assert "accuracy at most 5 points below the baseline: 85.00 %" in out
    assert "best at λ = 0: trial 1, accuracy 88.50 % [80.2–93.0] (-1.50 pp), 9.00 kB (−77.5 %)" in out
    assert "\x1b" not in out


def test_show_says_when_a_run_died(study: FakeStudy, capsys: pytest.CaptureFixture[str]) -> None:
    repository = Repository(study.url)
    repository.set_state(study.uuid, "running")
    repository.beat(study.uuid, 2**22 + 5, own_host(), "block")
    assert run(["study", "show", "s"]) == 0
    assert "dead: its process is gone; go on with 'qslm-opt study resume s'" in capsys.readouterr().out


def test_show_of_a_study_without_trials_is_not_an_error(
    study: FakeStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    value = printed(capsys, "study", "show", "s", "--json")
    assert value["best"] is None
    assert value["closest"] is None
    assert run(["study", "show", "s"]) == 0


def test_candidates_are_ranked_at_any_lambda(filled: FakeStudy, capsys: pytest.CaptureFixture[str]) -> None:
    value = printed(capsys, "study", "candidates", "s", "--lambda", "0", "--json")
    assert (value["lambda"], value["metric"]) == (0, "accuracy")
    assert [row["trial"] for row in value["rows"]] == [1, 2, 3]
    first = value["rows"][0]
    assert {
        "trial", "tier", "value", "bytes", "saving", "score", "feasible", "slack", "power_w",
        "lambda_interval",
    } <= set(first)  # fmt: skip
    assert first["slack"] == {"metric": -0.1, "memory": pytest.approx(-0.1)}
    assert first["power_w"] is None
    assert first["lambda_interval"][0] == 0
    last = printed(capsys, "study", "candidates", "s", "--lambda", "100", "--json")["rows"][0]
    assert (last["trial"], last["power_w"], last["lambda_interval"][1]) == (3, 310.25, None)


def test_candidates_can_be_narrowed_and_widened(
    filled: FakeStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    filled.trial(0.85, 7_000, bits=2)

    def trials(*flags: str) -> list[int]:
        return [r["trial"] for r in printed(capsys, "study", "candidates", "s", "--json", *flags)["rows"]]

    assert sorted(trials()) == [1, 2, 3, 7]
    assert sorted(trials("--pareto")) == [1, 2, 3]
    assert set(trials("--winners")) <= {1, 2, 3}
    assert trials("--all")[4:] == [0, 4]
    assert len(trials("--top", "2")) == 2


def test_the_table_of_candidates_has_no_colour_on_a_pipe(
    filled: FakeStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["study", "candidates", "s"]) == 0
    out = capsys.readouterr().out
    assert "3 candidates at λ = 0.2" in out
    assert "310 W" in out
    assert "n/a" in out
    assert "\x1b" not in out


def test_a_finished_study_without_a_candidate_exits_with_4_and_says_what_came_closest(
    study: FakeStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    study.trial(0.80, 5_000, bits=4, metric_slack=0.0588)
    study.trial(0.90, 12_500, bits=8, metric_slack=-0.05)
    assert run(["study", "candidates", "s"]) == 0
    said = "no candidate yet: the study is created; go on with qslm-opt study resume s\n"
    assert capsys.readouterr().err == said
    Repository(study.url).set_state(study.uuid, "infeasible")
    assert run(["study", "candidates", "s"]) == 4
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        "error: no setting meets both constraints; the closest is trial 0 (global, network at 4 bits): "
        "accuracy 80.00 %, 5.9 % beyond the bound.\n"
    )
    value = printed(capsys, "study", "candidates", "s", "--json", code=4)
    assert value["rows"] == []


def test_what_is_only_over_the_budget_is_named_with_the_bytes(
    study: FakeStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    study.trial(0.90, 12_500, bits=8)
    Repository(study.url).set_state(study.uuid, "infeasible")
    assert run(["study", "show", "s"]) == 0
    assert "12.5 kB, 2.50 kB over the budget" in capsys.readouterr().err


def test_export_gives_the_chosen_setting(filled: FakeStudy, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["study", "export", "s"]) == 0
    setting = QuantSetting.from_json(capsys.readouterr().out)
    assert str(setting.format_of("input/emb")) == "int6/channel/affine"
    assert run(["study", "export", "s", "--lambda", "0"]) == 0
    assert "int8" in capsys.readouterr().out
    assert run(["study", "export", "s", "--trial", "4"]) == 0
    assert "int3" in capsys.readouterr().out


def test_export_gives_all_trials_as_csv_and_json_lines(
    filled: FakeStudy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["study", "export", "s", "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["state"] for row in rows] == ["complete"] * 5 + ["pruned", "running"]
    assert (rows[3]["value"], rows[3]["feasible"], rows[3]["power_w"]) == ("0.86", "True", "310.25")
    assert json.loads(rows[3]["setting"])["units"] == {"network": "int4/channel/affine"}
    assert run(["study", "export", "s", "--format", "jsonl", "--output", str(tmp_path / "t.jsonl")]) == 0
    assert capsys.readouterr().out == ""
    lines = [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()]
    assert [line["trial"] for line in lines] == list(range(7))
    assert lines[5]["value"] is None
    assert lines[3]["setting"]["quantizer"] == "rtn"


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (("--trial", "99"), 2, "has no trial 99"),
        (("--trial", "1", "--lambda", "1"), 2, "give one of them"),
        (("--format", "csv", "--trial", "1"), 2, "exports every trial"),
        (("--format", "xml"), 2, "xml"),
        (("--output", "/nowhere/x.json"), 2, "cannot be written"),
    ],
)
def test_an_export_that_cannot_be_is_refused(
    filled: FakeStudy, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], code: int, words: str
) -> None:
    assert run(["study", "export", "s", *flags]) == code
    assert words in capsys.readouterr().err


def test_an_export_without_a_candidate_exits_with_4_only_where_the_search_has_ended(
    study: FakeStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["study", "export", "s"]) == 1
    assert "no candidate yet: the study is created; go on" in capsys.readouterr().err
    Repository(study.url).set_state(study.uuid, "infeasible")
    assert run(["study", "export", "s"]) == 4
    assert "--trial N takes" in capsys.readouterr().err


def test_stop_asks_a_running_study_and_only_that(
    study: FakeStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["study", "stop", "s"]) == 0
    said = capsys.readouterr().err
    assert "is not running, it is created; a process that is loading it now stops, too" in said
    repository = Repository(study.url)
    assert repository.stop_requested(study.uuid)
    repository.set_state(study.uuid, "running")
    assert not repository.stop_requested(study.uuid)
    repository.beat(study.uuid, os.getpid(), own_host(), "block")
    assert run(["study", "stop", "s"]) == 0
    assert "Go on with: qslm-opt study resume s" in capsys.readouterr().err
    assert repository.stop_requested(study.uuid)


def test_an_ended_study_is_not_asked_to_stop(study: FakeStudy, capsys: pytest.CaptureFixture[str]) -> None:
    repository = Repository(study.url)
    repository.set_state(study.uuid, "finished")
    assert run(["study", "stop", "s"]) == 0
    assert "is not running, it is finished" in capsys.readouterr().err
    assert not repository.stop_requested(study.uuid)


def test_a_study_that_one_worker_left_is_stopped_and_kept_while_another_runs(
    study: FakeStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    repository = Repository(study.url)
    repository.set_state(study.uuid, "stopped", "interrupted")
    repository.beat(study.uuid, os.getpid(), own_host(), "block")
    assert run(["study", "delete", "s", "--yes"]) == 2
    assert run(["study", "stop", "s"]) == 0
    assert "asked study 's' to stop" in capsys.readouterr().err
    assert repository.stop_requested(study.uuid)


def test_delete_asks_first(filled: FakeStudy, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["study", "delete", "s"]) == 2
    assert "give --yes" in capsys.readouterr().err
    assert run(["study", "delete", "s", "--yes"]) == 0
    assert Repository(filled.url).names() == []
    assert optuna.get_all_study_names(filled.url) == []


def test_a_running_study_is_not_deleted(study: FakeStudy, capsys: pytest.CaptureFixture[str]) -> None:
    repository = Repository(study.url)
    repository.set_state(study.uuid, "running")
    repository.beat(study.uuid, os.getpid(), own_host(), "block")
    assert run(["study", "delete", "s", "--yes"]) == 2
    assert "stop it first: qslm-opt study stop s" in capsys.readouterr().err
    assert repository.names() == ["s"]


@pytest.mark.parametrize("command", ["show", "candidates", "stop", "export", "resume", "delete"])
def test_an_unknown_study_exits_with_6(
    study: FakeStudy, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert run(["study", command, "ss"]) == 6
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: no study 'ss' in storage")
    assert captured.err.endswith("Did you mean 's'?\n")


@pytest.mark.parametrize("command", ["show", "candidates", "stop", "export", "resume", "delete"])
def test_a_missing_storage_exits_with_3(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert run(["study", command, "s", "--storage", f"sqlite:///{tmp_path}/none.db"]) == 3
    assert "does not exist; create a study" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_newer_schema_exits_with_3(
    study: FakeStudy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with sqlite3.connect(tmp_path / "q.db") as connection:
        connection.execute("UPDATE qslm_schema SET version = 99")
    for words in (["study", "list"], ["study", "resume", "s"], ["study", "stop", "s"]):
        assert run(words) == 3
        assert f"has schema 99, newer than {len(migrations.MIGRATIONS)}" in capsys.readouterr().err


def test_an_older_schema_is_upgraded_on_the_way(
    filled: FakeStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(migrations, "MIGRATIONS", (*migrations.MIGRATIONS, lambda connection: None))
    assert len(printed(capsys, "study", "list", "--json")["studies"]) == 1
    assert len(list(tmp_path.glob("*.bak"))) == 1


def test_a_wrong_storage_url_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["study", "list", "--storage", "q.db"]) == 2
    assert "For a file give sqlite:///q.db" in capsys.readouterr().err


def test_names_are_completed_from_the_storage(study: FakeStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    class Context:
        params: dict[str, str] = {}  # noqa: RUF012

    assert complete_names(Context(), "") == ["s"]  # type: ignore[arg-type]
    assert complete_names(Context(), "x") == []  # type: ignore[arg-type]
    monkeypatch.setenv("QSLM_OPT_STORAGE", "sqlite:///nowhere/q.db")
    assert complete_names(Context(), "") == []  # type: ignore[arg-type]
