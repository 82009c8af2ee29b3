"""How several processes share one study on one storage, with evaluations of a fixed cost.

``python -m qslm_opt.bench.workers NAME SECONDS TRIALS`` is one of the processes; the storage comes by the
environment, the word to begin on stdin.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from qslm_opt.bench.storage import InstantSession, session_for
from qslm_opt.errors import QslmError
from qslm_opt.search.driver import SilentListener, create_study, delete_study, run_study
from qslm_opt.store import default_url, masked, open_repository

if TYPE_CHECKING:
    from qslm_opt.results import Evaluation, TrialRecord
    from qslm_opt.setting import QuantSetting

COST_SECONDS = 0.1
"""Of one stand-in evaluation, which sleeps; so cores do not limit it."""
LEAST_TRIALS = 100
"""Of the study that they share."""


@dataclass(frozen=True)
class Shared:
    """One study that several processes searched together."""

    storage: str
    """Kind of database."""
    workers: int
    cost_s: float
    seconds: float
    """From the word to begin to the end of the last trial."""
    evaluations: int
    """Model runs that were stored."""
    trials_per_s: float
    speed_up: float
    """How many times as fast as one worker, in time to the end of the search."""
    ahead: int
    """Settings that were measured ahead and not needed."""
    duplicates: int
    """Evaluations of a setting that another worker measured, too."""
    locked: int
    """Workers that ended because the storage was locked."""
    same_result: bool
    """Whether the candidates are those of one worker."""


def measure_workers(
    counts: Sequence[int], *, url: str | None, trials: int, cost_s: float, tell: Callable[[str], None]
) -> list[Shared]:
    """Search one synthetic study of ``trials`` trials or more with each number of processes, one first.

    Args:
        counts: Numbers of processes.
        url: A storage in which studies are created and deleted again; None takes a temporary SQLite file.
        trials: The least number of trials of the study.
        cost_s: Seconds that each evaluation takes.
        tell: Told what is measured.

    Raises:
        StorageError: the storage cannot be used.
        QslmError: a worker failed for another reason than a locked storage.
    """
    found: list[Shared] = []
    expected: set[tuple[str, float | None]] = set()
    for count in dict.fromkeys((1, *counts)):
        tell(f"{count} worker{'s' * (count > 1)}, {cost_s:g} s an evaluation")
        with TemporaryDirectory(prefix="qslm-opt-bench-") as folder:
            where = url or f"sqlite:///{Path(folder) / 'study.db'}"
            seconds, locked, records = _search(where, count, trials, cost_s)
        candidates = {(r.digest, r.value) for r in records if r.feasible}
        expected = expected or candidates
        ran = Counter(r.digest for r in records if r.used and r.state != "failed")
        total = sum(ran.values())
        found.append(
            Shared(
                where.partition(":")[0].partition("+")[0], count, cost_s, seconds, total, total / seconds,
                found[0].seconds / seconds if found else 1.0, sum(r.extra for r in records),
                total - len(ran), locked, candidates == expected,
            )
        )  # fmt: skip
    return found


def _search(url: str, count: int, trials: int, cost_s: float) -> tuple[float, int, list[TrialRecord]]:
    session = _session(f"bench-{uuid4().hex[:12]}", trials, cost_s)
    name = session.spec.name
    create_study(session.spec, url, session)
    try:
        began, codes = _run(url, name, count, trials, cost_s)
        with open_repository(url, read_only=True) as repository:
            records = repository.trials(name)
    finally:
        delete_study(name, url)
    ends = [datetime.fromisoformat(r.finished).timestamp() for r in records if r.finished]
    bad = [words for code, words in codes if code and "locked" not in words]
    if bad:
        raise QslmError(f"a worker on {masked(url)} failed: {bad[0]}")
    return max(ends) - began, sum(code != 0 for code, _ in codes), records


def _run(url: str, name: str, count: int, trials: int, cost_s: float) -> tuple[float, list[tuple[int, str]]]:
    """Let ``count`` processes begin together; return when that was, and how each ended."""
    words = [sys.executable, "-m", "qslm_opt.bench.workers", name, repr(cost_s), str(trials)]
    processes = [
        subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "QSLM_OPT_STORAGE": url},
        )
        for _ in range(count)
    ]  # fmt: skip
    try:
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()  # it has loaded everything
        began = time.time()
        said = []
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        for process in processes:
            _, error = process.communicate()
            said.append((process.returncode, (error.strip().splitlines() or [""])[-1]))
        return began, said
    finally:
        for process in processes:
            process.kill()
            process.wait()


class _Slow(InstantSession):
    """A session whose evaluations take a fixed time."""

    cost_s = 0.0

    def run(self, setting: QuantSetting, **rest: Any) -> tuple[Evaluation, None]:
        """Sleep, then return the evaluation of ``setting``."""
        time.sleep(self.cost_s)
        return super().run(setting, **rest)


def _session(name: str, trials: int, cost_s: float) -> _Slow:
    like = session_for(trials)
    session = _Slow(replace(like.spec, name=name), like.hierarchy)
    session.cost_s = cost_s
    return session


def main() -> int:
    """Work on a stored study once a line arrives on stdin."""
    name, cost_s, trials = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
    session = _session(name, trials, cost_s)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    try:
        run_study(name, default_url(), session, listener=SilentListener())
    except QslmError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
