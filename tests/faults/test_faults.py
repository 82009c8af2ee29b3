"""A few random faults on real processes; ``python -m tests.faults.run`` strikes hundreds of times."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, and stops processes")

ROOT = Path(__file__).resolve().parents[2]


FAULTS = ["kill -9 (", "power cut (files", "power cut, log torn", "full disk", "GPU fell off", "suspended"]
"""One of each way to die; the signals and the rest are struck in tests/search."""


@pytest.mark.slow
def test_a_fault_costs_the_running_trial_at_most_and_changes_nothing():
    only = [word for name in FAULTS for word in ("--only", name)]
    words = ["--points", str(len(FAULTS)), "--seed", "5", "--json", *only]
    run = subprocess.run(
        [sys.executable, "-m", "tests.faults.run", *words],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    report = json.loads(run.stdout)
    assert len(report["faults"]) == len(FAULTS)
    for row in report["faults"]:
        assert row["injected"] == 1
        assert row["equal"]
        if "torn" not in row["fault"]:  # a disk that lies about what it has written may lose more
            assert row["trials_lost_at_most"] <= 1, row
