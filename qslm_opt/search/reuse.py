"""A study that begins with the evaluations of another one of the same model and data: only the rest runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import uuid4

from optuna.trial import TrialState, create_trial

from qslm_opt.errors import FingerprintError, UsageError
from qslm_opt.evaluate.bounds import MetricBound
from qslm_opt.rank import score
from qslm_opt.search.determinism import ATTRIBUTE
from qslm_opt.search.driver import delete_study
from qslm_opt.search.failures import named_failures
from qslm_opt.search.ledger import CONSTRAINT, close_storage, load_study, one_transaction, open_shared
from qslm_opt.search.outcome import Outcome
from qslm_opt.search.sampler import TieredSampler
from qslm_opt.search.space import SearchSpace
from qslm_opt.search.strategies import Strategy
from qslm_opt.search.targets import judged
from qslm_opt.store import open_repository

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from qslm_opt.results import TrialRecord
    from qslm_opt.spec import StudySpec
    from qslm_opt.store import StudyRow

_OWN = ("owner", "uuid", "reason", "feasible", "metric_slack_pct", "memory_slack_pct")
"""Attributes of a trial that hold in its own study alone."""


def check_source(source: StudyRow, fingerprint: Mapping[str, str]) -> None:
    """Raise unless what ``source`` measured holds for a study of ``fingerprint``; their specs may differ.

    Raises:
        UsageError: it has measured nothing yet.
        FingerprintError: weights, data, code or arithmetic are others.
    """
    if source.baseline is None:
        raise UsageError(f"study {source.name!r} has measured nothing yet; leave --from out.")
    parts = (source.fingerprint.keys() | fingerprint.keys()) - {"spec"}
    if "tuning" not in fingerprint or not source.spec.tune:
        parts.discard("tuning")  # nothing is tuned, or nothing that it measured was
    differing = [
        f"{part} {source.fingerprint.get(part, 'none')[:16]} → {fingerprint.get(part, 'none')[:16]}"
        for part in sorted(parts)
        if source.fingerprint.get(part) != fingerprint.get(part)
    ]
    if differing:
        raise FingerprintError(
            f"study {source.name!r} was measured with another {', '.join(differing)}; leave --from out."
        )


def reuse(source: str, spec: StudySpec, url: str) -> int:
    """Give the new study of ``spec`` the baseline and the evaluations of ``source``; return how many.

    Those are what was measured to its end, and what was stopped early where that violates the new bound for
    certain, too. When this fails, the new study is deleted.
    """
    try:
        with named_failures(url), open_repository(url) as repository:
            old, new = repository.study(source), repository.study(spec.name)
            trials = repository.trials(source)
            assert old.baseline is not None  # check_source() has looked
            count = _copy(old, new, trials, url)
            repository.set_baseline(new.uuid, old.baseline)
    except BaseException:
        delete_study(spec.name, url)
        raise
    return count


def _copy(old: StudyRow, new: StudyRow, trials: list[TrialRecord], url: str) -> int:
    assert old.baseline is not None
    database = open_shared(url)
    try:
        before, study = load_study(old.name, database), load_study(new.name, database)
        stored = {trial.number: trial for trial in before.get_trials(deepcopy=False)}
        made = list(_made(old, new, trials, stored))
        with one_transaction(database):
            for trial in made:
                study.add_trial(trial)
        study.set_user_attr("baseline", old.baseline.to_json())
        study.set_user_attr("from", {"name": old.name, "uuid": old.uuid})
        probe = (before.user_attrs.get(ATTRIBUTE) or {}).get("probe")
        if probe is not None:
            study.set_user_attr(ATTRIBUTE, {"probe": probe, "differs": []})
    finally:
        close_storage(database)
    return len(made)


def _made(
    old: StudyRow, new: StudyRow, trials: list[TrialRecord], stored: Mapping[int, FrozenTrial]
) -> Iterator[FrozenTrial]:
    """Yield the trials of the new study, one for each setting."""
    spec, space = new.spec, SearchSpace.of(new.spec, new.hierarchy)
    known = TieredSampler(space, strategy=Strategy.of(spec)).distributions
    for record in usable(old, spec, space, trials):
        params = {"tier": record.tier, "unit": record.unit, "bits": record.bits}
        if any(value not in known[name].choices for name, value in params.items()):  # type: ignore[attr-defined]
            continue
        state = TrialState.COMPLETE if record.state == "complete" else TrialState.PRUNED
        attributes = {k: v for k, v in stored[record.number].user_attrs.items() if k not in _OWN}
        outcome = Outcome(state, attributes, record.slack, _score(spec, record))
        yield create_trial(
            state=state, value=outcome.score, params=params, distributions=known,
            user_attrs={**attributes, **outcome.columns, "uuid": str(uuid4()), "copied_from": record.number},
            system_attrs={CONSTRAINT + name: slack for name, slack in record.slack.items()},
        )  # fmt: skip


def usable(
    old: StudyRow, spec: StudySpec, space: SearchSpace, trials: list[TrialRecord]
) -> list[TrialRecord]:
    """Return what holds under the targets of ``spec``, judged by them, by number; one for each setting."""
    assert old.baseline is not None
    bounds = MetricBound.of(old.spec, old.baseline), MetricBound.of(spec, old.baseline)
    found: dict[str, TrialRecord] = {}
    for trial in trials:
        record = judged(trial, *bounds, space.budget)
        if trial.cheap and trial.state == "pruned":
            record = replace(trial, slack={"metric": 0.0, "memory": trial.bytes / space.budget - 1})
        if record is None or record.state == "failed":
            continue
        kept = found.get(record.digest)
        if kept is None or (kept.value is None and record.value is not None):
            found[record.digest] = record
    return sorted(found.values(), key=lambda record: record.number)


def _score(spec: StudySpec, record: TrialRecord) -> float | None:
    if record.value is None:
        return None
    return score(spec.metric, record.value, record.bytes / record.fp32_bytes, spec.lam)
