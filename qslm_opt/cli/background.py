"""Commands that outlive the process that starts them, and the log files that they write."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from qslm_opt.cli.log import LOG_KEY
from qslm_opt.safe import file_stem


def command_line(words: Sequence[str]) -> list[str]:
    """Return the command line of ``qslm-opt`` under this Python."""
    return [sys.executable, "-m", "qslm_opt.cli.main", *words]


def log_file(name: str) -> Path:
    """Return where a study that runs in the background writes what it says."""
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "qslm-opt" / f"{file_stem(name)}.log"


def start(
    command: Sequence[str], name: str, environment: Mapping[str, str]
) -> tuple[subprocess.Popen[bytes], Path]:
    """Start a command on a study in a session of its own; return its process and its log file.

    The file does not grow without bound: the command is told which it is, see ``RotatingLog``. Raises OSError
    when it cannot be written.
    """
    log = log_file(name)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        process = subprocess.Popen(
            list(command), stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
            env={**environment, LOG_KEY: str(log.absolute())},
        )  # fmt: skip
    return process, log
