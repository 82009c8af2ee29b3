from __future__ import annotations

import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest

from qslm_opt.errors import StudyNotFoundError, UsageError
from tests.store.fake_study import FakeStudy
from tests.tui.driving import svg_text
from tests.tui.fakes import START, FakeRepository, Study
from tui.__main__ import main
from tui.snapshot import snapshot


@pytest.fixture
def stored(tmp_path: Path) -> FakeStudy:
    study = FakeStudy(tmp_path / "q.db", name="real")
    study.trial(0.91, 8000, tier="sensitivity", unit="attention.0", bits=8)
    study.trial(0.90, 9000, bits=8)
    study.trial(0.88, 5000, bits=4, power_w=250.0)
    study.trial(0.70, 4000, bits=3, metric_slack=0.18)
    study.trial(None, 20_000, state="pruned", bits=6, metric_slack=0.0)
    study.trial(state="running", tier="block", unit="attention.0", bits=3)
    return study


@pytest.mark.parametrize(
    ("screen", "marks"),
    [
        ("overview", ("Tiers", "over memory")), ("rank", ("7 feasible candidates", "λ 20")),
        ("model", ("Bits of #48",)), ("trials", ("64 trials",)),
        ("power", ("power n/a",)),
    ],
)  # fmt: skip
def test_a_picture_of_each_screen(tmp_path: Path, screen: str, marks: tuple[str, ...]) -> None:
    out = tmp_path / "p.svg"
    repository = FakeRepository(Study().fill())
    snapshot(
        "sqlite:///x.db",
        "opt-14m",
        out,
        (120, 36),
        screen,
        open_source=lambda: repository,
        clock=lambda: START,
    )
    svg = out.read_text("utf-8")
    text = svg_text(svg)
    assert svg.startswith("<svg") and "qslm-opt&#160;opt-14m" in svg
    for mark in ("opt-14m", *marks):
        assert mark in text
    assert len(text.splitlines()) == 36


def test_two_pictures_of_the_same_are_equal_but_for_their_id(tmp_path: Path) -> None:
    texts = []
    for name in "ab":
        repository = FakeRepository(Study().fill())
        snapshot(
            "u",
            "opt-14m",
            tmp_path / name,
            open_source=lambda r=repository: r,
            clock=lambda: START,  # type: ignore[misc]
        )
        texts.append(svg_text((tmp_path / name).read_text("utf-8")))
    assert texts[0] == texts[1]


def test_a_real_storage_is_shown_and_not_written_to(stored: FakeStudy, tmp_path: Path) -> None:
    stored.close()
    file = tmp_path / "q.db"
    before = file.read_bytes()
    out = tmp_path / "p.svg"
    assert main([stored.url, "real", "--snapshot", str(out), "--size", "120x36", "--screen", "trials"]) == 0
    text = svg_text(out.read_text("utf-8"))
    for mark in (
        "real",
        "6 trials",
        "◆#0",
        "88.00 %",
        "● feasible",
        "○ violates",
        "✂ pruned",
        "▶ running",
    ):
        assert mark in text, text
    assert file.read_bytes() == before
    assert main([stored.url, "--snapshot", str(out)]) == 0
    assert "1 study" in svg_text(out.read_text("utf-8"))


def test_what_cannot_be_is_one_line_and_an_exit_code(
    stored: FakeStudy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "p.svg")
    assert main([stored.url, "reel", "--snapshot", out]) == 6
    assert main([f"sqlite:///{tmp_path}/none.db", "real", "--snapshot", out]) == 3
    assert main([stored.url, "real", "--snapshot", out, "--screen", "powr"]) == 2
    assert main([stored.url, "real", "--snapshot", f"{tmp_path}/no/p.svg"]) == 2
    assert main([stored.url, "real"]) == 2, "without a terminal there is no dashboard"
    lines = capsys.readouterr().err.splitlines()
    assert [line.startswith("qslm-opt: ") for line in lines] == [True] * 5
    assert "Did you mean 'real'?" in lines[0] and "needs a terminal" in lines[4]
    for size in ("big", "79x24", "80x23"):
        assert main([stored.url, "--snapshot", out, "--size", size]) == 2
        assert "--size" in capsys.readouterr().err


def test_errors_are_ours(tmp_path: Path) -> None:
    repository = FakeRepository()
    with pytest.raises(StudyNotFoundError):
        snapshot("u", "x", tmp_path / "p.svg", open_source=lambda: repository, clock=datetime.now)
    with pytest.raises(UsageError, match="overview, rank, model, trials, power"):
        snapshot("u", "x", tmp_path / "p.svg", screen="log")


def test_the_dashboard_never_imports_what_runs_models() -> None:
    code = (
        "import sys, tui.app, tui.snapshot, tui.__main__\n"
        "from qslm_opt.store import Repository\n"
        "heavy = ('torch', 'optuna', 'qslm_opt.search', 'qslm_opt.pipeline', 'qslm_opt.models')\n"
        "found = [m for m in sys.modules if m.split('.')[0] in heavy or m.startswith(heavy)]\n"
        "sys.exit(f'imported {found}' if found else 0)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
