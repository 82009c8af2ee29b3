"""What ``storage_cost`` reports hangs together; how fast it is depends on the machine and is not tested."""

from __future__ import annotations

import subprocess
import sys

import pytest

from qslm_opt.bench import storage
from qslm_opt.bench.storage import storage_cost
from qslm_opt.search.space import SearchSpace
from qslm_opt.search.tiers import Verdict
from qslm_opt.search.walk import Walk

TRIALS = 60


@pytest.fixture(scope="module")
def measured():
    return storage_cost(TRIALS)


def test_the_figures_are_of_the_trials_that_were_asked_for_and_fit_the_whole_time(measured):
    assert measured.trials == TRIALS
    assert measured.ms_median_last > 0
    assert measured.optuna_ms_median > 0
    assert measured.ms_mean * (TRIALS - 1) / 1e3 < measured.seconds
    assert measured.optuna_ms_median * (TRIALS - 1) / 2 / 1e3 < measured.seconds


def test_one_trial_has_no_interval():
    with pytest.raises(ValueError, match="give at least 2"):
        storage_cost(1)


@pytest.mark.parametrize("trials", [2, 60, 400])
def test_the_synthetic_search_has_more_trials_than_are_measured_and_visits_every_tier(trials):
    session = storage.session_for(trials)
    space = SearchSpace.of(session.spec, session.hierarchy)
    walk, verdicts = Walk(space), {}
    while (proposal := next(walk.proposals(verdicts), None)) is not None:
        evaluation, _ = session.run(space.setting_of(proposal.levels, proposal.fixed))
        ok = evaluation.loss < 1.05
        verdicts[proposal.digest] = Verdict(ok, True, evaluation.value, evaluation.loss)
    assert len(walk.steps) >= trials
    assert {step.proposal.tier for step in walk.steps} == {"sensitivity", "global", "block", "module"}


def test_it_needs_no_torch():
    code = "import sys, qslm_opt.bench.storage; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
