"""``qslm-opt study create`` and ``resume``: every key of a StudySpec is a flag."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qslm_opt.cli import spec_options as keys
from qslm_opt.cli.facts import ENDED
from qslm_opt.cli.launchers import LauncherKind, import_ray, launch_on_ray
from qslm_opt.cli.options import (
    Device,
    Json,
    Name,
    PowerWindow,
    Progress,
    ProgressKind,
    Storage,
    Watch,
    Workers,
    command,
    reading,
    storage_url,
    writing,
)
from qslm_opt.cli.output import narrate, print_json
from qslm_opt.cli.running import (
    need_terminal,
    open_session,
    read_facts,
    report,
    resumable,
    run,
    watch_in_background,
)
from qslm_opt.cli.spec_flags import bits_list, make_spec, pins
from qslm_opt.errors import UsageError

if TYPE_CHECKING:
    from qslm_opt.pipeline import Session
    from qslm_opt.spec import StudySpec
    from qslm_opt.store import Repository, StudyRow


def create(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="Name of the study; the spec file's without it.",
                       show_default=False),
    ] = None,
    spec: Annotated[
        Path | None,
        typer.Option("--spec", metavar="FILE", help="TOML file with the keys below; flags win.",
                     show_default=False),
    ] = None,
    model: keys.Model = None,
    task: keys.Task = None,
    memory_budget: keys.MemoryBudget = None,
    max_drop: keys.MaxDrop = None,
    min_accuracy: keys.MinAccuracy = None,
    max_increase: keys.MaxIncrease = None,
    max_perplexity: keys.MaxPerplexity = None,
    lam: keys.Lambda = None,
    precisions: keys.Precisions = None,
    sensitivity_precisions: keys.SensitivityPrecisions = None,
    layout: keys.Layout = None,
    quantizer: keys.Quantizer = None,
    fixed: keys.Fixed = None,
    sign_embedding: keys.SignEmbedding = None,
    pin: keys.Pin = None,
    data: keys.Data = None,
    split: keys.Split = None,
    window: keys.Window = None,
    limit: keys.Limit = None,
    hold_back: keys.HoldBack = None,
    report_split: keys.ReportSplit = None,
    confidence: keys.Confidence = None,
    calibration_split: keys.CalibrationSplit = None,
    calibration: keys.Calibration = None,
    window_batch: keys.WindowBatch = None,
    matmul: keys.Matmul = None,
    embed_spike: keys.EmbedSpike = None,
    rescale_every: keys.RescaleEvery = None,
    seed: keys.Seed = None,
    storage: Storage = None,
    device: Device = None,
    workers: Workers = 1,
    power_window: PowerWindow = None,
    launcher: Annotated[
        LauncherKind,
        typer.Option("--launcher", help="Where --workers run: on this host, or on a Ray cluster."),
    ] = "local",
    no_run: Annotated[bool, typer.Option("--no-run", help="Create it only.")] = False,
    watch: Watch = False,
    progress: Progress = "auto",
    json: Json = False,
) -> None:  # fmt: skip
    """Create a study and run it: find the fewest bits that keep the metric and fit the memory.

    Data goes to stdout, narration to stderr. Exit code 4: it ended and nothing meets both constraints.
    """
    if no_run and (watch or workers > 1):
        raise UsageError("--no-run runs nothing; leave --watch and --workers out, or --no-run.")
    if launcher == "ray" and (no_run or watch):
        raise UsageError("--launcher ray runs the study and waits; leave --no-run and --watch out.")
    _check_watch(watch, json)
    made = make_spec(
        name,
        spec,
        {
            "model": model, "task": task, "memory_budget": memory_budget, "max_drop": max_drop,
            "min_accuracy": min_accuracy, "max_increase": max_increase, "max_perplexity": max_perplexity,
            "lambda": lam, "precisions": bits_list("--precisions", precisions),
            "sensitivity_precisions": bits_list("--sensitivity-precisions", sensitivity_precisions),
            "layout": layout, "quantizer": quantizer, "fixed": fixed, "sign_embedding": sign_embedding,
            "pins": pins(pin or ()), "data": data, "split": split, "window": window, "limit": limit,
            "window_batch": window_batch, "matmul": matmul, "embed_spike": embed_spike,
            "rescale_every": rescale_every, "seed": seed, "device": device, "power_window": power_window,
            "calibration_split": calibration_split, "calibration": calibration, "hold_back": hold_back,
            "report_split": report_split, "confidence": confidence,
        },
    )  # fmt: skip
    made = made.located(Path.cwd())
    url = storage_url(storage)
    if launcher == "ray":
        import_ray()  # before anything is stored
        create_only(made, url, False)
        with resumable(made.name, url):
            launch_on_ray(made, url, workers)
        report(made.name, url, as_json=json)
    elif no_run:
        create_only(made, url, json)
    elif watch:
        create_only(made, url, False)
        watch_in_background(made.name, url, workers)
    else:
        create_and_run(made, url, progress=progress, workers=workers, as_json=json)


def resume(
    name: Name,
    storage: Storage = None,
    device: Device = None,
    workers: Workers = 1,
    power_window: PowerWindow = None,
    watch: Watch = False,
    progress: Progress = "auto",
    json: Json = False,
) -> None:
    """Go on with a study where it stopped, or help one that runs as another worker."""
    _check_watch(watch, json)
    url = storage_url(storage)
    with writing(url) as repository:
        row = repository.study(name)
        left = _to_report(repository, row)
    if row.state in ENDED and not left:
        narrate(f"study {name!r} has ended, nothing is left to run")
        report(name, url, as_json=json)
        return
    if watch:
        watch_in_background(name, url, workers, device, power_window)
        return
    seconds = row.spec.power_window if power_window is None else power_window
    spec = replace(row.spec, device=device or row.spec.device, power_window=seconds)
    with resumable(name, url):
        run(
            name, url, open_session(spec), progress=progress, workers=workers, as_json=json,
            power_window=power_window,
        )  # fmt: skip


def _to_report(repository: Repository, row: StudyRow) -> bool:
    """Return whether a study's result is still to be measured on its held-back data."""
    if not row.spec.reports:
        return False
    from qslm_opt.search.reporting import due

    return bool(due(row, repository.trials(row.name)))


def create_and_run(
    spec: StudySpec, url: str, *, progress: ProgressKind, workers: int = 1, as_json: bool = False
) -> None:
    """Create a study and run it to its end."""
    session = _create(spec, url)
    narrate(f"study {spec.name!r} is created; watch it live: {command('watch', spec.name, url=url)}")
    run(spec.name, url, session, progress=progress, workers=workers, as_json=as_json)


def create_only(spec: StudySpec, url: str, as_json: bool) -> None:
    """Create a study without running it."""
    _create(spec, url)
    narrate(f"study {spec.name!r} is created; run it: {command('study', 'resume', spec.name, url=url)}")
    if as_json:
        print_json(read_facts(spec.name, url).to_json())


def _create(spec: StudySpec, url: str) -> Session:
    from qslm_opt.store import prepare, study_exists

    prepare(url)
    with reading(url) as repository:
        if spec.name in repository.names():
            raise study_exists(spec.name, url)
    session = open_session(spec)
    from qslm_opt.search.driver import create_study

    whole = session.hierarchy.fp32_bytes()
    if spec.budget_bytes(whole) >= whole:
        narrate(f"the memory budget {spec.memory_budget} rules nothing out: the model has {whole:,} bytes")
    create_study(spec, url, session)
    return session


def _check_watch(watch: bool, json: bool) -> None:
    if watch and json:
        raise UsageError("--watch shows a dashboard and prints no JSON; leave one of --watch and --json out.")
    if watch:
        need_terminal()
