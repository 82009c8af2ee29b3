"""``qslm-opt worker``: another process, on this host or any other, helps a study."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from qslm_opt.cli.facts import ENDED
from qslm_opt.cli.options import Deadline, Device, Progress, Storage, complete_names, storage_url, writing
from qslm_opt.cli.output import narrate
from qslm_opt.cli.running import deadline_of, open_session, read_facts, resumable, work
from qslm_opt.cli.unfinished import say_unfinished
from qslm_opt.models.mapping.stored import check_mapping


def worker(
    study: Annotated[
        str,
        typer.Option("--study", metavar="NAME", help="Name of the study.", autocompletion=complete_names),
    ],
    storage: Storage = None,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="M", show_default=False,
                     help="Where the same model is on this host, when not where the study has it."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="DIR", show_default=False,
                     help="Where the same data is on this host, when not where the study has it."),
    ] = None,
    device: Device = None,
    deadline: Deadline = None,
    progress: Progress = "auto",
) -> None:  # fmt: skip
    """Join a study from anywhere that reaches its storage, and help until it ends.

    Refused (exit code 3) unless model, data, spec, code and arithmetic are those of the study. A worker may
    join and leave at any time, by Ctrl-C or by kill -9: the candidates are those of one worker.
    """
    url, until = storage_url(storage), deadline_of(deadline)
    with writing(url) as repository:
        row = repository.study(study)
    if row.state in ENDED:
        narrate(f"study {study!r} has ended, nothing is left to run")
        return
    known = row.spec
    check_mapping(study, known.family, row.mapping_digest)
    spec = replace(
        known,
        model=model or known.model,
        data=known.data if data is None else str(data),
        device=device or known.device,
    )
    with resumable(study, url):
        session = open_session(spec.located(Path.cwd()))
        summary = work(study, url, session, progress=progress, deadline=until)
    trials = sum(summary.evaluations.values())
    if summary.deadline:
        say_unfinished(read_facts(study, url), url)
        return
    narrate(f"study {study!r} is {summary.state} after {trials} evaluations by all its workers")
