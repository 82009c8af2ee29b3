"""Optuna's storage as optuna-dashboard needs it: constraints that it can see, and a feasible best trial.

optuna-dashboard reads constraints only from the old list attribute and takes the best trial regardless of
them. Nothing is written: the list is added to the trials that are handed out, and attributes that are for
programs are left out, since it makes a column of every attribute.
"""

from __future__ import annotations

from collections.abc import Container
from copy import copy

from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from qslm_opt.store import optuna_storage_kwargs

_OLD_KEY, _NEW_PREFIX = "constraints", "constraints:"
_FOR_PROGRAMS = frozenset({"evaluation", "owner", "uuid", "digest"})


class DashboardStorage(RDBStorage):
    """Shows named constraints as the old list, and picks the best trial among the feasible ones."""

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """Return the trials with their constraints as a list, in the order of their names."""
        return [_listed(trial) for trial in super().get_all_trials(study_id, deepcopy, states)]

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """Return one trial with its constraints as a list."""
        return _listed(super().get_trial(trial_id))

    def get_best_trial(self, study_id: int) -> FrozenTrial:
        """Return the best feasible trial; ValueError when there is none."""
        complete = self.get_all_trials(study_id, deepcopy=False, states=(TrialState.COMPLETE,))
        feasible = [trial for trial in complete if all(x <= 0 for x in _constraints(trial).values())]
        if not feasible:
            raise ValueError("No feasible trials are completed yet.")
        (direction,) = self.get_study_directions(study_id)
        pick = max if direction == StudyDirection.MAXIMIZE else min
        return pick(feasible, key=lambda trial: trial.value or 0.0)


def serve(url: str, host: str, port: int) -> None:
    """Serve optuna-dashboard on a storage until it is interrupted."""
    import optuna_dashboard

    storage = DashboardStorage(url, engine_kwargs=optuna_storage_kwargs(url))
    optuna_dashboard.run_server(storage, host=host, port=port)


def _constraints(trial: FrozenTrial) -> dict[str, float]:
    attributes = sorted(trial.system_attrs.items())
    return {key: value for key, value in attributes if key.startswith(_NEW_PREFIX)}


def _listed(trial: FrozenTrial) -> FrozenTrial:
    shown, named = copy(trial), _constraints(trial)
    shown.user_attrs = {k: v for k, v in trial.user_attrs.items() if k not in _FOR_PROGRAMS}
    if named and _OLD_KEY not in trial.system_attrs:
        shown.system_attrs = {**trial.system_attrs, _OLD_KEY: list(named.values())}
    return shown
