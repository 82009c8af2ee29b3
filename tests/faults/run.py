"""Faults at random points of real runs: is anything lost, is the result that of an undisturbed run?

    python -m tests.faults.run --points 100 --seed 0 --json
    python -m tests.faults.run --points 100 --session demo
    python -m tests.faults.run --points 50 --storage postgresql+psycopg://user@127.0.0.1/faults

Each point is a study of its own: a process works on it until the fault strikes, then others resume it until
it ends. ``lost`` counts model runs that left no result; a fault may cost the one that it hit.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sqlite3
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from qslm_opt.errors import QslmError
from qslm_opt.search import heart, leases
from qslm_opt.search.driver import SilentListener, create_study, run_study
from qslm_opt.spec import StudySpec
from qslm_opt.store import Repository
from tests.faults.injection import (
    KINDS,
    Kind,
    Point,
    count_statements,
    strike_at_statement,
    strike_in_evaluation,
)
from tests.search.toy import spec, toy

RESUMES = 4
"""A study that is not finished after so many resumes is a failure."""
LEASE = 2.0
"""Seconds; the real one is a minute."""
STAND_IN = spec(
    max_increase="100%", memory_budget="17%", precisions=(8, 4, 3, 2), sensitivity_precisions=(4,)
)
DEMO = StudySpec.from_mapping(
    {"name": "toy", "model": "demo", "task": "demo", "device": "cpu", "max_increase": "8%", "limit": 2,
     "memory_budget": "11%", "precisions": [6, 4, 3], "sensitivity_precisions": [3], "window_batch": 2}
)  # fmt: skip


class Counted:
    """A session that counts its model runs in a file, and can be struck in the middle of one."""

    def __init__(
        self, session: Any, runs: Path, strike: Callable[[], None] | None = None, at: int = 0
    ) -> None:
        self._session, self._runs, self._strike, self._at = session, runs, strike, at
        self.spec, self.hierarchy = session.spec, session.hierarchy
        self.fingerprint, self.baseline, self.probe = session.fingerprint, session.baseline, session.probe
        self._count = 0

    def run(self, setting: Any, **rest: Any) -> Any:
        """Count a run, then do it."""
        self._count += 1
        with self._runs.open("ab", buffering=0) as file:
            file.write(b".")
        struck = self._strike if self._count == self._at else None
        report = rest.pop("report")

        def reported(progress: Any) -> bool:
            nonlocal struck
            if struck is not None:
                strike, struck = struck, None
                strike()
            return bool(report(progress))

        return self._session.run(setting, report=reported, **rest)


def open_session(kind: str) -> Any:
    """Return a session of fixed cost, or the embedded model."""
    if kind == "stand-in":
        return toy(STAND_IN, delay=0.0005)
    from qslm_opt.pipeline import Session

    return Session.open(DEMO)


@dataclass
class Place:
    """Where one study of the comparison lives."""

    url: str
    folder: Path
    session: str
    name: str = "toy"

    @property
    def runs(self) -> Path:
        """The file that holds one byte a model run."""
        return self.folder / "runs"

    def work(self, prepare: Callable[[], Any] = lambda: None, point: Point | None = None) -> int:
        """Work on the study in a process of its own; return its exit code, negative for a signal."""
        return wait(self.start(prepare, point))

    def start(self, prepare: Callable[[], Any] = lambda: None, point: Point | None = None) -> int:
        """Start a process that works on the study; return its pid."""
        sys.stdout.flush()
        child = os.fork()
        if child:
            return child
        code = 70
        try:
            code = self._work(prepare, point)
        except KeyboardInterrupt:
            code = 130
        except QslmError as error:
            code = error.exit_code
            (self.folder / "said").write_text(str(error))
        except BaseException as error:  # noqa: BLE001  what has no name is what this looks for
            (self.folder / "said").write_text(f"{type(error).__name__}: {error}")
        finally:
            os._exit(code)

    def _work(self, prepare: Callable[[], Any], point: Point | None) -> int:
        read = prepare()
        fired, strike = (self.folder / "fired").touch, None
        if point is not None and point.kind.at == "evaluation":
            strike = lambda: strike_in_evaluation(point, fired)  # noqa: E731
        session = Counted(open_session(self.session), self.runs, strike, point.number if point else 0)
        if point is not None and point.kind.at == "statement":
            strike_at_statement(point, fired)
        listener = Said()
        run_study(self.name, self.url, session, listener=listener)
        (self.folder / "lines").write_text("\n".join(listener.lines))
        if read is not None:
            (self.folder / "statements").write_text(str(read()))
        return 0

    def result(self) -> dict[str, Any]:
        """What must not depend on faults: the study's end, its candidates and the settings on its way."""
        with Repository(self.url) as repository:
            row, trials = repository.study(self.name), repository.trials(self.name)
        candidates = sorted((t.digest, t.value, t.bytes) for t in trials if t.feasible)
        way = sorted({t.digest for t in trials if t.state in ("complete", "pruned") and not t.extra})
        return {"state": row.state, "order": row.order, "candidates": candidates, "way": way,
                "running": sum(t.state == "running" for t in trials)}  # fmt: skip

    def lost(self) -> int:
        """Return how many model runs left no result: all that were begun, less the settings measured."""
        with Repository(self.url) as repository:
            measured = {trial.digest for trial in repository.trials(self.name) if trial.used}
        return self.runs.stat().st_size - len(measured)


class Said(SilentListener):
    """Keeps what is narrated."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def on_narrate(self, text: str) -> None:
        """Keep it."""
        self.lines.append(text)


def wait(pid: int, seconds: float = 300.0) -> int:
    """Return the exit code of a child, negative for a signal; kill one that hangs."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return -1000


def stopped(pid: int) -> bool:
    """Wait until a child has stopped itself; False when it ended instead."""
    return os.WIFSTOPPED(os.waitpid(pid, os.WUNTRACED)[1])


@dataclass
class Tally:
    """What became of all points of one fault."""

    fault: str
    injected: int = 0
    lost: int = 0
    most: int = 0
    """Most model runs that one fault cost."""
    resumes: int = 0
    wrong: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready object."""
        return {"fault": self.fault, "injected": self.injected, "trials_lost": self.lost,
                "trials_lost_at_most": self.most, "resumes": self.resumes, "equal": not self.wrong,
                "wrong": self.wrong}  # fmt: skip


class Comparison:
    """Runs points one after another and compares each with the undisturbed run."""

    def __init__(self, folder: Path, session: str, storage: str | None, seed: int) -> None:
        self.folder, self.session, self.storage = folder, session, storage
        self.random = random.Random(seed)
        self.backend = "postgresql" if storage else "sqlite"
        whole = self._place("undisturbed")
        code = whole.work(count_statements)
        if code:
            raise SystemExit(f"the undisturbed run ended with {code}: {(whole.folder / 'said').read_text()}")
        self.expected = whole.result()
        self.evaluations = whole.runs.stat().st_size
        self.statements = int((whole.folder / "statements").read_text())

    def _place(self, name: str) -> Place:
        """Return a new study; in SQLite a copy of one that was created once."""
        folder = self.folder / name
        folder.mkdir()
        database = folder / "study.db"
        place = Place(f"sqlite:///{database}", folder, self.session)
        if self.storage:
            place.url, place.name = self.storage, f"{name}-{os.getpid()}"
            self._create(place)
        else:
            template = self.folder / "template.db"
            if not template.exists():
                self._create(Place(f"sqlite:///{template}", self.folder, self.session))
            shutil.copy(template, database)
        return place

    def _create(self, place: Place) -> None:
        pid = os.fork()  # a model is never loaded in the process that forks
        if not pid:
            try:
                session = open_session(self.session)
                create_study(session.spec.renamed(place.name), place.url, session)
                os._exit(0)
            finally:
                os._exit(1)
        if wait(pid):
            raise SystemExit(f"study {place.name} could not be created in {self.backend}")

    def strike(self, kind: Kind, tally: Tally, number: int) -> None:
        """Let one fault strike somewhere, resume the study to its end, and compare."""
        place = self._place(f"{number:04d}")
        copies = place.folder / "copy"
        copies.mkdir()
        most = self.statements if kind.at == "statement" else self.evaluations
        database = place.folder / "study.db" if self.backend == "sqlite" else None
        point = Point(kind, self.random.randint(1, most), self.random.random(), copies, database)
        code = self._disturbed(place, point)
        if not (place.folder / "fired").exists():  # another number of heartbeats: it came too late
            return self.strike(kind, tally, number + 1000)
        if code not in kind.codes:
            said = place.folder / "said"
            words = said.read_text() if said.exists() else "nothing said"
            tally.wrong.append(f"at {point.number}: exit code {code}, {words}")
        if kind.name.startswith("power cut"):
            place.url = f"sqlite:///{copies / 'study.db'}"
        self._compare(place, tally, point)
        return None

    def _disturbed(self, place: Place, point: Point) -> int:
        if not point.kind.suspends:
            return place.work(point=point)
        pid = place.start(short_leases, point)
        if not stopped(pid):
            return -1
        other = place.work(short_leases)
        os.kill(pid, signal.SIGCONT)
        code = wait(pid)
        told = "closed by another worker meanwhile" in (place.folder / "lines").read_text()
        return other or code or (0 if told else -2)

    def _compare(self, place: Place, tally: Tally, point: Point) -> None:
        resumes = 0
        while place.result()["state"] != "finished" and resumes < RESUMES:
            place.work()
            resumes += 1
        found = place.result()
        tally.injected += 1
        tally.resumes += resumes
        lost = place.lost()
        tally.lost, tally.most = tally.lost + lost, max(tally.most, lost)
        for key, value in self.expected.items():
            if found[key] != value:
                tally.wrong.append(f"at {point.number}: {key} differs")
        if self.backend == "sqlite":
            with closing(sqlite3.connect(place.url.removeprefix("sqlite:///"))) as connection:
                (verdict,) = connection.execute("PRAGMA integrity_check").fetchone()
            if verdict != "ok":
                tally.wrong.append(f"at {point.number}: {verdict}")


def short_leases() -> None:
    """Let a lease end after seconds, in this process."""
    heart.BEAT_SECONDS = 0.1
    leases.Leases.__init__.__defaults__ = (LEASE, time.monotonic)


def compare(
    points: int, seed: int, session: str, storage: str | None, kinds: Sequence[Kind]
) -> dict[str, Any]:
    """Strike ``points`` times, each kind in turn; return the report."""
    with TemporaryDirectory(prefix="qslm-faults-") as folder:
        comparison = Comparison(Path(folder), session, storage, seed)
        tallies = {kind: Tally(kind.name) for kind in kinds if comparison.backend in kind.storages}
        for number, kind in enumerate(islice(cycle(tallies), points)):
            comparison.strike(kind, tallies[kind], number)
            sys.stderr.write(f"{number + 1}/{points} {kind.name}\n")
    return {
        "schema": 1, "session": session, "storage": comparison.backend, "seed": seed, "points": points,
        "evaluations": comparison.evaluations, "statements": comparison.statements,
        "faults": [tally.to_json() for tally in tallies.values()],
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison; exit code 1 when anything differs or more than the running trial was lost."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--points", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--session", choices=("stand-in", "demo"), default="stand-in")
    parser.add_argument("--storage", metavar="URL", help="a PostgreSQL URL; SQLite files without it")
    parser.add_argument("--only", metavar="WORDS", action="append", help="faults whose name has these words")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    if given.session == "demo":
        import torch  # noqa: F401  once, not in every process
    kinds = [kind for kind in KINDS if not given.only or any(words in kind.name for words in given.only)]
    report = compare(given.points, given.seed, given.session, given.storage, kinds)
    if given.json:
        sys.stdout.write(json.dumps(report, indent=1) + "\n")
    else:
        sys.stdout.write("| fault | times injected | trials lost | result equal |\n|---|---|---|---|\n")
        for row in report["faults"]:
            equal = "yes" if row["equal"] else "; ".join(row["wrong"])
            lost = f"{row['trials_lost']}, at most {row['trials_lost_at_most']} each"
            sys.stdout.write(f"| {row['fault']} | {row['injected']} | {lost} | {equal} |\n")
    return int(not all(row["equal"] for row in report["faults"]))


if __name__ == "__main__":
    sys.exit(main())
