"""What is computed first, and what happens when memory runs out: numbers stay, only the effort changes."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from qslm_opt.data.taskdata import build  # noqa: E402
from qslm_opt.errors import DeviceError  # noqa: E402
from qslm_opt.evaluate.bounds import MetricBound  # noqa: E402
from qslm_opt.evaluate.order import STRATA, Evidence, hardness_strata  # noqa: E402
from qslm_opt.kernels.ops import fast_ops  # noqa: E402
from qslm_opt.models.registry import get_family  # noqa: E402
from qslm_opt.setting import UNQUANTIZED  # noqa: E402
from tests.evaluate.test_engine import class_data, engine, lm_data, numbers, some_settings  # noqa: E402


def skilled_data(right: int = 150, wrong: int = 50):
    """Return sentences that the unquantized random model gets right, and some that it gets wrong."""
    data = class_data(400)
    found = engine(data, batch=1, reorder=False)
    predicted = np.array([_is_right(found, i) for i in range(400)]) == data.labels
    keep = [*np.flatnonzero(predicted)[:right], *np.flatnonzero(~predicted)[:wrong]]
    keep = np.random.default_rng(3).permutation(keep)
    sentences, labels = [data.sequences[i] for i in keep], np.asarray(data.labels)[keep]
    return build("sst2", "validation", sentences, source="x", labels=labels, label_names=("0", "1"))


def _is_right(found, sentence: int) -> int:
    """Return the class that the unquantized model gives one sentence."""
    index = next(i for i, b in enumerate(found.plan.batches) if b.members == (sentence,))
    batch = found.plan.batches[index]
    tensors, part = found._view.apply(UNQUANTIZED), found.plan.now
    right = found._forward.result(tensors, [], part, index, keep=False, items=False).correct
    label = int(batch.targets)
    return label if right else 1 - label


@pytest.fixture(scope="module")
def skilled():
    return skilled_data()


def test_strata_hold_every_sentence_once_hardest_first() -> None:
    hardness = np.random.default_rng(0).normal(size=83)
    strata = hardness_strata(hardness)
    assert len(strata) == STRATA
    assert sorted(i for tier in strata for i in tier) == list(range(83))
    for before, after in pairwise(strata):
        assert hardness[before].min() >= hardness[after].max()
    assert hardness_strata(np.zeros(3)) == [[0], [1], [2]]


def test_the_batch_that_weighed_most_per_token_comes_first() -> None:
    evidence = Evidence(engine(class_data(12), batch=4).plan.batches)
    assert evidence.order() == [0, 1, 2]  # nothing is known: the given order
    for index, wrong in ((0, 1), (1, 3), (2, 40)):
        evidence.add(index, wrong)
    assert evidence.order()[0] == 2
    for _ in range(9):
        evidence.add(2, 0)
    assert evidence.order()[0] != 2  # the mean counts, not one run


def test_hard_sentences_meet_in_batches_in_a_search(skilled) -> None:
    ordered = engine(skilled, batch=10)
    first = ordered.evaluate(UNQUANTIZED)  # alone: in the given order
    alone = [batch.members for batch in ordered.plan.batches]
    ordered.evaluate(UNQUANTIZED, parent=UNQUANTIZED)
    assert [batch.members for batch in ordered.plan.batches] != alone
    members = sorted(i for batch in ordered.plan.batches for i in batch.members)
    assert members == list(range(len(skilled.sequences)))
    wrong = []
    again = ordered.evaluate(
        UNQUANTIZED, parent=UNQUANTIZED, report=lambda p: wrong.append(p.used - p.correct) or False
    )
    assert (again.value, again.correct, again.n) == (first.value, first.correct, first.n)
    assert again.nll_sum == pytest.approx(first.nll_sum, rel=1e-6)
    assert wrong[4] == 50  # all that is wrong stands in the first of four strata, five batches


def test_a_family_that_keeps_its_batches_computes_a_search_as_any_evaluation(skilled, monkeypatch) -> None:
    one = engine(skilled, batch=10)
    monkeypatch.setattr(type(one._family), "keeps_batches", True)
    alone = [batch.members for batch in one.plan.batches]
    assert one.evaluate(UNQUANTIZED).nll_sum == one.evaluate(UNQUANTIZED, parent=UNQUANTIZED).nll_sum
    assert [batch.members for batch in one.plan.batches] == alone
    assert get_family("spikingbert").keeps_batches


def test_a_rejected_setting_needs_less_data_and_the_same_decision(skilled) -> None:
    ordered, plain = engine(skilled, batch=10), engine(skilled, batch=10, reorder=False)
    bound = MetricBound("accuracy", len(skilled.sequences), 160.0)
    needed = {}
    for name, one in (("ordered", ordered), ("plain", plain)):
        run = one.evaluate(
            UNQUANTIZED, parent=UNQUANTIZED, bound=bound, report=lambda p: bound.certain(p.best_case)
        )
        assert run.stopped
        needed[name] = run.used
    assert needed["ordered"] <= 50 < needed["plain"]


def test_every_number_of_a_full_run_is_that_of_the_given_order() -> None:
    ordered, plain = engine(lm_data()), engine(lm_data(), reorder=False)
    walk = some_settings(12, ordered.hierarchy)
    for parent, setting in pairwise(walk):
        one, other = ordered.evaluate(setting, parent=parent), plain.evaluate(setting, parent=parent)
        assert numbers(one) == numbers(other)


def test_sentences_in_other_batches_give_the_same_decisions_and_close_losses(skilled) -> None:
    ordered, plain = engine(skilled), engine(skilled, reorder=False)
    walk = some_settings(12, ordered.hierarchy)
    for parent, setting in pairwise(walk):
        one, other = ordered.evaluate(setting, parent=parent), plain.evaluate(setting, parent=parent)
        assert (one.correct, one.used, one.firing_rate) == (other.correct, other.used, other.firing_rate)
        assert one.nll_sum == pytest.approx(other.nll_sum, rel=1e-6)


def test_a_process_that_joins_later_computes_the_same_bits(skilled) -> None:
    first, later = engine(skilled, batch=7), engine(skilled, batch=7)
    baseline = first.evaluate(UNQUANTIZED, parent=UNQUANTIZED)
    walk = some_settings(6, first.hierarchy)
    for setting in walk:
        found = first.evaluate(setting, parent=UNQUANTIZED)
    assert numbers(later.evaluate(walk[-1], parent=walk[0])) == numbers(found)
    assert numbers(later.evaluate(UNQUANTIZED, parent=UNQUANTIZED)) == numbers(baseline)


def hungry(limit: int):
    """Return operations that run out of memory above ``limit`` token positions, and the sizes that did."""
    ops, failed = fast_ops("cpu"), []

    def mix(x, *args):
        if x.shape[0] * x.shape[1] > limit:
            failed.append(x.shape[0] * x.shape[1])
            raise torch.OutOfMemoryError("CUDA out of memory (a stand-in)")
        return ops.norm_shift_mix(x, *args)

    return replace(ops, norm_shift_mix=mix), failed


@pytest.mark.parametrize("data", [lm_data(), class_data()], ids=["lm", "classification"])
@pytest.mark.parametrize("batch", [None, 8])
def test_batches_halve_until_they_fit_and_it_is_said_once(data, batch) -> None:
    said: list[str] = []
    ops, failed = hungry(limit=45)
    small = engine(data, batch=batch, ops=ops, narrate=said.append)
    whole = engine(data, batch=batch)
    run, truth = small.evaluate(UNQUANTIZED, parent=UNQUANTIZED), whole.evaluate(UNQUANTIZED)
    assert run.value == pytest.approx(truth.value, rel=1e-6)
    assert (run.correct, run.used, run.firing_rate) == (truth.correct, truth.used, truth.firing_rate)
    assert failed
    assert len(said) == 1
    assert "out of memory on cpu" in said[0]
    failed.clear()
    small.evaluate(UNQUANTIZED)
    assert not failed  # the size that fits is remembered


def test_one_sequence_that_does_not_fit_is_said_with_the_fix() -> None:
    ops, _ = hungry(limit=5)
    with pytest.raises(DeviceError, match=r"one sequence of 20 tokens needs more memory.*--window"):
        engine(lm_data(), batch=None, ops=ops).evaluate(UNQUANTIZED)
