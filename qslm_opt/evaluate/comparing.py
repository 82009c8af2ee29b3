"""A setting's outcomes beside the unquantized model's on the same data: the Comparison that is stored."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from qslm_opt import stats
from qslm_opt.evaluate.bounds import MetricBound
from qslm_opt.results import Baseline, Comparison

if TYPE_CHECKING:
    from qslm_opt.items import Items
    from qslm_opt.results import Evaluation
    from qslm_opt.spec import StudySpec


def alone(run: Evaluation, split: str = "", level: float = stats.LEVEL) -> Comparison:
    """Return what a whole run with items measured, with its interval, beside no baseline."""
    assert run.items is not None
    assert run.value is not None
    known: dict[str, Any] = {
        "metric": run.metric, "value": run.value, "n": run.n, "level": level, "split": split,
        "data_hash": run.data_hash, "seconds": run.seconds, "device": run.device,
    }  # fmt: skip
    if run.correct is not None:
        low, high = stats.accuracy_interval(run.correct, run.n, level)
        return Comparison(**known, correct=run.correct, low=low, high=high)
    losses, tokens = run.items.sums
    windows = len(losses)
    if windows < 2:  # says nothing about its own spread
        return Comparison(**known, windows=windows)
    low, high = stats.perplexity_interval(losses, tokens, level)
    error = stats.perplexity_error(losses, tokens).error
    return Comparison(**known, windows=windows, low=low, high=high, error=error)


def compared(run: Evaluation, spec: StudySpec, baseline: Baseline, split: str = "") -> Comparison:
    """Return a whole run with items beside ``baseline`` with items, both over the same data."""
    assert baseline.items is not None
    assert run.items is not None
    found = alone(run, split)
    bound = MetricBound.of(replace(spec, confidence=None), baseline)
    slack = bound.slack(found.value if found.value is not None else 0.0)
    found = replace(found, baseline=baseline.value, slack=slack)
    return _accuracy(found, run.items, baseline) if run.correct is not None else _perplexity(
        found, run.items, baseline
    )  # fmt: skip


def unmeasured(run: Comparison, spec: StudySpec, reason: str) -> Comparison:
    """Return the comparison of a setting whose evaluation failed on the data of the baseline ``run``."""
    return Comparison(
        spec.metric, None, run.n, baseline=run.value, split=run.split, data_hash=run.data_hash, reason=reason
    )


def _accuracy(found: Comparison, items: Items, baseline: Baseline) -> Comparison:
    assert baseline.items is not None
    before, after = baseline.items.right, items.right
    assert before is not None
    assert after is not None
    lost, won = int((before & ~after).sum()), int((after & ~before).sum())
    low, high = stats.drop_interval(lost, won, found.n, found.level)
    return replace(
        found, change=(won - lost) / found.n, change_low=-high, change_high=-low, p=stats.mcnemar(lost, won)
    )


def _perplexity(found: Comparison, items: Items, baseline: Baseline) -> Comparison:
    assert baseline.items is not None
    change = (found.value or 0.0) / baseline.value - 1
    if len(items) < 2:
        return replace(found, change=change)
    losses, tokens = items.sums
    ratio = stats.perplexity_ratio(baseline.items.sums[0], losses, tokens, found.level)
    return replace(
        found, change=change, change_low=ratio.low - 1, change_high=ratio.high - 1, p=ratio.p
    )
