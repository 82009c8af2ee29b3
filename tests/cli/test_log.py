from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from qslm_opt.cli.log import KEPT, LOG_KEY, RotatingLog

ROOT = Path(__file__).resolve().parents[2]


def test_a_log_and_its_older_files_stay_within_their_size(tmp_path: Path) -> None:
    path = tmp_path / "s.log"
    lines = [f"line {number} λ\n" for number in range(200)]
    with RotatingLog(path, most=100) as log:
        for line in lines:
            assert log.write(line) == len(line)
    files = [path, *(Path(f"{path}.{number}") for number in range(1, KEPT + 1))]
    assert sorted(tmp_path.iterdir()) == sorted(files)
    assert all(0 < file.stat().st_size <= 100 for file in files)
    text = "".join(file.read_text("utf-8") for file in reversed(files))
    assert "".join(lines).endswith(text)


def test_a_line_longer_than_the_limit_is_not_cut(tmp_path: Path) -> None:
    with RotatingLog(tmp_path / "s.log", most=10) as log:
        log.write("x" * 50)
        log.write("y")
    assert (tmp_path / "s.log.1").read_text() == "x" * 50
    assert (tmp_path / "s.log").read_text() == "y"


def test_a_command_writes_to_the_log_that_its_environment_names(tmp_path: Path) -> None:
    path, url = tmp_path / "s.log", f"sqlite:///{tmp_path}/x.db"
    words = [sys.executable, "-m", "qslm_opt", "study", "show", "s", "--storage", url]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, env={**os.environ, LOG_KEY: str(path)})
    assert (done.returncode, done.stdout, done.stderr) == (3, b"", b"")
    assert path.read_text().startswith("error: storage")
