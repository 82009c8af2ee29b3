"""A few hundred mutated inputs of each kind, always the same ones; ``run.py`` tries as many as one likes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz import run
from tests.fuzz.targets import TARGETS, Target

ROOT = Path(__file__).resolve().parents[2]
COUNTS = {"study-file": 60, "pth-legacy": 120}


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_a_mutated_input_is_used_or_refused_with_a_sentence(target: str) -> None:
    count = COUNTS.get(target, 250)
    report = run.fuzz(target, seed=20261123, first=0, count=count)
    assert report.crashes == []
    assert report.used + report.refused == report.tried == count
    assert report.refused > count / 2  # the mutations do something
    assert report.used > 0  # and what is used shows that the input is valid before them


def test_an_input_depends_on_its_number_alone() -> None:
    for target in TARGETS:
        assert run.input_of(target, 1, 7) == run.input_of(target, 1, 7)
        assert len({run.input_of(target, 1, n) for n in range(30)}) > 20


def test_what_is_no_qslm_error_is_counted_as_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(data: bytes, folder: Path) -> None:
        (folder / "left").write_bytes(data)
        raise ValueError("something else")

    def hang(data: bytes, folder: Path) -> None:
        while True:
            pass

    monkeypatch.setattr(run, "HANG_SECONDS", 0.2)
    for use, words in ((fail, "ValueError: something else"), (hang, "HangError: more than 0.2 s")):
        monkeypatch.setitem(TARGETS, "bad", Target(lambda random: b"x", use))
        assert run.fuzz("bad", 0, 3, 2).crashes == [(3, words), (4, words)]


def test_the_command_prints_target_inputs_and_crashes() -> None:
    words = [sys.executable, "tests/fuzz/run.py", "--count", "20", "--target", "setting-json", "--json"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["schema"] == 1
    (row,) = found["targets"]
    assert (row["target"], row["inputs"], row["crashes"]) == ("setting-json", 20, 0)
