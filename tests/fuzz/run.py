"""Fuzz what reads files: ``python tests/fuzz/run.py [--count N | --seconds S] [--target T] [--json]``.

Each target runs in a process of its own, so that a crash of native code or the end of memory is counted
and not suffered. An input depends on seed, target and its number alone: ``--target T --first N --count 1``
runs it again. A crash is whatever is neither a result nor a QslmError: another exception, a signal, more
than ten seconds, or more than one gigabyte of address space above the start.
"""

from __future__ import annotations

import argparse
import json
import resource
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from qslm_opt.errors import QslmError  # noqa: E402
from tests.fuzz.targets import TARGETS  # noqa: E402

HANG_SECONDS = 10
MOST_BYTES = 1 << 30
"""Address space that one input may take beyond what the process had."""
MOST_MESSAGE = 2_000
"""Characters of the longest error message that helps."""
SHOWN = 20


@dataclass
class Report:
    """What came of the inputs of one target."""

    target: str
    tried: int = 0
    used: int = 0
    """Inputs that were taken as good."""
    refused: int = 0
    """Inputs that were answered with a QslmError."""
    crashes: list[tuple[int, str]] = field(default_factory=list)
    """(number of the input, what happened)."""
    reasons: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    peak_mib: float = 0.0
    """Growth of the process's resident memory from the first input to its highest point."""

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready object."""
        return {
            "target": self.target, "inputs": self.tried, "used": self.used, "refused": self.refused,
            "crashes": len(self.crashes), "first_crashes": self.crashes[:SHOWN],
            "seconds": round(self.seconds, 1), "peak_mib": round(self.peak_mib, 1),
            "errors": dict(self.reasons.most_common()),
        }  # fmt: skip


class HangError(BaseException):
    """An input took too long. No handler of errors catches it."""


def input_of(target: str, seed: int, number: int) -> bytes:
    """Return one input."""
    return TARGETS[target].make(Random(f"{seed}/{target}/{number}"))


def silent(number: int) -> None:
    """Say nothing."""


def fuzz(
    target: str,
    seed: int,
    first: int,
    count: int,
    seconds: float = float("inf"),
    told: Callable[[int], None] = silent,
) -> Report:
    """Try inputs ``first`` … ``first + count - 1``, or until the time is over; ``told`` where it is."""
    report, start, before = Report(target), time.monotonic(), _peak_mib()
    with tempfile.TemporaryDirectory(prefix="qslm-fuzz-") as top, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in range(first, first + count):
            if time.monotonic() - start > seconds:
                break
            folder = Path(top) / str(number)
            folder.mkdir()
            _try(report, target, seed, number, folder)
            for path in folder.iterdir():
                path.unlink()
            folder.rmdir()
            if number % 50 == 0:
                told(number)
    report.seconds, report.peak_mib = time.monotonic() - start, _peak_mib() - before
    return report


def _try(report: Report, target: str, seed: int, number: int, folder: Path) -> None:
    data = input_of(target, seed, number)
    report.tried += 1
    signal.signal(signal.SIGALRM, _hang)
    signal.setitimer(signal.ITIMER_REAL, HANG_SECONDS)
    try:
        TARGETS[target].use(data, folder)
    except QslmError as error:
        report.refused += 1
        report.reasons[type(error).__name__] += 1
        if not 10 < len(str(error)) < MOST_MESSAGE:
            report.crashes.append((number, f"a message of {len(str(error))} characters"))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - that is what is looked for
        report.crashes.append((number, f"{type(error).__name__}: {str(error)[:300]}"))
    else:
        report.used += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _hang(number: int, frame: object) -> None:
    raise HangError(f"more than {HANG_SECONDS} s")


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MOST_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def child(given: argparse.Namespace) -> None:
    """Fuzz one target in this process and print its report."""
    target = given.target[0]
    fuzz(target, given.seed + 1, 0, 5)  # loads what it needs, which is not the inputs' memory
    _limit_memory()
    done = fuzz(target, given.seed, given.first, given.count, given.seconds, _say)
    print(json.dumps(done.to_json()))


def _say(number: int) -> None:
    """Say where it is, for the case that the next inputs end this process."""
    print(json.dumps({"at": number}), file=sys.stderr, flush=True)


def run_target(target: str, given: argparse.Namespace) -> dict[str, Any]:
    """Fuzz one target in a process of its own; one that dies is a crash, too."""
    words = [
        sys.executable, __file__, "--child", "--target", target, "--seed", str(given.seed),
        "--first", str(given.first), "--count", str(given.count), "--seconds", str(given.seconds),
    ]  # fmt: skip
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    if done.returncode == 0:
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found
    at = [json.loads(line)["at"] for line in done.stderr.splitlines() if line.startswith('{"at"')]
    what = f"the process ended with {done.returncode}: {done.stderr[-300:]}"
    tried = (at[-1] - given.first + 1) if at else 0
    return {"target": target, "inputs": tried, "crashes": 1, "first_crashes": [[at[-1] if at else -1, what]]}


def main() -> int:
    """Run all targets, or those named; 1 when there was a crash."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=10**9, help="inputs of each target")
    parser.add_argument("--seconds", type=float, default=None, help="at most so long for each target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--target", action="append", choices=sorted(TARGETS), help="all of them without it")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.seconds is None:
        given.seconds = 60.0 if given.count == 10**9 else 10.0**9
    if given.child:
        child(given)
        return 0
    rows = [run_target(target, given) for target in given.target or TARGETS]
    if given.json:
        print(json.dumps({"schema": 1, "seed": given.seed, "targets": rows}, indent=2))
    else:
        print("| target | inputs | used | refused | crashes | seconds | memory |")
        print("|---|---|---|---|---|---|---|")
        keys = ("target", "inputs", "used", "refused", "crashes", "seconds", "peak_mib")
        for row in rows:
            print("| " + " | ".join(str(row.get(key, "?")) for key in keys) + " MiB |")
            for number, what in row["first_crashes"]:
                print(f"  input {number} of {row['target']}: {what}", file=sys.stderr)
    return 1 if any(row["crashes"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
