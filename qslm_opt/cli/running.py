"""Running a study from the command line: the session, the workers, and what is said at the end."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from qslm_opt.cli.background import command_line, start
from qslm_opt.cli.background import log_file as log_file
from qslm_opt.cli.facts import ENDED, StudyFacts
from qslm_opt.cli.meters import REST_KEY, meter_of, told_at_rest
from qslm_opt.cli.options import command, reading
from qslm_opt.cli.output import narrate, print_json, size
from qslm_opt.cli.placement import Place, describe, held_to, places_of
from qslm_opt.cli.progress import make_listener
from qslm_opt.cli.tables import print_candidates
from qslm_opt.cli.unfinished import say_unfinished
from qslm_opt.errors import InfeasibleError, UsageError
from qslm_opt.safe import file_stem
from qslm_opt.search.deadline import DEADLINE, Deadline, clock

if TYPE_CHECKING:
    from qslm_opt.cli.options import ProgressKind
    from qslm_opt.pipeline import Session
    from qslm_opt.search.summary import RunSummary
    from qslm_opt.spec import StudySpec

SHOWN = 20
"""Candidates that are listed at the end of a run; ``study candidates`` lists them all."""
_GRACE_SECONDS = 30.0
_LATE_SECONDS = 5.0
HELPER_KEY = "QSLM_OPT_HELPER"
"""Tells a process that it helps one that speaks for both."""
_BEGAN_KEY = "QSLM_OPT_BEGAN"
"""Tells a process that this one starts when the user asked for the run, in seconds since 1970."""
_began = {"at": time.time()}


def begin() -> None:
    """Note that a command begins: a request to stop its study that comes later is not lost in loading."""
    _began["at"] = float(os.environ.get(_BEGAN_KEY) or time.time())


def deadline_of(text: str | None) -> Deadline | None:
    """Return what ``--deadline`` says, counted from when the user asked for the run; UsageError otherwise."""
    return Deadline.of(text, _began["at"])


def open_session(spec: StudySpec) -> Session:
    """Load model and data for a search; what cannot be is said before torch is imported."""
    from qslm_opt.cli import model_session

    return model_session.open_session(spec, narrate)


def run(
    name: str, url: str, session: Session, *, progress: ProgressKind, workers: int = 1, as_json: bool = False,
    power_window: float | None = None, deadline: Deadline | None = None,
) -> None:  # fmt: skip
    """Run a study to its end in this process and ``workers - 1`` others, then print its candidates.

    Raises InfeasibleError when it ends without one, or a ``deadline`` comes before there is one, and leaves
    with 130 when it is interrupted. Without a GPU of its own to each, the workers share one, or the CPU's
    cores. ``power_window`` is what the other processes are told to use in place of the study's own.
    """
    summary = work(
        name, url, session, progress=progress, workers=workers, power_window=power_window, deadline=deadline
    )
    report(name, url, as_json=as_json, ended=summary.state in ENDED)
    if summary.deadline and HELPER_KEY not in os.environ:
        say_unfinished(read_facts(name, url), url)
    elif summary.state == "stopped" and not summary.deadline:
        narrate(f"stopped as asked. Go on with: {_resume_words(name, url)}")


def work(
    name: str,
    url: str,
    session: Session,
    *,
    progress: ProgressKind,
    workers: int = 1,
    power_window: float | None = None,
    deadline: Deadline | None = None,
) -> RunSummary:
    """Work on a study in this process and ``workers - 1`` others until it ends; print no result."""
    with resumable(name, url):
        from qslm_opt.search.driver import run_study

        with reading(url) as repository:
            row = repository.study(name)
        known = row.baseline
        metric, unquantized = row.spec.metric, lambda: (known or session.baseline()).value
        listener = make_listener(progress, metric, unquantized, deadline)
        places = places_of(session, workers)
        if workers > 1:
            narrate(describe(places))
        if deadline is not None and progress != "none":
            narrate(f"the search ends at its deadline at the latest, in {clock(deadline.left())}")
        with ExitStack() as stack:
            # First the meter: the device is at rest only before the other workers start.
            idle = row.state != "running" or told_at_rest(name)
            meter = stack.enter_context(meter_of(session, idle=idle))
            stack.enter_context(held_to(places[0]))
            own = row.spec.device
            alone = [place for place in places if places.count(place) == 1]
            stack.enter_context(
                workers_on(
                    name, url, places[1:], own, power_window=power_window, at_rest=alone, deadline=deadline
                )
            )
            stack.enter_context(listener)
            return run_study(
                name, url, session, listener=listener, meter=meter, since=_began["at"], deadline=deadline
            )


@contextmanager
def resumable(name: str, url: str) -> Iterator[None]:
    """Leave with 130 when Ctrl-C comes inside, and say how to go on with the study, which is stored."""
    try:
        yield
    except KeyboardInterrupt:
        narrate(f"interrupted; what was finished is stored. Go on with: {_resume_words(name, url)}")
        raise typer.Exit(130) from None


def take_away(facts: StudyFacts, url: str) -> str:
    """Return the command that packs a study's best setting at its λ."""
    row = facts.row
    turned = () if facts.lam == row.spec.lam else ("--lambda", f"{facts.lam:g}")
    words = ("--study", row.name, *turned, "--output", f"{file_stem(row.name)}-packed")
    return command("model", "pack", row.spec.model, *words, url=url)


def before_taking(facts: StudyFacts) -> list[str]:
    """Return what to know before the best setting is taken away.

    That held-back data disagrees with it, and that another candidate is smaller, each in a sentence.
    """
    best = facts.best
    words: list[str] = []
    if best is None:
        return words
    held = facts.row.held_back.get(best.record.digest)
    if held is not None and held.value is not None and not held.within:
        words.append(
            f"on held-back data trial {best.record.number} is beyond the bound (✗), so nothing is proven "
            "yet: search on more data, or demand more with --confidence 0.95"
        )
    least = min((entry.record for entry in facts.ranked), key=lambda record: record.bytes)
    if least.bytes < best.record.bytes:
        words.append(
            f"the smallest candidate is trial {least.number}, {size(least.bytes)}; --trial {least.number} "
            f"takes it in place of what λ = {facts.lam:g} prefers"
        )
    return words


def report(name: str, url: str, *, as_json: bool = False, ended: bool = False) -> None:
    """Print a study's candidates; raise InfeasibleError when it has ended without one.

    ``ended``: it is known to have, though another worker may still be at its last trial.
    """
    facts = read_facts(name, url)
    rows = facts.rows()
    if as_json:
        print_json({**facts.to_json(), "candidates": rows})
    elif rows:
        print_candidates(facts, rows[:SHOWN], len(rows))
        if facts.row.state == "finished" and facts.best is not None:
            narrate(f"finished; take trial {facts.best.record.number} away: {take_away(facts, url)}")
            for words in before_taking(facts):
                narrate(words)
    in_vain = None if as_json else facts.tuned_in_vain()
    if in_vain is not None:
        narrate(in_vain)
    if not rows and (ended or facts.row.state in ENDED):
        raise InfeasibleError(f"{facts.nothing_feasible()}.")


def read_facts(name: str, url: str | None, lam: float | None = None) -> StudyFacts:
    """Read a study and its trials."""
    with reading(url) as repository:
        row = repository.study(name)
        searched = repository.comparisons(row.uuid, "searched") if row.spec.compares else {}
        return StudyFacts(row, repository.trials(name), row.spec.lam if lam is None else lam, searched)


def run_detached(
    name: str, url: str, workers: int, device: str | None = None, power_window: float | None = None,
    deadline: Deadline | None = None,
) -> tuple[subprocess.Popen[bytes], Path]:  # fmt: skip
    """Start ``study resume`` as a process that outlives this one; return it and its log file."""
    words = [
        *_resume(name), "--progress", "plain", "--workers", str(workers), *_on(device),
        *_window(power_window), *_until(deadline),
    ]  # fmt: skip
    return start(words, name, _environment(url))


def watch_in_background(
    name: str, url: str, workers: int, device: str | None = None, power_window: float | None = None,
    deadline: Deadline | None = None,
) -> None:  # fmt: skip
    """Run the study in a process of its own, on its own device or ``device``; open the dashboard here."""
    from qslm_opt.cli.watch import open_dashboard

    need_terminal()
    process, log = run_detached(name, url, workers, device, power_window, deadline)
    open_dashboard(url, name)
    code = process.poll()
    if code is None:
        process.returncode = 0  # it is left alone on purpose
        narrate(f"the search goes on in process {process.pid}; what it says is in {log}")
        narrate(f"watch it: {command('watch', name, url=url)}")
        narrate(f"stop it: {command('study', 'stop', name, url=url)}")
    elif code in (0, 4):
        report(name, url)
        facts = read_facts(name, url)
        if deadline is not None and facts.row.reason == DEADLINE:
            say_unfinished(facts, url)
    else:
        narrate(f"the search ended with exit code {code}; what it said is in {log}")
        raise typer.Exit(code)


def need_terminal() -> None:
    """Raise UsageError unless the dashboard can be shown here."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("the dashboard needs a terminal; leave --watch out, or use 'qslm-opt study show'.")


@contextmanager
def workers_on(
    name: str, url: str, places: Sequence[Place], own: str, *, quiet: bool = False,
    power_window: float | None = None, at_rest: Sequence[Place] = (), deadline: Deadline | None = None,
) -> Iterator[None]:  # fmt: skip
    """Run a process on the study at each place; end them when this one is interrupted or fails.

    ``own`` is the study's own device, which a worker knows. On the places ``at_rest`` nobody else computes.
    ``quiet`` ones do not narrate; an exit code of theirs that is a failure is narrated here all the same.
    """
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for place in places:
            device = None if place.device == own else place.device
            worker = subprocess.Popen(
                [
                    *_resume(name), "--progress", "none", *_on(device), *_window(power_window),
                    *_until(deadline),
                ],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                env={
                    **_environment(url), **place.environment(os.environ),
                    **({REST_KEY: name} if place in at_rest else {}), HELPER_KEY: name,
                },
                stderr=subprocess.DEVNULL if quiet else None,
            )  # fmt: skip
            processes.append(worker)
        yield
        if deadline is not None and not deadline.left():
            _end_late(processes)
        _wait(processes, None)
    except BaseException:
        for process in processes:
            process.terminate()
        _wait(processes, _GRACE_SECONDS)
        raise


def _end_late(processes: Sequence[subprocess.Popen[Any]]) -> None:
    """End what still loads when the deadline has come; what runs trials ends by itself at the same time."""
    until = time.monotonic() + _LATE_SECONDS
    while time.monotonic() < until and any(process.poll() is None for process in processes):
        time.sleep(0.05)
    for process in processes:
        if process.poll() is None:
            process.terminate()
            process.wait()
            process.returncode = 0  # on purpose


def _wait(processes: Sequence[subprocess.Popen[Any]], seconds: float | None) -> None:
    for process in processes:
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        if code not in (0, 4, 130):
            narrate(f"worker {process.pid} ended with exit code {code}")


def _resume_words(name: str, url: str) -> str:
    return command("study", "resume", name, url=url)


def _resume(name: str) -> list[str]:
    return command_line(["study", "resume", name])


def _environment(url: str) -> dict[str, str]:
    """Return the environment of a worker; the storage goes there, because a command line is public."""
    return {**os.environ, "QSLM_OPT_STORAGE": url, _BEGAN_KEY: repr(_began["at"])}


def _on(device: str | None) -> list[str]:
    return [] if device is None else ["--device", device]


def _window(seconds: float | None) -> list[str]:
    return [] if seconds is None else ["--power-window", repr(seconds)]


def _until(deadline: Deadline | None) -> list[str]:
    """Return the same deadline for another process of this host, which counts from the same moment."""
    return [] if deadline is None else ["--deadline", deadline.text]
