"""Starting, stopping and deleting studies: by the command line, in processes of their own. No Textual.

A run is started in a session of its own, so that it outlives the dashboard. The storage goes into the
environment, because a command line is public.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qslm_opt.store import StudyRow

_PATIENCE_SECONDS = 120.0
_ENDED_WELL = (0, 4)
"""Exit codes of a run that ended: with candidates, or because nothing is feasible."""


@dataclass(frozen=True)
class Answer:
    """What a command said."""

    code: int
    text: str
    """Its last line, the sentence for the user."""


@dataclass
class Run:
    """A search that was started from here."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def failure(self) -> str | None:
        """Return the last line of its log once it has ended badly, else None."""
        code = self.process.poll()
        if code is None or code in _ENDED_WELL:
            return None
        return last_line(self.log) or f"it ended with exit code {code}; see {self.log}"


def qslm_opt(words: Sequence[str]) -> list[str]:
    """Return the command line of ``qslm-opt`` under this Python."""
    return [sys.executable, "-m", "qslm_opt.cli.main", *words]


def environment(url: str) -> dict[str, str]:
    """Return the environment of a command on a storage."""
    return {**os.environ, "QSLM_OPT_STORAGE": url, "QSLM_OPT_BEGAN": repr(time.time()), "NO_COLOR": "1"}


def log_file(name: str) -> Path:
    """Return where a study that runs in the background writes what it says: where the command line does."""
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "qslm-opt" / f"{name}.log"


def start(words: Sequence[str], name: str, url: str) -> Run:
    """Start a command that outlives this process; raise OSError when its log cannot be written."""
    log = log_file(name)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        process = subprocess.Popen(
            qslm_opt(words), stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment(url),
            start_new_session=True,
        )  # fmt: skip
    return Run(name, process, log)


def ask(words: Sequence[str], url: str) -> Answer:
    """Run a short command to its end and return what it said."""
    try:
        done = subprocess.run(
            qslm_opt(words), stdin=subprocess.DEVNULL, capture_output=True, env=environment(url),
            timeout=_PATIENCE_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Answer(1, f"'qslm-opt {' '.join(words)}' gave no answer in {_PATIENCE_SECONDS:.0f} s.")
    lines = (done.stderr + done.stdout).decode("utf-8", "replace").strip().splitlines()
    return Answer(done.returncode, lines[-1] if lines else "")


def can_stop_now(row: StudyRow) -> bool:
    """Return whether the process of a study is on this host, so that it can be sent a signal."""
    return row.state == "running" and row.pid is not None and row.host == socket.gethostname()


def stop_now(row: StudyRow) -> str:
    """Send SIGTERM to the study's process: its running trial fails. Return a sentence about it."""
    if not can_stop_now(row) or row.pid is None:
        return f"The process of {row.name!r} is not on this host; stop it after its trial instead."
    try:
        os.kill(row.pid, signal.SIGTERM)
    except OSError as error:
        return f"Process {row.pid} cannot be stopped: {error.strerror}."
    return f"Process {row.pid} was told to stop now; its running trial is lost, all others are stored."


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
