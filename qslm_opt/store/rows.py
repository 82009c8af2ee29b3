"""StudyRow: one study as the storage holds it, with the state that its processes are really in."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from qslm_opt.evaluate.bounds import MetricBound
from qslm_opt.hierarchy.tree import Hierarchy
from qslm_opt.results import Baseline, Comparison
from qslm_opt.spec import StudySpec

if TYPE_CHECKING:
    from sqlalchemy import RowMapping

StudyState = Literal["created", "running", "stopped", "finished", "infeasible", "dead"]

DEAD_SECONDS = 30.0
"""A process that has not beaten for longer than this is taken for dead."""
_FIRST_SPACE = "pid:[4026531836]"
"""The namespace in which Linux numbers processes outside of containers."""
NO_COUNTS = {"complete": 0, "pruned": 0, "failed": 0, "running": 0}


@dataclass(frozen=True)
class StudyRow:
    """One study."""

    uuid: str
    name: str
    spec: StudySpec
    fingerprint: dict[str, str]
    """What must not change: hashes of weights, data, spec and code."""
    baseline: Baseline | None
    """None until it was measured."""
    bound: float | None
    """What the metric must reach, in its own unit; None until the baseline is known."""
    budget: int
    """What the packed bytes must not exceed."""
    hierarchy: Hierarchy
    state: StudyState = "created"
    """``running``: a process works on it, or is about to. ``dead``: stored as running, but none lives."""
    created: str = ""
    """ISO 8601 local time without offset, as all times here."""
    order: list[str] = field(default_factory=list)
    """Blocks, least sensitive first; empty until known."""
    pid: int | None = None
    """Process that beat last, a living one where there is one; None when none is registered."""
    host: str | None = None
    heartbeat: str | None = None
    counts: dict[str, int] = field(default_factory=lambda: dict(NO_COUNTS))
    """Trials that are complete, pruned, failed and running."""
    progress: list[dict[str, Any]] = field(default_factory=list)
    """``{"tier", "done", "total"}`` for each tier that the search knows; total None when not known yet."""
    phase: str | None = None
    """What the process that beat last is doing."""
    reason: str = ""
    """Why the study is in its state, in words; empty when there is nothing to say."""
    stop_requested: bool = False
    extra: list[str] = field(default_factory=list)
    """Digests that workers measured ahead and the finished search did not need."""
    held_back: Mapping[str, Comparison] = field(default_factory=dict)
    """Digest, or ``baseline`` → what was measured on the data that the search never saw."""

    @property
    def told(self) -> dict[str, Any]:
        """Keys of the model's config that its tensors do not tell, as the study stored them."""
        try:
            told = json.loads(self.fingerprint.get("config", "{}"))
        except (ValueError, RecursionError):
            told = None
        return told if isinstance(told, dict) else {}

    @property
    def mapping_digest(self) -> str | None:
        """SHA-256 of the mapping file that the study was created with; None where it stored none."""
        found = self.told.get("mapping")
        return found if isinstance(found, str) and found else None

    @property
    def reading(self) -> dict[str, str]:
        """How the model was read, in words: what was given and is not of its files. Empty where nothing was.

        Keys ``family`` (a mapping file with the beginning of its hash), ``tokenizer`` and ``config``.
        """
        spec, found = self.spec, {}
        if spec.family is not None:
            digest = self.mapping_digest
            found["family"] = f"{spec.family} (SHA-256 {digest[:12]}…)" if digest else spec.family
        if spec.tokenizer is not None:
            found["tokenizer"] = spec.tokenizer
        if spec.config:
            found["config"] = ", ".join(f"{key}={value}" for key, value in sorted(spec.config.items()))
        return found

    @property
    def timesteps(self) -> int | None:
        """Steps over which every token is presented; None where time is the token index."""
        steps = self.told.get("timesteps")
        return self.spec.timesteps or (steps if isinstance(steps, int) and steps > 1 else None)


def own_process() -> tuple[int, str]:
    """Return (pid, host) of this process, as a run registers them."""
    return os.getpid(), own_host()


@cache
def own_host() -> str:
    """Return the name of the place whose processes can be looked at from here.

    The host's name; in a container, which numbers processes on its own, followed by ``#`` and six digits.
    """
    name = socket.gethostname()
    try:
        space = os.readlink("/proc/self/ns/pid")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:  # not Linux
        return name
    return name if space == _FIRST_SPACE else f"{name}#{sha256((boot + space).encode()).hexdigest()[:6]}"


def local_time(seconds: float) -> str:
    """Return ISO 8601 local time without offset of seconds since 1970."""
    return datetime.fromtimestamp(seconds).isoformat(timespec="seconds")


def seconds_of(text: str) -> float:
    """Return seconds since 1970 of an ISO 8601 time, local when it has no offset; now when empty."""
    return datetime.fromisoformat(text).timestamp() if text else time.time()


def is_alive(pid: int, host: str, heartbeat: float, now: float) -> bool:
    """Return whether a registered process beats, and on this host also exists."""
    if now - heartbeat > DEAD_SECONDS:
        return False
    if host != own_host():
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it exists and is another user's
        return True
    return True


def study_row(
    row: RowMapping,
    name: str,
    runs: Sequence[RowMapping],
    counts: Mapping[str, int],
    now: float,
    held_back: Mapping[str, Comparison] | None = None,
) -> StudyRow:
    """Decode a row of ``qslm_study`` with the processes registered on it."""
    spec = StudySpec.from_mapping(row["spec"])
    baseline = Baseline(**row["baseline"]) if row["baseline"] else None
    alive = [run for run in runs if is_alive(run["pid"], run["host"], run["heartbeat"], now)]
    last = max(alive or runs, key=lambda run: run["heartbeat"], default=None)
    state: StudyState = "running" if alive else _state_at_rest(row, runs, now)
    return StudyRow(
        uuid=row["uuid"],
        name=name,
        spec=spec,
        fingerprint=row["fingerprint"],
        baseline=baseline,
        bound=MetricBound.of(spec, baseline).value if baseline else None,
        budget=row["budget"],
        hierarchy=Hierarchy.from_json(row["hierarchy"]),
        state=state,
        created=local_time(row["created"]),
        order=row["block_order"],
        pid=last["pid"] if last else None,
        host=last["host"] if last else None,
        heartbeat=local_time(last["heartbeat"]) if last else None,
        counts={**NO_COUNTS, **counts},
        progress=row["progress"],
        phase=last["phase"] if last else None,
        reason=row["reason"] if state == row["state"] else "",  # else another worker left it
        stop_requested=row["stop_requested"] is not None,
        extra=row["extra"] or [],
        held_back=held_back or {},
    )


def _state_at_rest(row: RowMapping, runs: Sequence[RowMapping], now: float) -> StudyState:
    """Return the state of a study none of whose registered processes is alive."""
    state: StudyState = row["state"]
    if state != "running":
        return state
    starting = not runs and now - row["state_since"] <= DEAD_SECONDS
    return state if starting else "dead"
