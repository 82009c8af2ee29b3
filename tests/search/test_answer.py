"""Other targets answered from stored trials: exactly what a search would say, or why it cannot be said."""

from __future__ import annotations

import dataclasses
from math import exp
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qslm_opt.errors import FingerprintError, InfeasibleError, SpecError, UsageError
from qslm_opt.evaluate.bounds import MetricBound
from qslm_opt.rank import score
from qslm_opt.results import Baseline, TrialRecord
from qslm_opt.search.answer import answer, kind_of
from qslm_opt.search.driver import create_study, run_study
from qslm_opt.search.reuse import check_source, reuse
from qslm_opt.search.space import SearchSpace
from qslm_opt.search.targets import judged, require_baseline, require_same_evaluations, retarget
from qslm_opt.search.tiers import Verdict
from qslm_opt.search.walk import Walk
from qslm_opt.setting import QuantSetting
from qslm_opt.store import Repository
from tests.search.toy import Recorder, spec, toy

STUDY = spec(max_increase="40%", memory_budget="16%", precisions=(8, 4, 3, 2), sensitivity_precisions=(4,))
ACCURACY = Baseline("accuracy", 0.9, 1000, 900, 0.0, 4)
PERPLEXITY = Baseline("perplexity", 20.0, 1000, None, 2995.7, 4)


def accuracy(**bound: float) -> MetricBound:
    made = spec(task="demo-classify", max_increase=None, **bound)
    return MetricBound.of(made, ACCURACY)


def perplexity(**bound: object) -> MetricBound:
    return MetricBound.of(spec(**{"max_increase": None, **bound}), PERPLEXITY)


@given(st.integers(0, 1000), st.floats(0, 0.5), st.floats(0, 0.5))
def test_the_best_case_of_a_stopped_accuracy_is_known_from_its_slack(right, drop, other):
    old, new = accuracy(max_drop=drop), accuracy(max_drop=other)
    best = right / 1000
    if not old.certain(best):
        return
    assert old.value_at(old.slack(best)) == best
    trial = stopped(old.slack(best))
    assert (judged(trial, old, new, 10) is not None) == new.certain(best)


@given(st.floats(20, 1e5), st.floats(20, 200), st.floats(20, 200))
def test_the_best_case_of_a_stopped_perplexity_is_known_from_its_slack(best, limit, other):
    old, new = perplexity(max_perplexity=limit), perplexity(max_perplexity=other)
    if not old.certain(best):
        return
    assert old.value_at(old.slack(best)) == pytest.approx(best, rel=1e-12)
    if abs(best / other - 1) > 1e-6:
        assert (judged(stopped(old.slack(best)), old, new, 10) is not None) == (best > other)


def stopped(slack: float) -> TrialRecord:
    return TrialRecord(3, "u", "pruned", "global", "network", 4, "{}", "d", None, 12, 100,
                       {"metric": slack, "memory": -0.5}, used=100)  # fmt: skip


def test_what_was_not_run_is_open_and_what_was_measured_is_known():
    old, new = perplexity(max_perplexity=30.0), perplexity(max_perplexity=25.0)
    unrun = dataclasses.replace(stopped(0.0), used=0, slack={"metric": 0.0, "memory": 0.2})
    assert judged(unrun, old, new, 10) is None
    whole = dataclasses.replace(stopped(0.0), state="complete", value=24.0, extra=True)
    found = judged(whole, old, new, 16)
    assert found.slack == {"metric": pytest.approx(-0.04), "memory": -0.25}
    assert found.feasible


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished study, some of whose trials were stopped early: (url, row, trials). Not to be written to."""
    url = f"sqlite:///{tmp_path_factory.mktemp('answer')}/toy.db"
    session = toy(STUDY)
    session.steps = 200
    create_study(STUDY, url, session)
    run_study("toy", url, session, listener=Recorder())
    with Repository(url) as repository:
        trials = repository.trials("toy")
        assert any(t.state == "pruned" and t.used for t in trials)
        return url, repository.study("toy"), trials


def said(finished, **targets):
    _, row, trials = finished
    made = retarget(row.spec, targets)
    return made, answer(made, row.spec, row.hierarchy, row.baseline, trials)


def searched(tmp_path, made, name="new"):
    """What a search for the targets finds: (summary, session)."""
    url, session = f"sqlite:///{tmp_path}/{name}.db", toy(made)
    create_study(made, url, session)
    return run_study(made.name, url, session, listener=Recorder()), session


def test_a_finished_study_answers_its_own_targets(finished):
    made, found = said(finished)
    assert made == STUDY
    assert (found.proven, kind_of(found), found.replay.at_most) == (True, "proven", 0)
    with Repository(finished[0]) as repository:
        assert found.best.record.number == repository.best("toy").number


TARGETS = st.fixed_dictionaries(
    {},
    optional={
        "max_increase": st.sampled_from(["10%", "20%", "30%", "39%", "40%", "45%", "60%", "200%", "0"]),
        "memory_budget": st.sampled_from(["13.5%", "14%", "15%", "16%", "18%", "22%", "40%", "100%"]),
        "lam": st.sampled_from([0.0, 0.5, 3.0]),
    },
)


def walked(made, tree, bound):
    """A whole search without a storage: (its choice as (score, bytes, digest) or None, digests that ran)."""
    space, loss_of = SearchSpace.of(made, tree), toy(made).loss_of
    walk, verdicts, ran = Walk(space), {}, set()
    while (proposal := next(walk.proposals(verdicts), None)) is not None:
        verdict = Verdict(None, False)
        if proposal.run:
            loss = loss_of(space.setting_of(proposal.levels, proposal.fixed))
            verdict = Verdict(bound.slack(exp(loss)) <= 0, proposal.memory_ok, exp(loss), loss)
            ran.add(proposal.digest)
        verdicts[proposal.digest] = verdict
    found = []
    for step in walk.candidates:
        size = step.proposal.bytes
        at = score("perplexity", step.verdict.value, size / space.fp32_bytes, made.lam)
        found.append((at, size, step.proposal.digest))
    return min(found, key=lambda entry: entry[:2], default=None), ran


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TARGETS)
def test_an_answer_is_what_a_search_gives_wherever_it_says_so(finished, targets):
    made, found = said(finished, **targets)
    chosen, ran = walked(made, finished[1].hierarchy, found.bound)
    if found.replay.done:
        best = found.replay.best
        assert (chosen and chosen[2]) == (best and best.record.digest)
    if found.proven:
        assert (chosen and chosen[0]) == (found.best and found.best.score)
    old = MetricBound.of(STUDY, finished[1].baseline)
    known = {t.digest for t in finished[2] if judged(t, old, found.bound, found.budget) is not None}
    if not found.replay.done:
        assert 0 < len(ran - known) <= found.replay.at_most
        assert found.replay.step.bytes > 0
    else:
        assert ran <= known
    for entry in found.ranked:
        assert entry.record.bytes <= found.budget
        assert entry.record.value <= found.bound.value


def test_another_lambda_is_always_proven(finished):
    for lam in (0.0, 0.3, 20.0):
        _, found = said(finished, lam=lam)
        assert found.proven


def test_a_looser_bound_names_the_first_setting_that_a_search_would_need(finished):
    _, found = said(finished, max_increase="400%")
    assert kind_of(found) == "open"
    step = found.replay.step
    trial = next(t for t in finished[2] if t.number == step.trial)
    assert (trial.unit, trial.bits, trial.bytes, trial.value) == (step.unit, step.bits, step.bytes, None)
    assert found.bound.slack(step.at_best) <= 0
    assert found.open > 0


def test_a_tighter_bound_is_decided_by_what_was_stopped_under_a_looser_one(finished):
    _, found = said(finished, max_increase="1%")
    stopped_early = {t.digest for t in finished[2] if t.state == "pruned" and t.used}
    assert (found.violators, found.open) == (len(stopped_early), 0)


def test_a_budget_that_nothing_reaches_names_the_smallest_bytes(finished):
    with pytest.raises(InfeasibleError, match="raise the budget to at least"):
        said(finished, memory_budget="1KB")


def test_a_bound_that_the_unquantized_model_does_not_meet_is_said_with_the_best_that_could(finished):
    _, found = said(finished, max_perplexity=2.0)
    assert kind_of(found) == "refused"
    assert "--max-perplexity 2.71829 or more" in found.refused


def test_a_target_of_the_other_metric_is_refused():
    with pytest.raises(SpecError, match="--max-drop; give exactly one of --max-increase"):
        retarget(STUDY, {"max_drop": 0.01})


@pytest.mark.parametrize(
    ("changes", "baseline", "words"),
    [
        ({"max_perplexity": 19.0}, PERPLEXITY, "perplexity 20 against --max-perplexity 19.0; .*20 or more"),
        ({"task": "demo-classify", "min_accuracy": 0.95}, ACCURACY, "--min-accuracy 0.9 or less"),
    ],
)
def test_the_value_that_could_be_met_is_named(changes, baseline, words):
    made = spec(**{"max_increase": None, **changes})
    with pytest.raises(InfeasibleError, match=words):
        require_baseline(made, baseline, MetricBound.of(made, baseline))


def require(max_perplexity, baseline):
    made = spec(max_increase=None, max_perplexity=max_perplexity)
    require_baseline(made, baseline, MetricBound.of(made, baseline))


@given(st.floats(1.0001, 1e6))
def test_the_named_value_is_one_that_the_model_meets(value):
    baseline = dataclasses.replace(PERPLEXITY, value=value)
    with pytest.raises(InfeasibleError) as caught:
        require(1.0, baseline)
    named = float(str(caught.value).partition("meets: --max-perplexity ")[2].split()[0])
    require(named, baseline)
    assert named <= value * 1.0001


# ------------------------------------------------------------------------------------- a study from another


def test_a_study_from_another_runs_only_what_is_missing_and_finds_what_a_new_one_does(finished, tmp_path):
    row = finished[1]
    made = dataclasses.replace(retarget(row.spec, {"max_increase": "60%", "lam": 1.0}), name="second")
    whole, alone = searched(tmp_path, made)
    url, session = copied(finished, tmp_path, made)
    summary = run_study("second", url, session, listener=Recorder())
    assert (summary.state, summary.visited) == (whole.state, whole.visited)
    assert (summary.best.digest, summary.score) == (whole.best.digest, whole.score)
    assert session.baselines == 0
    assert 0 < len(session.ran) < len(alone.ran)
    known = {t.digest for t in finished[2] if t.value is not None}
    assert known.isdisjoint(s.digest(session.hierarchy) for s in session.ran)
    with Repository(url) as repository:
        trials = repository.trials("second")
        evaluation = repository.evaluation("second", 0)
    assert evaluation is not None
    assert evaluation["device"] == "cpu"
    assert len({t.digest for t in trials}) == len(trials)


def copied(finished, tmp_path, made):
    """Copy the file of the finished study and create another one from it: (url, session)."""
    file = tmp_path / "copy.db"
    file.write_bytes(Path(finished[0].removeprefix("sqlite:///")).read_bytes())
    url, session = f"sqlite:///{file}", toy(made)
    create_study(made, url, session)
    assert reuse("toy", made, url) > 5
    return url, session


def test_a_study_from_another_for_its_own_targets_runs_nothing(finished, tmp_path):
    url, session = copied(finished, tmp_path, dataclasses.replace(STUDY, name="again"))
    summary = run_study("again", url, session, listener=Recorder())
    with Repository(url) as repository:
        assert summary.best.digest == repository.best("toy").digest
    assert session.ran == []


def test_what_was_measured_otherwise_is_refused(finished):
    row = finished[1]
    session = toy(STUDY)
    check_source(row, session.fingerprint())
    tuned = dataclasses.replace(
        row, spec=dataclasses.replace(STUDY, tune=2), fingerprint={**row.fingerprint, "tuning": "a"}
    )
    check_source(tuned, session.fingerprint())  # that study's tuned settings are none of this one's
    with pytest.raises(FingerprintError, match="another tuning a → b"):
        check_source(tuned, {**session.fingerprint(), "tuning": "b"})
    session.hashes["weights"] = "x" * 64
    with pytest.raises(FingerprintError, match=r"another weights w+ → x+; leave --from out"):
        check_source(row, session.fingerprint())
    with pytest.raises(UsageError, match="has measured nothing yet"):
        check_source(dataclasses.replace(row, baseline=None), session.fingerprint())


def test_a_key_with_which_evaluations_do_not_hold_is_refused():
    other = dataclasses.replace(STUDY, precisions=(6, 4), max_increase="9%", name="x")
    require_same_evaluations(STUDY, other)
    with pytest.raises(SpecError, match=r"limit 7 is not that of study 'toy' \(None\)"):
        require_same_evaluations(STUDY, dataclasses.replace(STUDY, limit=7))


# ---------------------------------------------------------------------------- strategies besides the tiers


@pytest.mark.parametrize("strategy", ["beam", "knapsack"])
def test_a_study_of_another_strategy_is_answered_by_its_own_rules(tmp_path, strategy):
    study = dataclasses.replace(STUDY, strategy=strategy, ties=("attention.*/att.key",), memory_budget="18%")
    url, session = f"sqlite:///{tmp_path}/toy.db", toy(study)
    create_study(study, url, session)
    summary = run_study("toy", url, session, listener=Recorder())
    with Repository(url) as repository:
        row, trials = repository.study("toy"), repository.trials("toy")
    own = answer(study, row.spec, row.hierarchy, row.baseline, trials)
    assert own.proven
    assert own.best.record.digest == summary.best.digest
    for trial in trials:
        setting = QuantSetting.from_json(trial.setting)
        assert len({setting.format_of(f"attention.{i}/att.key") for i in range(2)}) == 1
    made = dataclasses.replace(retarget(study, {"max_increase": "70%"}), name="second")
    other = answer(made, row.spec, row.hierarchy, row.baseline, trials)
    session = toy(made)
    create_study(made, url, session)
    reuse("toy", made, url)
    summary = run_study("second", url, session, listener=Recorder())
    assert other.replay.done == (not session.ran)
    if other.replay.step is not None and other.replay.step.trial is None:
        assert session.ran
    fresh, _ = searched(tmp_path, dataclasses.replace(made, name="fresh"))
    assert (summary.best.digest, summary.score) == (fresh.best.digest, fresh.score)
    assert summary.visited == fresh.visited
