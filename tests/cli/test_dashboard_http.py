"""The web dashboards as a browser sees them: ours over HTTP on loopback, the plain one, and in Chromium."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import optuna
import pytest

from qslm_opt.search import board
from qslm_opt.search.driver import create_study, run_study
from qslm_opt.store import Repository
from tests.search.toy import Recorder, spec, toy

pytest.importorskip("optuna_dashboard", reason="pip install 'qslm-opt[dashboard]'")
ROOT = Path(__file__).resolve().parents[2]
STUDY = spec(max_increase="60%", memory_budget="17%", precisions=(8, 6, 4, 3, 2), sensitivity_precisions=(4,))
WAIT_SECONDS = 120


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A finished study whose best score breaks a constraint."""
    url = f"sqlite:///{tmp_path_factory.mktemp('web')}/toy.db"
    create_study(STUDY, url, toy(STUDY))
    run_study("toy", url, toy(STUDY), listener=Recorder())
    return url


@pytest.fixture(scope="module")
def site(url: str) -> Any:
    """``qslm-opt dashboard`` on a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "qslm_opt", "dashboard", "--storage", url, "--port", str(port)]
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + WAIT_SECONDS
    try:
        while True:
            try:
                get(f"http://127.0.0.1:{port}/api/studies")
                break
            except OSError:
                assert process.poll() is None
                assert time.monotonic() < until
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(WAIT_SECONDS)


def get(address: str) -> dict[str, Any]:
    with urllib.request.urlopen(address, timeout=WAIT_SECONDS) as answer:
        return dict(json.loads(answer.read()))


def best_of(url: str) -> tuple[int, dict[int, bool]]:
    with Repository(url) as repository:
        trials = repository.trials("toy")
    from qslm_opt.rank import rank

    return rank(trials, "perplexity", 0.2)[0].record.number, {t.number: t.feasible for t in trials}


def test_ours_shows_constraints_the_feasible_best_the_note_and_the_plot(url: str, site: str) -> None:
    best, feasible = best_of(url)
    (summary,) = get(f"{site}/api/studies")["study_summaries"]
    assert summary["study_name"] == "toy"
    detail = get(f"{site}/api/studies/{summary['study_id']}?after=0")
    assert [trial["number"] for trial in detail["best_trials"]] == [best]
    complete = [t for t in detail["trials"] if t["state"] == "Complete"]
    assert {len(t["constraints"]) for t in complete} == {2}
    for trial in complete:
        met = all(x <= 0 for x in trial["constraints"])
        columns = {a["key"]: a["value"] for a in trial["user_attrs"]}
        assert json.loads(columns["feasible"].lower()) == met
        assert not columns.keys() & {"evaluation", "owner", "uuid", "digest"}
        assert {"bytes", "value", "metric_slack_pct", "memory_slack_pct", "setting"} <= columns.keys()
    assert f"**Feasible best at λ = 0.2: trial {best}**" in detail["note"]["body"]
    assert "- state: finished, " in detail["note"]["body"]
    (plot,) = detail["plotly_graph_objects"]
    assert plot["id"] == "pareto"
    shown = json.loads(plot["graph_object"])
    assert shown["data"][0]["name"] == "Pareto front"
    assert f"trial {best}" in shown["data"][0]["text"]
    violating = [t["text"] for t in shown["data"] if t["name"] == "violates a constraint"]
    assert {int(text.split()[1]) for text in violating[0]} <= {n for n, met in feasible.items() if not met}


def test_the_plain_dashboard_shows_note_plot_and_columns_from_the_file_alone(url: str) -> None:
    from optuna_dashboard import get_note, wsgi
    from optuna_dashboard._custom_plot_data import get_plotly_graph_objects

    study = optuna.load_study(study_name="toy", storage=url)
    assert get_note(study).startswith("# toy\n")
    plots = get_plotly_graph_objects(study._storage.get_study_system_attrs(study._study_id))
    assert json.loads(plots["pareto"])["layout"]["xaxis"]["title"]["text"] == "packed bytes"
    assert all({"metric_slack_pct", "feasible"} <= t.user_attrs.keys() for t in study.trials if t.value)
    assert wsgi(url)


def test_a_note_that_somebody_edited_is_kept_and_a_shorter_one_leaves_nothing_behind(tmp_path: Path) -> None:
    from optuna_dashboard import get_note, save_note

    url = f"sqlite:///{tmp_path}/toy.db"
    create_study(STUDY, url, toy(STUDY))
    study = optuna.load_study(study_name="toy", storage=url)
    where = study._storage, study._study_id
    with Repository(url) as repository:
        row = repository.study("toy")
    from dataclasses import replace

    board.publish(*where, replace(row, reason="x" * 5000), [])
    assert "x" * 5000 in get_note(study)
    board.publish(*where, row, [])
    assert get_note(study) == board.note(row, [])
    save_note(study, "mine")
    board.publish(*where, row, [])
    assert get_note(study) == "mine"


@pytest.mark.slow
def test_chromium_draws_the_study(site: str, tmp_path: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    flags = [
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--disable-dev-shm-usage", f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1400,2400",
        "--virtual-time-budget=20000", "--hide-scrollbars",
    ]  # fmt: skip
    picture = tmp_path / "study.png"
    page = f"{site}/dashboard/studies/1"
    words = [chromium, *flags, f"--screenshot={picture}", "--dump-dom", page]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    for words in ("toy (id=1)", "toy: perplexity over packed bytes", "Pareto front", "Best Trial"):
        assert words in done.stdout
    assert picture.stat().st_size > 20_000
