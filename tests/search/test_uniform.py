"""Both constraints against each other after the global tier."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qslm_opt.results import TrialRecord
from qslm_opt.search.driver import create_study, run_study
from qslm_opt.search.uniform import uniform_gap
from tests.search.toy import Recorder, spec, toy


def uniform(bits: float, size: int, metric: float, memory: float, **changes: object) -> TrialRecord:
    found = TrialRecord(
        int(bits), "u", "complete", "global", "network", bits, "{}", str(bits), 20.0, size, 100,
        {"metric": metric, "memory": memory}, used=10,
    )  # fmt: skip
    return replace(found, **changes)  # type: ignore[arg-type]


OVER, FITS = uniform(6, 60, -0.1, 0.2), uniform(4, 40, 0.031, -0.2)
UNRUN = uniform(8, 80, 0.0, 0.6, state="pruned", value=None, used=0)


@pytest.mark.parametrize(
    ("trials", "said"),
    [
        ([UNRUN, OVER, FITS],
         "6 bits keep the metric and are 20 % over the budget, 4 bits fit and miss the metric by 3.1 %"),
        ([OVER, uniform(5, 50, -0.01, 0.1), FITS], "5 bits keep the metric and are 10 % over"),
        ([OVER, replace(FITS, value=None, state="pruned")], "4 bits fit and miss the metric by at least 3.1"),
        ([FITS, uniform(3, 30, 0.4, -0.4)], "none that was measured keeps the metric, 4 bits fit"),
    ],
)  # fmt: skip
def test_what_comes_closest_on_either_side_is_said(trials: list[TrialRecord], said: str) -> None:
    found = uniform_gap(trials)
    assert found.startswith("no uniform setting meets both constraints: ")
    assert said in found


def test_nothing_is_said_where_one_meets_both_or_none_was_tried() -> None:
    assert uniform_gap([OVER, FITS, uniform(5, 50, -0.1, -0.1)]) == ""
    assert uniform_gap([replace(OVER, tier="block")]) == ""


@pytest.mark.parametrize(("increase", "told"), [("20%", 1), ("300%", 0)])
def test_the_search_says_it_once_before_the_block_tier(tmp_path, increase: str, told: int) -> None:
    study = spec(max_increase=increase, memory_budget="16%", precisions=(8, 4, 3, 2),
                 sensitivity_precisions=(4,))  # fmt: skip
    url, listener = f"sqlite:///{tmp_path}/toy.db", Recorder()
    create_study(study, url, toy(study))
    run_study("toy", url, toy(study), listener=listener)
    said = [line for line in listener.lines if line.startswith("no uniform setting meets both")]
    assert len(said) == told
