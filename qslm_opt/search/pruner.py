"""The pruner: stop a trial as soon as, and only when, its violation of the metric bound is certain."""

from __future__ import annotations

from typing import TYPE_CHECKING

from optuna.pruners import BasePruner

from qslm_opt.evaluate.bounds import MetricBound
from qslm_opt.results import Baseline
from qslm_opt.spec import StudySpec

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial


_WHOLE = ("sensitivity", "sampled")
"""Tiers whose runs go on to their end."""


class ConstraintPruner(BasePruner):
    """Prunes when the last reported value, the best metric still possible, proves the violation.

    The bound comes from the study's attributes ``spec`` and ``baseline``; without them nothing is pruned,
    and neither is a trial of the sensitivity tier, whose losses give the order of the search. A reported
    NaN proves nothing. Neither is one of Optuna's samplers, which learn from how large a violation is.
    """

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        last = trial.last_step
        if last is None or trial.params.get("tier") in _WHOLE:
            return False
        bound = bound_of(study)
        best_case = trial.intermediate_values[last]
        return bound is not None and best_case == best_case and bound.certain(best_case)


def bound_of(study: Study) -> MetricBound | None:
    """Return the metric bound of a study of ours whose baseline is measured, else None."""
    attrs = study.user_attrs
    if "spec" not in attrs or "baseline" not in attrs:
        return None
    return MetricBound.of(StudySpec.from_json(attrs["spec"]), Baseline.from_json(attrs["baseline"]))
