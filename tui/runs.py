"""Starting, stopping and deleting studies: by the command line, in processes of their own. No Textual.

A run is started in a session of its own, so that it outlives the dashboard. The storage goes into the
environment, because a command line is public.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qslm_opt.cli import background
from qslm_opt.cli.background import log_file as log_file
from qslm_opt.errors import QslmError

if TYPE_CHECKING:
    from qslm_opt.store import StudyRow

_PATIENCE_SECONDS = 120.0
_NOTHING_FEASIBLE = 4
"""Exit code of a search that found nothing, and of a study that is refused before there is one."""


@dataclass(frozen=True)
class Answer:
    """What a command said."""

    code: int
    text: str
    """Its last line, the sentence for the user."""
    title: str = ""


@dataclass
class Run:
    """A search that was started from here."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    began: bool = False
    """Whether its study was seen to run since."""

    def failure(self, url: str) -> Answer | None:
        """Return the last line of its log when it has ended badly, else None; may look into the storage."""
        code = self.process.poll()
        if not code or (code == _NOTHING_FEASIBLE and exists(self.name, url)):
            return None
        words = last_line(self.log) or f"it ended with exit code {code}; see {self.log}"
        return Answer(code, words, f"{self.name} was not run")


def environment(url: str) -> dict[str, str]:
    """Return the environment of a command on a storage."""
    return {**os.environ, "QSLM_OPT_STORAGE": url, "QSLM_OPT_BEGAN": repr(time.time()), "NO_COLOR": "1"}


def start(words: Sequence[str], name: str, url: str) -> Run:
    """Start a command that outlives this process; raise OSError when its log cannot be written."""
    return Run(name, *background.start(background.command_line(words), name, environment(url)))


def ask(words: Sequence[str], url: str) -> Answer:
    """Run a short command to its end and return what it said."""
    try:
        done = subprocess.run(
            background.command_line(words), stdin=subprocess.DEVNULL, capture_output=True,
            env=environment(url), timeout=_PATIENCE_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Answer(1, f"'qslm-opt {' '.join(words)}' gave no answer in {_PATIENCE_SECONDS:.0f} s.")
    lines = (done.stderr + done.stdout).decode("utf-8", "replace").strip().splitlines()
    return Answer(done.returncode, lines[-1] if lines else "")


def exists(name: str, url: str) -> bool:
    """Return whether a study is in a storage; False too where that cannot be read."""
    from qslm_opt.store import open_repository

    try:
        repository = open_repository(url, read_only=True)
    except QslmError:
        return False
    try:
        repository.study(name)
    except QslmError:
        return False
    finally:
        repository.close()
    return True


def can_stop_now(row: StudyRow) -> bool:
    """Return whether the process that beat last is on this host, so that it can be sent a signal."""
    from qslm_opt.store.rows import own_host

    return row.state == "running" and row.pid is not None and row.host == own_host()


def processes(row: StudyRow, url: str) -> list[tuple[str, int]]:
    """Return (host, pid) of each process that works on a study; raise StorageError when it cannot be read.

    One whose last sign is much older than the newest does not count: its pid may be another's by now.
    """
    from qslm_opt.store import open_repository
    from qslm_opt.store.rows import is_alive

    repository = open_repository(url, read_only=True)
    try:
        beats = repository.beats(row.uuid)
    finally:
        repository.close()
    newest = max(beats.values(), default=0.0)
    return sorted((host, pid) for (host, pid), beat in beats.items() if is_alive(pid, host, beat, newest))


def stop_now(row: StudyRow, working: Sequence[tuple[str, int]]) -> Answer:
    """Send SIGTERM to a study's processes on this host: their running trials fail. Say what came of it.

    working: (host, pid) of each process.
    """
    from qslm_opt.store.rows import own_host

    here = [pid for host, pid in working if host == own_host() and pid > 0]  # others are groups of processes
    others = sorted({host for host, _ in working if host != own_host()})
    rest = f" Those on {', '.join(others)} go on; stop them after their trials." if others else ""
    if not here:
        return Answer(1, f"No process of {row.name!r} is on this host; stop it after its trial instead.")
    problems = [f"Process {pid} cannot be stopped: {why}." for pid in here if (why := _end(pid))]
    told = len(here) - len(problems)
    if told:
        told_words = "1 process was" if told == 1 else f"{told} processes were"
        problems.append(
            f"{told_words} told to stop {row.name!r} now; a running trial is lost, all others are stored."
        )
    return Answer(1 if len(problems) > bool(told) else 0, " ".join(problems) + rest)


def _end(pid: int) -> str:
    """Send SIGTERM; return why that cannot be, empty when it was sent."""
    try:
        os.kill(pid, signal.SIGTERM)
    except OSError as error:
        return error.strerror or str(error)
    return ""


def last_line(log: Path, size: int = 4096) -> str:
    """Return the last line of a log that is not empty."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - size))
            lines = file.read().decode("utf-8", "replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1].strip() if lines else ""


def leave(run: Run) -> None:
    """Let a run go on without this process: it is not waited for, on purpose."""
    process: Any = run.process
    if process.poll() is None:
        process.returncode = 0
