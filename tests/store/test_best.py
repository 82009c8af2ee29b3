"""The best trial of a study by one query is the one that ranking all trials finds."""

from __future__ import annotations

from pathlib import Path

import pytest

from qslm_opt.results import Metric
from qslm_opt.store import Repository
from tests.store.fake_study import FakeStudy


@pytest.mark.parametrize("metric", ["accuracy", "perplexity"])
def test_the_best_is_feasible_and_has_the_best_score(tmp_path: Path, metric: Metric) -> None:
    study = FakeStudy(tmp_path / "q.db", metric=metric)
    with Repository(study.url, read_only=True) as repository:
        assert repository.best("s") is None
        values = (0.80, 0.90, 0.95, 0.99)
        study.trial(values[0], 5000)
        middle = study.trial(values[1], 6000)
        study.trial(values[2], 6000, metric_slack=0.1)
        study.trial(values[3], 11_000)
        study.trial(None, state="running")
        found = repository.best("s")
        assert found is not None
        assert found.number == (middle if metric == "accuracy" else 0)
        assert found == repository.trials("s")[found.number]
        repository_rows = repository.study("s")
    with Repository(study.url) as writer:
        writer.set_extra(repository_rows.uuid, [found.digest])
        without = writer.best("s")
    assert without is None or without.digest != found.digest
