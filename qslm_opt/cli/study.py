"""``qslm-opt study``: create, resume, answer, list, show, candidates, report, stop, export and so on."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from qslm_opt.cli.export import ExportFormat, export_study, export_text, write_text
from qslm_opt.cli.facts import ENDED
from qslm_opt.cli.options import (
    Json,
    Lambda,
    Name,
    Storage,
    Yes,
    command,
    complete_names,
    reading,
    storage_url,
    writing,
)
from qslm_opt.cli.output import narrate, print_json, size
from qslm_opt.cli.running import before_taking, read_facts, take_away
from qslm_opt.cli.study_answer import answer
from qslm_opt.cli.study_create import create, resume
from qslm_opt.cli.study_report import report
from qslm_opt.cli.tables import print_candidates, print_studies, print_study
from qslm_opt.errors import InfeasibleError, UsageError

app = typer.Typer(name="study", help="Create, run, look at and export studies.", no_args_is_help=True)
app.command()(create)
app.command()(resume)
app.command()(answer)


@app.command(name="list")
def list_studies(storage: Storage = None, json: Json = False) -> None:
    """List the studies of a storage."""
    with reading(storage) as repository:
        rows = repository.studies()
    if json:
        studies = [
            {
                "name": row.name, "state": row.state, "model": row.spec.model, "task": row.spec.task,
                "metric": row.spec.metric, "bound": row.bound, "budget": row.budget, "counts": row.counts,
                "created": row.created,
            }
            for row in rows
        ]  # fmt: skip
        print_json({"studies": studies})
    elif rows:
        print_studies(rows)
    else:
        narrate("there are no studies yet; create one with 'qslm-opt study create', or try 'qslm-opt demo'")


@app.command()
def show(name: Name, lam: Lambda = None, storage: Storage = None, json: Json = False) -> None:
    """Show what a study is, how far it is, and its best setting."""
    facts = read_facts(name, storage, lam)
    if json:
        print_json(facts.to_json())
        return
    print_study(facts)
    in_vain = facts.tuned_in_vain()
    if in_vain is not None:
        narrate(in_vain)
    if facts.best is None and facts.trials:
        narrate(facts.nothing_feasible() if facts.row.state in ENDED else facts.nothing_yet())
    elif facts.best is not None and facts.row.state in ENDED:
        narrate(f"take it away: {take_away(facts, storage_url(storage))}")
        for words in before_taking(facts):
            narrate(words)


@app.command()
def candidates(
    name: Name,
    lam: Lambda = None,
    top: Annotated[
        int | None, typer.Option("--top", min=1, help="Only the first so many.", show_default=False)
    ] = None,
    pareto: Annotated[bool, typer.Option("--pareto", help="Only the Pareto front.")] = False,
    winners: Annotated[bool, typer.Option("--winners", help="Only those that win at some λ.")] = False,
    every: Annotated[
        bool, typer.Option("--all", help="Also settings that were measured and violate a constraint.")
    ] = False,
    storage: Storage = None,
    json: Json = False,
) -> None:
    """Rank the candidates by the score at any λ; nothing is run.

    Exit code 4: the study has ended and no setting meets both constraints.
    """
    facts = read_facts(name, storage, lam)
    rows = facts.rows(every)
    if pareto:
        rows = [row for row in rows if row["pareto"]]
    if winners:
        rows = [row for row in rows if row["lambda_interval"] is not None]
    if json:
        print_json({"study": name, "metric": facts.metric, "lambda": facts.lam, "rows": rows[:top]})
    elif rows:
        print_candidates(facts, rows[:top], len(rows))
    if facts.ranked:
        return
    if facts.row.state in ENDED:
        raise InfeasibleError(f"{facts.nothing_feasible()}.")
    narrate(facts.nothing_yet())


app.command()(report)


@app.command()
def stop(name: Name, storage: Storage = None) -> None:
    """Ask a running study to stop after the trial that it is running; a tuning ends at its next step."""
    with writing(storage) as repository:
        row = repository.study(name)
        if row.state in ENDED:
            narrate(f"study {name!r} is not running, it is {row.state}")
            return
        repository.request_stop(row.uuid)
    if row.state != "running":
        narrate(
            f"study {name!r} is not running, it is {row.state}; a process that is loading it now stops, too"
        )
        return
    go_on = command("study", "resume", name, url=storage_url(storage))
    tuning = " (a tuning ends at its next step)" if row.spec.tune else ""
    narrate(f"asked study {name!r} to stop after its running trial{tuning}. Go on with: {go_on}")


@app.command()
def export(
    name: Name,
    format: Annotated[
        ExportFormat,
        typer.Option(
            "--format",
            help="json: the chosen setting. csv, jsonl: all trials. study: all of it, for 'import'.",
        ),
    ] = "json",
    trial: Annotated[
        int | None,
        typer.Option("--trial", help="Setting of this trial, not of the best.", show_default=False),
    ] = None,
    lam: Lambda = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="File to write, not stdout.", show_default=False),
    ] = None,
    storage: Storage = None,
) -> None:
    """Export the chosen setting (for 'model evaluate --setting'), all trials, or the whole study."""
    if format != "json" and (trial is not None or lam is not None):
        raise UsageError(f"--format {format} exports every trial; leave --trial and --lambda out.")
    if trial is not None and lam is not None:
        raise UsageError("--trial names the setting and --lambda chooses it; give one of them.")
    if format == "study":
        with reading(storage) as repository:
            repository.study(name)
        export_study(name, storage_url(storage), output)
        return
    write_text(export_text(read_facts(name, storage, lam), format, trial), output)


@app.command(name="import")
def import_file(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What 'export --format study' wrote.")],
    name: Annotated[
        str | None, typer.Option("--name", help="Another name for the study.", show_default=False)
    ] = None,
    storage: Storage = None,
) -> None:
    """Import a study from a file, whole or not at all; it can be resumed as if it had been here."""
    from qslm_opt.search.transfer import import_study

    url = storage_url(storage)
    found = import_study(file, url, name)
    stale = f", {found.stale} of them were running and will run again" if found.stale else ""
    narrate(f"imported study {found.name!r} with its {found.trials} trials{stale}")
    narrate(f"look at it: {command('study', 'show', found.name, url=url)}")
@app.command(name="compact")
def compact_storage(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="Only this study's reports are deleted.", show_default=False,
                       autocompletion=complete_names),
    ] = None,
    storage: Storage = None,
    json: Json = False,
) -> None:  # fmt: skip
    """Make a storage small again, while none of its studies runs.

    Intermediate reports of finished trials are deleted, which only optuna-dashboard's plot of them shows;
    free pages go back to the disk, and the write-ahead log is emptied. Trials and results stay.
    """
    from qslm_opt.store import compact

    done = compact(storage_url(storage), name)
    if json:
        print_json(asdict(done))
        return
    sizes = ""
    if done.before_bytes is not None and done.after_bytes is not None:
        sizes = f"{size(done.before_bytes)} before, {size(done.after_bytes)} after; "
    narrate(f"{sizes}{done.reports:,} intermediate reports deleted")


@app.command()
def delete(name: Name, yes: Yes = False, storage: Storage = None) -> None:
    """Delete a study and all its trials."""
    with writing(storage) as repository:
        row = repository.study(name)
    if row.state == "running":
        raise UsageError(
            f"study {name!r} is being run by process {row.pid} on {row.host}; "
            f"stop it first: {command('study', 'stop', name, url=storage_url(storage))}."
        )
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError(f"deleting study {name!r} needs an answer and there is no terminal; give --yes.")
        count = sum(row.counts.values())
        if not typer.confirm(f"Delete study {name!r} with its {count} trials?", err=True):
            narrate("nothing was deleted")
            return
    from qslm_opt.search.driver import delete_study

    delete_study(name, storage_url(storage))
    narrate(f"deleted study {name!r}")
