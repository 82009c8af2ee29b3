"""What the dashboard costs on a large study: to open, to turn λ, to leave open, and what the search feels.

The dashboard runs as a process of its own, without a terminal: qslm_opt stands without it.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from qslm_opt.bench.big_study import NAME, BigStudy, make_big_study, power_between
from qslm_opt.errors import QslmError, StorageError, UsageError
from qslm_opt.search.ledger import close_trial, one_transaction, open_storage, open_trial, write_attributes
from qslm_opt.search.sampler import STATES
from qslm_opt.store import Repository

OPENINGS = 3
TURNS = 20
WATCH_SECONDS = 10.0
ROUNDS = 8
ROUND_SECONDS = 1.5
FLUSH_SECONDS = 0.5
PATIENCE_SECONDS = 180.0


@dataclass(frozen=True)
class DashboardCost:
    """Medians, where a thing was done several times."""

    trials: int
    gpus: int
    open_seconds: float
    """From the start of a cold process to the first full screen with all trials."""
    open_cpu_seconds: float
    """CPU time of the same: what it is where nothing else runs."""
    textual_seconds: float
    """Of these, what a process takes that imports textual and does nothing."""
    turn_ms: float
    """From a key that turns λ to the settled screen."""
    cpu_share: float
    """Of one core, while it is left open and all GPUs are replayed beside it."""
    writer_ms: float
    """One trial of a search without evaluations, the dashboard halted."""
    slowdown: float
    """How much longer it takes while a dashboard is open, as a share; noise can make it negative."""
    slowdown_cpu: float
    """The same of the trial's CPU time, which does not count waiting for a core."""
    writes: int
    """Files of the storage that a dashboard changed."""
    lock_errors: int
    """Reads that failed in the dashboard, and writes that found the storage locked."""
    seconds: float
    """Wall time of the whole measurement."""


def dashboard_cost(
    trials: int, gpus: int = 8, tell: Callable[[str], None] = lambda text: None
) -> DashboardCost:
    """Measure the dashboard on a synthetic study of ``trials`` trials in a temporary SQLite file."""
    began = time.perf_counter()
    with TemporaryDirectory(prefix="qslm-opt-bench-") as folder:
        file = Path(folder) / "study.db"
        tell(f"dashboard, a study of {trials:,} trials")
        study = make_big_study(f"sqlite:///{file}", trials, gpus, socket.gethostname(), os.getpid())
        _feed(study, time.time() - 130, time.time())
        before = _content(file)
        opened, opened_cpu = zip(*(_open_seconds(study) for _ in range(OPENINGS)), strict=True)
        turned = _lines(study, "lam", TURNS)[-1]["turn_ms"]
        writes = sum(a != b for a, b in zip(before, _content(file), strict=True))
        tell(f"dashboard, {gpus} replayed GPUs")
        with _feeding(study) as fed:
            watched = _lines(study, "watch", WATCH_SECONDS)[-1]
        tell("dashboard, beside a search")
        alone, beside, locked = _rounds(study)
    return DashboardCost(
        trials=trials, gpus=gpus, open_seconds=median(opened), open_cpu_seconds=median(opened_cpu),
        textual_seconds=_textual_seconds(),
        turn_ms=median(turned), cpu_share=watched["cpu_share"], writer_ms=median(alone.wall),
        slowdown=median(beside.wall) / median(alone.wall) - 1,
        slowdown_cpu=median(beside.cpu) / median(alone.cpu) - 1, writes=writes,
        lock_errors=watched["troubles"] + locked + len(fed), seconds=time.perf_counter() - began,
    )  # fmt: skip


def _content(file: Path) -> list[str]:
    """Return hashes of the database and its log; the index in memory is not part of the data."""
    files = (file, file.with_name(file.name + "-wal"))
    return [hashlib.sha256(f.read_bytes() if f.exists() else b"").hexdigest() for f in files]


def _viewer(study: BigStudy, mode: str, amount: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tui.bench", study.url, NAME, mode, "--amount", str(amount)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)


def _lines(study: BigStudy, mode: str, amount: float) -> list[dict[str, Any]]:
    """Run a dashboard to its end and return what it said."""
    with _viewer(study, mode, amount) as process:
        out, _ = process.communicate(timeout=PATIENCE_SECONDS)
    if process.returncode:
        raise QslmError(f"the dashboard ended with exit code {process.returncode}; what it said is above.")
    return [json.loads(line) for line in out.splitlines()]


def _open_seconds(study: BigStudy) -> tuple[float, float]:
    """Return wall and CPU seconds until a cold process has painted its first full screen."""
    began = time.perf_counter()
    with _viewer(study, "open", 0) as process:
        line = process.stdout.readline() if process.stdout else ""
        seconds = time.perf_counter() - began
    if process.returncode or not line:
        raise UsageError("the dashboard cannot be opened; 'qslm-opt watch' says why.")
    return seconds, json.loads(line)["cpu_seconds"]


def _textual_seconds() -> float:
    """Return how long a process takes that imports textual."""
    found = []
    for _ in range(OPENINGS):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import textual.app"], check=False)
        found.append(time.perf_counter() - began)
    return median(found)


def _feed(study: BigStudy, since: float, until: float) -> None:
    with Repository(study.url) as repository:
        for index, device in enumerate(study.devices):
            repository.add_power_samples(device.id, power_between(index, since, until))


@contextmanager
def _feeding(study: BigStudy) -> Iterator[list[Exception]]:
    """Write what the replayed GPUs say, twice a second, in a thread; yields what went wrong."""
    stop, errors = threading.Event(), list[Exception]()

    def feed() -> None:
        last = time.time()
        with Repository(study.url) as repository:
            while not stop.wait(FLUSH_SECONDS):
                now = time.time()
                try:
                    repository.beat(study.uuid, os.getpid(), socket.gethostname(), "module")
                    for index, device in enumerate(study.devices):
                        repository.add_power_samples(device.id, power_between(index, last, now))
                except StorageError as error:
                    errors.append(error)
                last = now

    thread = threading.Thread(target=feed, daemon=True)
    thread.start()
    try:
        yield errors
    finally:
        stop.set()
        thread.join()


@dataclass
class _Times:
    """Milliseconds of trials."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def _rounds(study: BigStudy) -> tuple[_Times, _Times, int]:
    """Return milliseconds a trial without and with a dashboard, in turns, and how often it was locked out.

    The dashboard is open all the time and is stopped (SIGSTOP) for the rounds without it, so that both
    kinds of round follow each other closely: what else runs on the machine hits both.
    """
    writer = _Writer(study)
    alone, beside = _Times(), _Times()
    with _viewer(study, "watch", PATIENCE_SECONDS) as process:
        if process.stdout:
            process.stdout.readline()
        for _ in range(ROUNDS):
            process.send_signal(signal.SIGSTOP)
            writer.run(ROUND_SECONDS, alone)
            process.send_signal(signal.SIGCONT)
            writer.run(ROUND_SECONDS, beside)
        process.kill()
    writer.close()
    return alone, beside, writer.locked


class _Writer:
    """Writes trials as the search does, with evaluations that take no time."""

    def __init__(self, study: BigStudy) -> None:
        self.study, self.locked = study, 0
        self.storage = open_storage(study.url)
        self.study_id = self.storage.get_study_id_from_name(NAME)
        self._complete = next(theirs for theirs, ours in STATES.items() if ours == "complete")

    def run(self, seconds: float, times: _Times) -> None:
        """Write trials for so long and note how long each took."""
        end = time.perf_counter() + seconds
        while (began := time.perf_counter()) < end:
            cpu = time.process_time()
            try:
                self._trial()
            except Exception as error:  # whatever the driver calls a locked database
                if "locked" not in str(error):
                    raise
                self.locked += 1
            times.wall.append(1e3 * (time.perf_counter() - began))
            times.cpu.append(1e3 * (time.process_time() - cpu))

    def _trial(self) -> None:
        like = self.study.last
        with one_transaction(self.storage):
            trial = open_trial(self.storage, self.study_id)
            about = {"uuid": f"{trial.id:032x}", "setting": like.setting, "digest": f"{trial.id:016x}"}
            write_attributes(self.storage, trial.id, {**about, "bytes": like.bytes, "fp32_bytes": like.fp32_bytes})
        attributes = {"value": 3.0, "loss": like.loss, "used": like.used, "seconds": 0.0, "power_w": 400.0}
        close_trial(self.storage, trial.id, self._complete, 3.0, attributes, {"metric": -0.1, "memory": -0.1})

    def close(self) -> None:
        """Let the storage go."""
        self.storage.engine.dispose()
