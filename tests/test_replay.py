"""Whole studies with everything that saves work on and off: the same search, decision by decision."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from qslm_opt.evaluate.engine import Engine  # noqa: E402
from qslm_opt.pipeline import Session  # noqa: E402
from qslm_opt.search.driver import create_study, run_study  # noqa: E402
from qslm_opt.spec import StudySpec  # noqa: E402
from qslm_opt.store import Repository  # noqa: E402
from tests.search.toy import Recorder  # noqa: E402

SPECS = {
    "demo": {"max_increase": "8%", "memory_budget": "11%", "limit": 10, "precisions": [6, 4, 3, 2]},
    "demo-classify": {"max_drop": 0.0, "memory_budget": "12%", "limit": 200, "precisions": [5, 3, 2]},
}


class Thorough(Session):
    """A session that keeps nothing, computes in the given order, and never ends a run early."""

    saves = 0

    def run(self, setting, *, parent=None, bound=None, report=None, meter=None):
        """Evaluate the whole data; what the search would have stopped is only counted."""

        def heard(progress):
            self.saves += bool(report and report(progress))
            return False

        return super().run(setting, parent=None, bound=bound, report=heard, meter=meter)


def session_of(spec: StudySpec, thorough: bool) -> Session:
    session = (Thorough if thorough else Session).open(spec)
    session.engine = Engine(
        session.model, session.hierarchy, session.data, device="cpu", batch=spec.window_batch,
        prefix_bytes=0 if thorough else None, reorder=not thorough,
    )  # fmt: skip
    return session


def study_of(task: str, url: str, thorough: bool):
    """Run a study; return its session, what was decided of each setting in order, and its result."""
    spec = StudySpec.from_mapping(
        {"name": task, "model": "demo", "task": task, "device": "cpu", "sensitivity_precisions": [3],
         "window_batch": 1 if task == "demo" else 25, **SPECS[task]}
    )  # fmt: skip
    session = session_of(spec, thorough)
    create_study(spec, url, session)
    summary = run_study(task, url, session, listener=Recorder())
    with Repository(url) as repository:
        trials = repository.trials(task)
    decisions = [
        (t.tier, t.unit, t.bits, t.digest, t.bytes, t.feasible, t.slack["metric"] <= 0) for t in trials
    ]
    values = {t.digest: t.value for t in trials if t.feasible}
    return session, trials, decisions, values, (summary.best.digest, summary.order, summary.candidates)


@pytest.mark.parametrize("task", SPECS)
def test_a_study_that_saves_work_decides_as_one_that_saves_none(task: str, tmp_path: Path) -> None:
    _, quick, decisions, values, result = study_of(task, f"sqlite:///{tmp_path}/quick.db", False)
    session, slow, all_decisions, all_values, full_result = study_of(
        task, f"sqlite:///{tmp_path}/full.db", True
    )
    assert decisions == all_decisions
    assert values == all_values
    assert result == full_result
    assert session.saves > 0  # something was there to stop
    stopped = [t for t in quick if t.state == "pruned" and t.used]
    assert stopped
    assert all(t.used < session.data.n for t in stopped)
    assert sum(t.used for t in quick) < sum(t.used for t in slow)
