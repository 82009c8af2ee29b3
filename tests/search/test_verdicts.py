"""What trials say, whatever the order they are read in."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest

from qslm_opt.search.tiers import Verdict
from qslm_opt.search.verdicts import VerdictTable, read

GOOD = {"metric": -0.1, "memory": -0.2}
MEASURED = read({"digest": "d", "value": 3.0, "loss": 1.1}, GOOD, "complete")
AGAIN = read({"digest": "d", "value": 3.1, "loss": 1.2}, GOOD, "complete")
STOPPED = read({"digest": "d", "loss": 4.0}, {"metric": 0.3, "memory": -0.2}, "pruned")
NO_RUN = read({"digest": "d"}, {"metric": 0.0, "memory": 0.4}, "pruned")
FAILED = read({"digest": "d", "reason": "NumericsError: nan"}, {}, "failed")
CUT_OFF = read({"digest": "d", "reason": "stale: its process is gone"}, {}, "failed")


def table(*readings) -> VerdictTable:
    made = VerdictTable()
    for number, reading in readings:
        made.add(number, reading)
    return made


def test_each_kind_of_trial_has_its_verdict():
    assert MEASURED.verdict == Verdict(True, True, 3.0, 1.1, slack=-0.1)
    assert STOPPED.verdict == Verdict(False, True, None, 4.0)
    assert NO_RUN.verdict == Verdict(None, False)
    assert (FAILED.verdict, FAILED.blame) == (None, True)
    assert (CUT_OFF.verdict, CUT_OFF.blame) == (None, False)


@pytest.mark.parametrize("attrs", [{}, {"digest": ""}, {"digest": 3}])
def test_a_trial_of_somebody_else_says_nothing(attrs):
    assert read(attrs, GOOD, "complete") is None


@pytest.mark.parametrize(
    ("attrs", "constraints"), [({"digest": "d"}, GOOD), ({"digest": "d", "value": 1.0}, {})]
)
def test_a_complete_trial_without_value_or_constraints_counts_as_failed(attrs, constraints):
    assert read(attrs, constraints, "complete").blame


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_the_strongest_and_first_trial_decides_in_any_order_of_arrival(order):
    trials = [(7, NO_RUN), (8, STOPPED), (9, MEASURED), (10, AGAIN)]
    assert table(*(trials[i] for i in order)).verdicts == {"d": MEASURED.verdict}


def test_three_failures_condemn_and_a_measurement_acquits():
    three = [(1, FAILED), (2, FAILED), (3, CUT_OFF), (4, FAILED)]
    assert table(*three[:3]).verdicts == {}
    assert table(*three).verdicts == {"d": Verdict(False, True, failed=True)}
    assert table(*three, (5, MEASURED)).verdicts == {"d": MEASURED.verdict}
    assert table((5, MEASURED), *three).verdicts == {"d": MEASURED.verdict}


def test_the_revision_moves_only_when_a_known_verdict_changes():
    made = table((1, NO_RUN), (1, NO_RUN), (2, NO_RUN))
    assert made.revision == 0
    made.add(3, MEASURED)
    assert made.revision == 1


def test_the_pure_half_of_the_search_imports_neither_optuna_nor_torch():
    code = (
        "import sys, qslm_opt.search.verdicts, qslm_opt.search.summary;"
        "print([m for m in ('optuna', 'torch', 'sqlalchemy') if m in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "[]\n"
    )
