"""Who runs a trial, whether that process still lives, and the closing of trials that nobody runs any more."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from optuna.trial import FrozenTrial, TrialState

from qslm_opt.search.ledger import close_trial
from qslm_opt.search.verdicts import STALE

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

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
        mark = {"host": socket.gethostname(), "pid": pid, "born": _born(pid), "run": run}
        yield json.dumps(mark if board is None else {**mark, "board": board})
    finally:
        with _lock:
            _running_here.discard(run)


def is_gone(owner: str | None) -> bool | None:
    """Return whether the owner's process or run has ended; None where that cannot be seen from here."""
    try:
        value = json.loads(owner or "")
        host, pid, born, run = value["host"], int(value["pid"]), value["born"], value["run"]
    except (ValueError, KeyError, TypeError):
        return None
    if host != socket.gethostname() or os.name != "posix":
        return None
    if pid == os.getpid() and born == _born(pid):
        return run not in _running_here
    return not _exists(pid) or born != _born(pid)


def shares_board(owner: str | None, board: str | None) -> bool:
    """Return whether an owner's run may draw power from ``board`` of this host.

    It does unless it is on another host, or measures another board.
    """
    try:
        value = json.loads(owner or "")
        host, other = value["host"], value.get("board")
    except (ValueError, KeyError, TypeError):
        return True
    return host == socket.gethostname() and (board is None or other is None or other == board)


def close_stale(storage: BaseStorage, study_id: int, patience: float) -> list[FrozenTrial]:
    """Tell FAIL to running trials whose process is gone, and return them as they were.

    A trial whose process cannot be looked at (another host) is stale once it has run for ``patience``
    seconds.
    """
    running = storage.get_all_trials(study_id, deepcopy=False, states=(TrialState.RUNNING,))
    return [trial for trial in running if _is_stale(trial, patience) and _close(storage, trial)]


def _is_stale(trial: FrozenTrial, patience: float) -> bool:
    gone = is_gone(trial.user_attrs.get("owner"))
    if gone is not None:
        return gone
    started = trial.datetime_start
    return started is not None and (datetime.now() - started).total_seconds() > patience


def _close(storage: BaseStorage, trial: FrozenTrial) -> bool:
    reason = f"{STALE}: its process is gone ({trial.user_attrs.get('owner', 'unknown')})"
    return close_trial(storage, trial._trial_id, TrialState.FAIL, None, {"reason": reason})


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
