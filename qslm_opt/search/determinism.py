"""Whether the same setting gives the same numbers: twice here, here as where the study began, in its trials.

What differs is said, and kept in the study's attribute ``determinism``; the study goes on. Which result
counts does not depend on it: of two trials of one setting it is the first one's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any

from qslm_opt.store.rows import own_process

if TYPE_CHECKING:
    from optuna.study import Study

    from qslm_opt.results import TrialRecord
    from qslm_opt.search.attempt import SessionLike

ATTRIBUTE = "determinism"
"""Of the Optuna study: ``{"probe": hex, "differs": [{"what", "pid", "host", "at"}, …]}``."""
MOST = 20
"""So many differences are kept."""


def check_process(study: Study, session: SessionLike, narrate: Callable[[str], None]) -> None:
    """Compute the same few sequences twice; compare with each other and with what the study has of them.

    The first process of a study stores what it computed.
    """
    here, again = session.probe(), session.probe()
    known = dict(study.user_attrs.get(ATTRIBUTE) or {"probe": here, "differs": []})
    if here != again:
        what = "two runs of the same sequences in one process gave different bits"
    elif here != known["probe"]:
        what = "this process computes other bits than the one that began the study"
    else:
        what = ""
    if what:
        narrate(f"not deterministic: {what}; results may differ in their last digits")
    if what or ATTRIBUTE not in study.user_attrs:
        _store(study, known, what)
        if not what and study.user_attrs[ATTRIBUTE]["probe"] != here:  # another began it in the same moment
            check_process(study, session, narrate)


def check_trials(study: Study, trials: Iterable[TrialRecord], narrate: Callable[[str], None]) -> None:
    """Say which finished trials measured the same setting and found different numbers."""
    known = dict(study.user_attrs.get(ATTRIBUTE) or {"probe": None, "differs": []})
    said = {entry["what"] for entry in known["differs"]}
    for what in disagreements(trials):
        if what not in said:
            narrate(f"not deterministic: {what}; the first one counts")
            _store(study, known, what)


def disagreements(trials: Iterable[TrialRecord]) -> Iterator[str]:
    """Yield in words each trial whose setting another one had measured before with another result."""
    first: dict[str, TrialRecord] = {}
    pairs: dict[str, list[TrialRecord]] = defaultdict(list)
    for trial in sorted(trials, key=lambda trial: trial.number):
        if trial.state != "complete" or not trial.digest:
            continue
        known = first.setdefault(trial.digest, trial)
        if (trial.value, trial.loss) != (known.value, known.loss):
            pairs[trial.digest].append(trial)
    for digest, others in pairs.items():
        one = first[digest]
        for other in others:
            yield (
                f"trials {one.number} and {other.number} measured the same setting and found "
                f"{_shown(one)} and {_shown(other)}"
            )


def _shown(trial: TrialRecord) -> str:
    return f"{trial.value!r} (loss {trial.loss!r})"


def _store(study: Study, known: dict[str, Any], what: str) -> None:
    """Add a difference to ``known`` and store it; the oldest ones are kept."""
    if what:
        pid, host = own_process()
        at = datetime.now().isoformat(timespec="seconds")
        entry = {"what": what, "pid": pid, "host": host, "at": at}
        known["differs"] = [*known["differs"], entry][:MOST]
    study.set_user_attr(ATTRIBUTE, known)
