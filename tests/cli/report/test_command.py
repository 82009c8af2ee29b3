"""``study report`` from the command line: files, exit codes, storages of every kind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("matplotlib", reason="pip install matplotlib")

from qslm_opt.cli import study_report
from qslm_opt.cli.main import run
from qslm_opt.cli.report import write
from tests.cli.report.material import Page
from tests.store.fake_study import FakeStudy, url_of

FILES = Path(__file__).resolve().parents[2] / "store" / "files"


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeStudy:
    study = FakeStudy(tmp_path / "q.db")
    monkeypatch.setenv("QSLM_OPT_STORAGE", study.url)
    monkeypatch.chdir(tmp_path)
    study.trial(0.89, 30_000, tier="sensitivity", unit="attention.0", bits=8)
    study.trial(0.885, 9_000, bits=8)
    study.trial(0.86, 5_000, bits=4)
    study.trial(0.70, 3_000, bits=3, metric_slack=0.17)
    return study


def test_the_page_and_the_pictures_lie_beside_each_other(
    study: FakeStudy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["study", "report", "s", "--json", "--lambda", "0"]) == 0
    said = capsys.readouterr()
    value = json.loads(said.out)
    assert value["schema"] == 1
    assert value["files"][0] == "s-report.html"
    assert "wrote s-report.html, and" in said.err
    pictures = sorted(p.name for p in (tmp_path / "s-report-figures").iterdir())
    assert pictures == ["bits.png", "bytes.png", "plane.png", "sensitivity.png", "uniform.png"]
    assert all((tmp_path / "s-report-figures" / name).read_bytes()[:4] == b"\x89PNG" for name in pictures)
    found = Page((tmp_path / "s-report.html").read_text("utf-8"))
    assert value["report"]["choice"]["trial"] == 1
    assert json.loads(found.texts["script"])["choice"]["trial"] == 1
    assert "qslm-opt model pack demo --study s --lambda 0.0 --output s-packed" in found.texts["code"]
    assert "qslm-opt study export s --lambda 0.0 --output s.json" in found.texts["code"]
    assert "qslm-opt model evaluate demo --task demo-classify --setting s.json" in found.texts["code"]


def test_the_user_chooses_where_and_can_see_it_at_once(
    study: FakeStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(write, "FIGURES", {"plane": write.FIGURES["plane"]})
    monkeypatch.setattr("webbrowser.open", lambda url: bool(opened.append(url)))
    words = ["study", "report", "s", "--output", "a.html", "--figures", "deep/er", "--open"]
    assert run(words) == 0
    assert (tmp_path / "deep/er/plane.png").exists()
    assert opened == [(tmp_path / "a.html").as_uri()]
    assert "open a.html yourself" in capsys.readouterr().err


def test_an_unknown_study_and_a_path_that_cannot_be_are_said_in_one_line(
    study: FakeStudy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["study", "report", "t"]) == 6
    assert run(["study", "report", "s", "--output", "no/such/folder.html"]) == 2
    (tmp_path / "file").write_text("")
    assert run(["study", "report", "s", "--figures", "file"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert "--output 'no/such/folder.html' cannot be written" in lines[1]
    assert "--figures 'file' cannot be written" in lines[2]


@pytest.mark.parametrize("path", sorted(FILES.glob("schema*.db")), ids=lambda path: path.stem)
def test_a_study_of_any_release_is_reported(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "FIGURES", {"uniform": write.FIGURES["uniform"]})
    from qslm_opt.cli.options import reading

    copy = tmp_path / "q.db"
    shutil.copyfile(path, copy)
    with reading(url_of(copy)) as repository:
        name = repository.names()[0]
    out = tmp_path / "r.html"
    assert run(["study", "report", name, "--storage", url_of(copy), "--output", str(out)]) == 0
    assert Page(out.read_text("utf-8")).all("svg")


def test_a_study_behind_a_proxy_is_reported(
    study: FakeStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "FIGURES", {})
    pytest.importorskip("grpc", reason="pip install 'qslm-opt[grpc]'")
    from qslm_opt.search.proxy import make_server

    server, port, close = make_server(study.url, "127.0.0.1", 0)
    server.start()
    pages = []
    for url in (f"grpc://127.0.0.1:{port}", study.url):
        assert run(["study", "report", "s", "--storage", url, "--output", "r.html"]) == 0
        pages.append(Page((tmp_path / "r.html").read_text("utf-8")).texts["script"])
    server.stop(grace=None).wait()
    close()
    assert pages[0] == pages[1]


def test_importing_the_command_loads_no_matplotlib() -> None:
    import subprocess
    import sys

    code = (
        "import sys, qslm_opt.cli.main, qslm_opt.cli.study_report, qslm_opt.cli.report.write\n"
        "print([name for name in ('matplotlib', 'numpy', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
    assert study_report.report.__doc__
