"""Targets of a study: bound on the metric, memory budget and λ; other ones, and what cannot be met."""

from __future__ import annotations

import json
from dataclasses import replace
from math import ceil, floor, log10
from typing import TYPE_CHECKING, Any

from qslm_opt.errors import InfeasibleError, SpecError
from qslm_opt.evaluate.bounds import MetricBound
from qslm_opt.evaluate.confidence import unreachable
from qslm_opt.spec import BOUNDS, StudySpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qslm_opt.results import Baseline, TrialRecord

SPACE = (
    "precisions", "sensitivity_precisions", "layout", "fixed", "sign_embedding", "pins", "exclude", "ties",
    "strategy", "beam_width", "evaluations", "gate", "every", "tune", "seed",
)  # fmt: skip
"""Keys that say which settings are tried: what is known of a setting holds whatever they are."""
TARGETS = (*BOUNDS, "memory_budget", "lam")
"""Keys of a spec that say what is wanted; all others say of which model and how it is searched."""
_DIGITS = 6


def retarget(spec: StudySpec, changes: Mapping[str, Any]) -> StudySpec:
    """Return ``spec`` with other targets; None means as it was, and a bound replaces the one there is.

    Raises:
        SpecError: a target that cannot be, or one of the other metric.
    """
    given = {key: value for key, value in changes.items() if value is not None}
    values = json.loads(spec.to_json())
    if any(key in given for key in BOUNDS):
        values |= dict.fromkeys(BOUNDS)
    return StudySpec.from_mapping({**values, **given})


def require_same_evaluations(spec: StudySpec, made: StudySpec) -> None:
    """Raise SpecError naming a key of ``made`` with which what a study of ``spec`` measured does not hold."""
    before, after = spec.decides(), made.decides()
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) != after.get(key) and key not in (*TARGETS, *SPACE):
            raise SpecError(
                f"{key} {after.get(key)!r} is not that of study {spec.name!r} ({before.get(key)!r}), whose "
                "evaluations would not hold; leave it or --from out."
            )
    if spec.confidence is not None and not same_bound(spec, made):
        raise SpecError(
            f"study {spec.name!r} holds its bound with confidence {spec.confidence}, and what it stored says "
            f"nothing about another one ({_asked(made)}); keep {_asked(spec)}, or leave --from out."
        )


def same_bound(one: StudySpec, other: StudySpec) -> bool:
    """Return whether two specs give the same bound on the metric."""
    return all(getattr(one, key) == getattr(other, key) for key in BOUNDS)


def require_baseline(spec: StudySpec, baseline: Baseline, bound: MetricBound) -> MetricBound:
    """Return ``bound``; InfeasibleError when the unquantized model does not meet it.

    Only an absolute bound can be such. A setting may by chance be better than the unquantized model, but a
    search for one would be one for noise.
    """
    if bound.slack(bound.judged(baseline.value, baseline.items)) <= 0:
        return bound
    if bound.confidence is not None:
        raise InfeasibleError(unreachable(bound, baseline, _asked(spec)))
    if bound.metric == "accuracy":
        asked, best = f"--min-accuracy {spec.min_accuracy}", _rounded(baseline.value, down=True)
        meets, relative = f"--min-accuracy {best:.{_DIGITS}g} or less", "--max-drop 0.01"
    else:
        asked, best = f"--max-perplexity {spec.max_perplexity}", _rounded(baseline.value, down=False)
        meets, relative = f"--max-perplexity {best:.{_DIGITS}g} or more", "--max-increase 1%"
    raise InfeasibleError(
        f"the unquantized model already violates the bound: {bound.metric} {baseline.value:.6g} against "
        f"{asked}; no trial was run; give a bound that the model meets: {meets}, or one relative to it such "
        f"as {relative}."
    )


def _asked(spec: StudySpec) -> str:
    """Return the metric bound as the user gave it."""
    key = next(key for key in BOUNDS if getattr(spec, key) is not None)
    return f"--{key.replace('_', '-')} {getattr(spec, key)}"


def judged(
    trial: TrialRecord, before: MetricBound, bound: MetricBound, budget: int
) -> TrialRecord | None:
    """Return a stored trial as it stands under another ``bound`` and ``budget``; None where that is open.

    ``before`` is the bound that it ran under. Measured to the end: exactly known. Stopped early: known to
    violate where the best metric that was still possible then does; else its value may lie on either side.
    Not run, or only a share of the data: open. Failed trials are as they were. With a confidence both bounds
    are the same: what was held against it was the confidence limit, which the stored slack alone tells.
    """
    if trial.state == "failed":
        return trial
    if trial.cheap:
        return None
    memory = trial.bytes / budget - 1
    if bound.confidence is not None:
        settled = trial.value is not None or best_case(trial, before) is not None
        return replace(trial, slack={**trial.slack, "memory": memory}, extra=False) if settled else None
    if trial.state == "complete" and trial.value is not None:
        return replace(trial, slack={"metric": bound.slack(trial.value), "memory": memory}, extra=False)
    best = best_case(trial, before)
    if best is None or not bound.certain(best):
        return None
    return replace(trial, slack={"metric": bound.slack(best), "memory": memory}, extra=False)


def best_case(trial: TrialRecord, before: MetricBound) -> float | None:
    """Return the best metric that a trial could still reach when it was stopped; None for all others."""
    slack = trial.slack.get("metric", 0.0)
    if trial.state != "pruned" or not trial.used or slack <= 0:
        return None
    return before.value_at(slack)


def _rounded(value: float, *, down: bool) -> float:
    """Return ``value`` with six digits, rounded to the side on which the model meets it."""
    step = 10.0 ** (floor(log10(value)) + 1 - _DIGITS) if value > 0 else 1.0
    return (floor if down else ceil)(value / step) * step
