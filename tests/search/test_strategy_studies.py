"""Strategies in a storage: cheap trials are never results, and a stop, workers and seeds change nothing."""

from __future__ import annotations

import threading
from functools import partial

import optuna
import pytest
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    RelativeSamplerTestCase,
    SingleOnlySamplerTestCase,
)

from qslm_opt.rank import closest, rank
from qslm_opt.search.comparison import entry_of, means, searches
from qslm_opt.search.driver import create_study, run_study
from qslm_opt.search.sampler import TieredSampler
from qslm_opt.search.space import SearchSpace
from qslm_opt.search.strategies import Strategy
from qslm_opt.store import Repository
from tests.search.toy import Recorder, hierarchy, spec, toy

KNAPSACK = spec(strategy="knapsack", max_increase="60%", memory_budget="17%")
SPACE = SearchSpace.of(spec(memory_budget="17%"), hierarchy())


class TestAStrategyOnAStudyOfSomebodyElse(
    BasicSamplerTestCase, RelativeSamplerTestCase, SingleOnlySamplerTestCase
):
    @pytest.fixture
    def sampler(self):
        return partial(TieredSampler, SPACE, strategy=Strategy("knapsack", KNAPSACK.tiers))


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/toy.db"


def run(url, study, listener=None):
    session = toy(study)
    create_study(study, url, session)
    return run_study(study.name, url, session, listener=listener or Recorder()), session


def read(url, name="toy"):
    with Repository(url) as repository:
        return repository.study(name), repository.trials(name)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    url = f"sqlite:///{tmp_path_factory.mktemp('knapsack')}/toy.db"
    listener = Recorder()
    return url, *run(url, KNAPSACK, listener), listener


def test_cheap_trials_are_stored_as_what_they_are_and_are_no_result(finished):
    url, summary, _, listener = finished
    row, trials = read(url)
    cheap = [t for t in trials if t.cheap]
    assert len(cheap) > 10 and summary.state == "finished"
    assert {t.tier for t in cheap} == {"steps"}
    assert {(t.state, t.value, t.share) for t in cheap} == {("pruned", None, 0.5)}
    assert all(t.loss is not None and t.used == 500 and not t.feasible for t in cheap)
    ranked = {entry.record.number for entry in rank(trials, row.spec.metric, 0.2, feasible_only=False)}
    assert ranked and not ranked & {t.number for t in cheap}
    near = closest([t for t in trials if not t.feasible])
    assert near is None or not near.cheap
    assert [t.share for t in listener.ended] == [t.share for t in trials]
    assert [part["tier"] for part in row.progress] == list(KNAPSACK.tiers)
    assert all(part["done"] == part["total"] for part in row.progress)
    stored = optuna.load_study(study_name="toy", storage=url)
    assert stored.best_trial.number not in {t.number for t in cheap}
    assert {t.params["tier"] for t in stored.trials} <= set(KNAPSACK.tiers)


@pytest.mark.parametrize(
    "study",
    [KNAPSACK, spec(strategy="beam", beam_width=2, max_increase="60%", memory_budget="17%"),
     spec(strategy="nsga2", evaluations=30, max_increase="60%", memory_budget="17%")],
    ids=lambda study: study.strategy,
)  # fmt: skip
def test_a_stop_and_three_threads_give_the_result_of_one_undisturbed_run(study, tmp_path):
    alone, stopped = f"sqlite:///{tmp_path}/a.db", f"sqlite:///{tmp_path}/b.db"
    expected, _ = run(alone, study)

    def stop(record):
        if record.number == 9:
            with Repository(stopped) as repository:
                repository.request_stop(repository.study("toy").uuid)

    first, _ = run(stopped, study, Recorder(on_end=stop))
    assert first.state == "stopped"
    threads = [
        threading.Thread(target=run_study, args=("toy", stopped, toy(study)), kwargs={"listener": Recorder()})
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    summary = run_study("toy", stopped, toy(study), listener=Recorder())
    assert summary.state == expected.state == "finished"
    assert summary.visited == expected.visited
    assert summary.best.digest == expected.best.digest
    assert summary.candidates == expected.candidates


def test_a_gated_study_stores_drifts_and_counts_what_was_postponed_wrongly(url):
    from qslm_opt.cli.facts import StudyFacts

    study = spec(strategy="beam", gate=True, max_increase="60%", memory_budget="30%")
    _, session = run(url, study)
    row, trials = read(url)
    drifts = [t for t in trials if t.tier == "gate"]
    assert session.drifted == len(drifts) > 5
    assert all(t.cheap and t.state == "pruned" and t.share == 0.05 for t in drifts)
    put_off = [t for t in trials if t.tier == "postponed"]
    wrong = sum(t.value is not None and t.slack["metric"] <= 0 for t in put_off)
    facts = StudyFacts(row, trials, 0.2)
    assert facts.gate() == {"evaluated": len(put_off), "false_rejects": wrong}
    assert facts.to_json()["cheap"] == len(drifts)


def test_settings_of_optunas_samplers_are_stored_as_ours_and_violators_of_the_budget_are_not_run(url):
    study = spec(strategy="tpe", evaluations=25, max_increase="60%", memory_budget="17%")
    summary, session = run(url, study)
    row, trials = read(url)
    space = SearchSpace.of(study, row.hierarchy)
    assert len(session.ran) == sum(t.used > 0 for t in trials) <= 25
    assert all(t.used == 0 and t.state == "pruned" for t in trials if t.bytes > row.budget)
    assert {t.tier for t in trials} == {"global", "sampled"}
    assert {t.used for t in trials if t.bytes <= row.budget} == {1000}  # to the end, whatever the bound
    assert summary.best.bytes <= space.budget


def test_a_comparison_counts_full_evaluations_and_their_equivalents(finished):
    url, summary, session, _ = finished
    row, trials = read(url)
    entry = entry_of(row, trials, summary.seconds)
    cheap = sum(t.cheap for t in trials)
    assert (entry.full + entry.cheap, entry.cheap) == (len(session.ran), cheap)
    assert entry.equivalents == entry.full + cheap / 2
    good = [t for t in trials if t.feasible]
    assert entry.bytes == min(t.bytes for t in good)
    assert 0 < entry.hypervolume < 1
    assert entry.seed is None
    (row_,) = means([entry])
    assert row_["bytes"] == {"mean": entry.bytes, "std": None}
    (two,) = means([entry, entry])
    assert two["runs"] == two["feasible"] == 2 and two["bytes"]["std"] == 0


def test_seeds_are_for_what_is_random_and_ours_come_first():
    assert searches(["tpe", "knapsack", "tiered"], 2) == [
        ("knapsack", None), ("tiered", None), ("tpe", 0), ("tpe", 1)
    ]  # fmt: skip
