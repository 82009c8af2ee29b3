"""The rows of packed weights: joules and their ratios from a meter's windows, nothing without one."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from qslm_opt.bench.packed import PackedRow, PackedSpeeds
from qslm_opt.cli.bench_packed import print_packed


def row(arm: str, load: str = "generation", **keys: list[float]) -> PackedRow:
    return PackedRow(load, 1, arm, 1000, **{"seconds": [0.002, 0.004, 0.003], **keys})


def test_ratios_are_to_the_first_row_of_the_same_load():
    first = row("fp32", joules=[2.0, 4.0], watts=[100.0, 104.0])
    packed = row("packed 3 bits", seconds=[0.001], joules=[4.5], watts=[150.0])
    other = row("fp32", "evaluation", seconds=[1.0])
    found = PackedSpeeds((first, packed, other), "nvml", None).to_json()["rows"]
    assert found[0]["ms_per_token"] == 3.0
    assert (found[0]["ms_low"], found[0]["ms_high"]) == (2.0, 4.0)
    assert found[1]["speedup"] == 3.0
    assert found[1]["energy_ratio"] == 1.5
    assert found[1]["token_j_std"] is None
    assert found[0]["token_j_std"] == pytest.approx(2**0.5)
    assert found[2]["speedup"] == 1.0
    assert found[2]["energy_ratio"] is None


def test_more_energy_is_marked_and_a_missing_meter_is_said(capsys):
    rows = [
        row("fp32", joules=[2.0, 2.0]), row("packed 3 bits", joules=[3.0, 3.0]),
        row("packed 2 bits", joules=[1.0, 1.0]), row("fp32", "evaluation"),
    ]  # fmt: skip
    print_packed(PackedSpeeds(tuple(rows), "null", "no counter here").to_json())
    out = capsys.readouterr().out
    assert "1.50 (more)" in out
    assert "0.50 (more)" not in out
    assert "power n/a: no counter here" in out
    print_packed({"note": "no head"})
    assert "packed weights: n/a: no head" in capsys.readouterr().out
