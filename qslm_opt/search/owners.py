"""Who runs a trial, whether that process still lives, and the closing of trials that nobody runs any more."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from optuna.trial import FrozenTrial, TrialState

from qslm_opt.search.ledger import close_trial
from qslm_opt.search.verdicts import STALE
from qslm_opt.store.rows import own_host, own_process

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

    from qslm_opt.search.leases import Leases

_running_here: set[str] = set()
"""Runs of this process that have not ended."""
_lock = threading.Lock()


@contextmanager
def registered(board: str | None = None) -> Iterator[str]:
    """Register a run of this process; yield the text that marks its trials, their attribute ``owner``.

    ``board`` names the device whose power the run measures, None where it measures none.
    """
    run = uuid4().hex
    with _lock:
        _running_here.add(run)
    try:
        pid = os.getpid()
        mark = {"host": own_host(), "pid": pid, "born": _born(pid), "run": run}
        yield json.dumps(mark if board is None else {**mark, "board": board})
    finally:
        with _lock:
            _running_here.discard(run)


@dataclass(frozen=True)
class Owner:
    """The process and run that a trial is marked with."""

    host: str
    pid: int
    born: str
    """Start of the process in clock ticks, empty where that is not known."""
    run: str

    @classmethod
    def read(cls, text: str | None) -> Owner | None:
        """Decode the attribute ``owner``; None when it is not what ``registered`` yields."""
        try:
            value = json.loads(text or "")
            return cls(value["host"], int(value["pid"]), value["born"], value["run"])
        except (ValueError, KeyError, TypeError):
            return None

    @property
    def is_here(self) -> bool:
        """Whether it is this process."""
        pid, host = own_process()
        return (self.host, self.pid) == (host, pid) and self.born == _born(pid)

    def is_gone(self) -> bool | None:
        """Return whether the process or run has ended; None where that cannot be seen from here."""
        if self.host != own_host() or os.name != "posix":
            return None
        if self.is_here:
            return self.run not in _running_here
        return not _exists(self.pid) or self.born != _born(self.pid)


def shares_board(owner: str | None, board: str | None) -> bool:
    """Return whether an owner's run may draw power from ``board`` of this host.

    The UUIDs of two GPUs decide alone: containers on one host have names and process ids of their own.
    Else it does unless it is on another host, or measures another board.
    """
    try:
        value = json.loads(owner or "")
        host, other = value["host"], value.get("board")
    except (ValueError, KeyError, TypeError):
        return True
    if _is_gpu(board) and _is_gpu(other):
        return bool(other == board)
    return host == own_host() and (board is None or other is None or other == board)


def _is_gpu(board: Any) -> bool:
    return isinstance(board, str) and board.startswith("GPU-")


def close_stale(
    storage: BaseStorage, study_id: int, leases: Leases, patience: Callable[[], float]
) -> list[tuple[FrozenTrial, str]]:
    """Tell FAIL to running trials that nobody runs any more; return them as they were, with the reason.

    A trial is stale when its process is gone or, gone or not, has let its lease expire. One that names no
    process is stale once it has run for ``patience()`` seconds.
    """
    running = storage.get_all_trials(study_id, deepcopy=False, states=(TrialState.RUNNING,))
    found = ((trial, why_stale(trial, leases, patience)) for trial in running)
    return [(trial, why) for trial, why in found if why and _close(storage, trial, why)]


def why_stale(trial: FrozenTrial, leases: Leases, patience: Callable[[], float]) -> str:
    """Return in words why nobody runs a trial any more; empty when somebody does or may."""
    owner = Owner.read(trial.user_attrs.get("owner"))
    if owner is None:
        started = trial.datetime_start
        old = started is not None and (datetime.now() - started).total_seconds() > patience()
        return "no process is known to run it" if old else ""
    gone = owner.is_gone()
    if gone:
        return f"process {owner.pid} on {owner.host} is gone"
    if not owner.is_here and leases.expired(owner.host, owner.pid):
        return f"process {owner.pid} on {owner.host} gave no sign of life for {leases.seconds:.0f} s"
    return ""


def _close(storage: BaseStorage, trial: FrozenTrial, why: str) -> bool:
    return close_trial(storage, trial._trial_id, TrialState.FAIL, None, {"reason": f"{STALE}: {why}"})


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's
        return True
    return True


def _born(pid: int) -> str:
    """Start time of a process in clock ticks: tells a reused pid apart; empty where /proc is missing."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
