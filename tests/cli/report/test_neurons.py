"""The page says at how many time steps, and how often neurons fire before and after."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("matplotlib", reason="pip install matplotlib")

from qslm_opt.cli.report.data import Report
from qslm_opt.cli.report.neurons import by_site, overall
from qslm_opt.cli.report.page import page
from tests.cli.report.material import report_of
from tests.tui.fakes import Study


def spiking(**more: Any) -> Report:
    """Return the report of a study at T = 4 that fires at 0.531 before and at 0.535 after."""
    study = Study("s", "accuracy").fill(running=False)
    assert study.baseline is not None
    study.spec = replace(study.spec, timesteps=4)
    evaluation = {"firing_rate": 0.531, "rates": {"attention.0/q": 0.25, "attention.1/q": 0.5}}
    study.baseline = replace(study.baseline, evaluation=evaluation)
    study.trials = [replace(t, firing_rate=0.535 if t.feasible else 0.9) for t in study.trials]
    rates = {"attention.0/q": 0.3, "attention.1/q": 0.49}
    return report_of(study, chosen_run={"rates": rates, "dtype": "fp32"}, **more)


def cells(html: str) -> list[list[str]]:
    """Return the text of the cells, row by row."""
    rows = re.findall(r"<tr>(.*?)</tr>", html)
    return [re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", row) for row in rows]


def test_the_time_steps_and_both_rates_stand_beside_the_result() -> None:
    report = spiking()
    rows = cells(overall(report))
    assert ["time steps T", "4", "4", ""] in rows
    assert ["firing rate, spikes per neuron and step", "0.531", "0.535", "+0.75 %"] in rows
    assert overall(report) in page(report, {})
    assert "on task sst2, 4 time steps; the study is" in page(report, {})


def test_every_site_has_its_rates_where_they_are_stored() -> None:
    report = spiking()
    assert cells(by_site(report))[1:] == [
        ["attention.0/q", "0.250", "0.300", "+20.00 %"], ["attention.1/q", "0.500", "0.490", "-2.00 %"]
    ]  # fmt: skip
    assert by_site(report) in page(report, {})
    bare = replace(report, chosen_run=None)
    assert cells(by_site(bare))[1] == ["attention.0/q", "0.250", "n/a", "n/a"]


def test_the_numbers_of_the_page_have_them_too() -> None:
    found = spiking().to_json()["neurons"]
    assert found["timesteps"] == 4 and found["rate"] == {"before": 0.531, "after": 0.535}
    assert found["sites"]["attention.0/q"] == {"before": 0.25, "after": 0.3}


def test_a_model_without_time_steps_and_rates_has_no_such_table() -> None:
    report = report_of(Study("s", "accuracy").fill(running=False))
    assert overall(report) == by_site(report) == ""
    assert "time steps" not in page(report, {})
