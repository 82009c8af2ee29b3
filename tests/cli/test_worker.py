"""``qslm-opt worker``: joining a study that another process created."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qslm_opt.cli import worker
from qslm_opt.cli.main import run
from qslm_opt.search.driver import create_study
from qslm_opt.store import Repository
from tests.cli.fake_session import FakeSession
from tests.store.fake_study import spec_of

Open = Callable[[Any], FakeSession]


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    url = f"sqlite:///{tmp_path}/q.db"
    study = spec_of("s")
    create_study(study, url, FakeSession(study))
    return url


def opening(monkeypatch: pytest.MonkeyPatch, make: Open = FakeSession) -> list[FakeSession]:
    """Let the command open sessions without a model; return those that it opens."""
    opened: list[FakeSession] = []

    def open_session(spec: Any) -> FakeSession:
        opened.append(make(spec))
        return opened[-1]

    monkeypatch.setattr(worker, "open_session", open_session)
    return opened


def join(url: str, *words: str) -> int:
    return run(["worker", "--study", "s", "--storage", url, "--progress", "none", *words])


def test_it_works_on_the_study_to_its_end_and_prints_no_result(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = opening(monkeypatch)
    assert join(url) == 0
    with Repository(url) as repository:
        row = repository.study("s")
    assert row.state == "finished"
    out, err = capsys.readouterr()
    assert out == ""
    assert f"study 's' is finished after {opened[0].runs} evaluations by all its workers" in err
    assert join(url) == 0
    assert len(opened) == 1
    assert "has ended, nothing is left to run" in capsys.readouterr().err


def test_it_takes_model_and_data_from_where_they_are_here(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = opening(monkeypatch)
    (tmp_path / "weights").mkdir()
    assert join(url, "--model", "weights", "--data", str(tmp_path), "--device", "cpu") == 0
    spec = opened[0].spec
    assert (spec.model, spec.data, spec.device) == (str(tmp_path / "weights"), str(tmp_path), "cpu")


@pytest.mark.parametrize("part", ["weights", "data", "spec", "code"])
def test_it_is_refused_with_what_differs(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], part: str
) -> None:
    class Other(FakeSession):
        def fingerprint(self) -> dict[str, str]:
            return {**super().fingerprint(), part: "f" * 64}

    opened = opening(monkeypatch, Other)
    assert join(url) == 3
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"study 's' was created with another {part} " in error
    assert error.count("→") == 1
    assert opened[0].runs == 0
    with Repository(url) as repository:
        assert repository.study("s").counts["complete"] == 0


def test_one_that_leaves_says_how_to_go_on(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opening(monkeypatch, lambda spec: FakeSession(spec, interrupt_after=2))
    assert join(url) == 130
    assert "interrupted; what was finished is stored" in capsys.readouterr().err
    opening(monkeypatch)
    assert join(url) == 0


def test_an_unknown_study_is_named(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["worker", "--study", "t", "--storage", url]) == 6
