"""What ``bench --dashboard`` reports hangs together; how fast it is depends on the machine and is not tested."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from qslm_opt.bench import dashboard
from qslm_opt.bench.big_study import NAME, BigStudy, make_big_study, power_between
from qslm_opt.cli.main import run as qslm_opt
from qslm_opt.store import Repository


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> BigStudy:
    file = tmp_path_factory.mktemp("big") / "q.db"
    return make_big_study(f"sqlite:///{file}", 10_000, 2, "elsewhere", 7)


def test_the_study_is_as_the_search_writes_it(big: BigStudy) -> None:
    with Repository(big.url, read_only=True) as repository:
        row, trials = repository.study(NAME), repository.trials(NAME)
        assert [t.number for t in trials] == list(range(10_000)) and trials[-1].uuid == big.last.uuid
        assert row.counts["complete"] + row.counts["pruned"] == 10_000 and row.baseline is not None
        assert {t.tier for t in trials} == {"sensitivity", "global", "block", "module"}
        stored, made = trials[-1], big.last
        assert (stored.setting, stored.bytes, stored.value, stored.slack, stored.bits) == (
            made.setting, made.bytes, made.value, made.slack, made.bits
        )  # fmt: skip
        best = repository.best(NAME)
        assert best is not None and best.feasible
        assert best.value is not None and any(t.feasible for t in trials)


def test_a_replayed_gpu_speaks_at_its_rate_and_not_twice() -> None:
    samples = power_between(0, 100.0, 101.0) + power_between(0, 101.0, 102.0)
    assert len(samples) == 20 and len({s.at for s in samples}) == 20
    assert all(100 < s.at <= 102 and 0 < (s.power_w or 0) < 700 for s in samples)


def test_the_dashboard_opens_ten_thousand_trials_and_writes_nothing(big: BigStudy) -> None:
    file = Path(big.url.removeprefix("sqlite:///"))
    before = dashboard._content(file)
    command = [sys.executable, "-m", "tui.bench", big.url, NAME, "lam", "--amount", "2"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert run.returncode == 0, run.stderr
    first, second = (json.loads(line) for line in run.stdout.splitlines())
    assert first["trials"] == 10_000 and len(second["turn_ms"]) == 2
    assert dashboard._content(file) == before


@pytest.mark.slow
def test_the_command_prints_every_figure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("OPENINGS", 1), ("TURNS", 2), ("WATCH_SECONDS", 0.5), ("ROUNDS", 1), ("ROUND_SECONDS", 0.3)):
        monkeypatch.setattr(dashboard, name, value)
    assert qslm_opt(("bench", "--dashboard", "--trials", "50", "--json")) == 0
    found = json.loads(capsys.readouterr().out)["dashboard"]
    assert found["trials"] == 50 and found["gpus"] == 8
    assert found["writes"] == 0 and found["lock_errors"] == 0
    for key in ("open_seconds", "open_cpu_seconds", "textual_seconds", "turn_ms", "cpu_share", "writer_ms"):
        assert found[key] > 0, key
