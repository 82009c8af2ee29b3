"""What ``--tune`` came to: said when it found no setting that is good enough. From the storage alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qslm_opt import rank
from qslm_opt.cli.output import metric_value, size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qslm_opt.results import TrialRecord
    from qslm_opt.spec import StudySpec

TIER = "tuned"
_ENDED = ("complete", "pruned", "failed")


def tuned_json(spec: StudySpec, trials: Sequence[TrialRecord]) -> dict[str, Any] | None:
    """Return how many settings were tuned, how many are candidates, and what came closest without one.

    None for a study that tunes nothing.
    """
    if not spec.tune:
        return None
    mine = _tuned(trials)
    good = sum(t.feasible for t in mine)
    near = None if good else rank.closest(mine)
    reached = None if near is None else {
        "trial": near.number, "value": near.value, "bytes": near.bytes, "slack": dict(near.slack)
    }  # fmt: skip
    return {"steps": spec.tune, "settings": _count(mine), "candidates": good, "closest": reached}


def tuned_in_vain(spec: StudySpec, trials: Sequence[TrialRecord]) -> str | None:
    """Return, in a sentence, that an ended search tuned nothing good enough; None where it did, or does not.

    It says what the tuned setting that came closest to the bound reached.
    """
    mine = _tuned(trials)
    if not spec.tune or any(t.feasible for t in mine):
        return None
    if not mine:
        return f"tuning by {spec.tune:,} steps found no setting: the search ended before any was tuned"
    count = _count(mine)
    of = f"tuning by {spec.tune:,} steps found no setting that is good enough: of {count} tuned"
    near = rank.closest(mine)
    if near is None:
        return f"{of} none was measured to a verdict ({mine[-1].reason or 'its run did not end'})"
    beyond = f"{100 * near.slack.get('metric', 0.0):.2g} % beyond the bound"
    got = f"reached {spec.metric} {metric_value(spec.metric, near.value)}, {beyond}"
    if near.value is None:
        got = f"was stopped at best {beyond}"
    return f"{of}, trial {near.number} came closest: it {got}, in {size(near.bytes)}"


def _tuned(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Return the trials of the tier that have ended and count for the result."""
    return [t for t in trials if t.tier == TIER and t.state in _ENDED and not t.extra]


def _count(trials: Sequence[TrialRecord]) -> int:
    """Return of how many settings they are: a stopped tuning is run again."""
    return len({t.digest for t in trials})
