"""``qslm-opt study create`` and ``resume``: every key of a StudySpec is a flag."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qslm_opt.cli import spec_options as keys
from qslm_opt.cli.facts import ENDED
from qslm_opt.cli.launchers import LauncherKind, import_ray, launch_on_ray
from qslm_opt.cli.options import (
    Deadline,
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
    complete_names,
    reading,
    storage_url,
    writing,
)
from qslm_opt.cli.output import narrate, print_json, size
from qslm_opt.cli.running import (
    deadline_of,
    need_terminal,
    open_session,
    read_facts,
    report,
    resumable,
    run,
    watch_in_background,
)
from qslm_opt.cli.spec_flags import bits_list, config_keys, lay_over, make_spec, pins
from qslm_opt.cli.unfinished import say_unfinished
from qslm_opt.errors import UsageError
from qslm_opt.models.mapping.stored import check_mapping
from qslm_opt.search.deadline import DEADLINE

if TYPE_CHECKING:
    from qslm_opt.pipeline import Session
    from qslm_opt.search.deadline import Deadline as RunDeadline
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
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="STUDY", show_default=False, autocompletion=complete_names,
                     help="Take over spec and evaluations of this study; only what is missing is run."),
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
    exclude: keys.Exclude = None,
    tie: keys.Tie = None,
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
    family: keys.Family = None,
    tokenizer: keys.Tokenizer = None,
    timesteps: keys.Timesteps = None,
    config: keys.Config = None,
    strategy: keys.Strategy = None,
    beam_width: keys.BeamWidth = None,
    evaluations: keys.Evaluations = None,
    tune: keys.Tune = None,
    gate: keys.Gate = None,
    every: keys.Every = None,
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
    deadline: Deadline = None,
    watch: Watch = False,
    progress: Progress = "auto",
    json: Json = False,
) -> None:  # fmt: skip
    """Create a study and run it: find the fewest bits that keep the metric and fit the memory.

    Data goes to stdout, narration to stderr. Exit code 4: it ended, or came to its deadline, and nothing
    meets both constraints.
    """
    if no_run and (watch or workers > 1 or deadline is not None):
        raise UsageError("--no-run runs nothing; leave --watch, --workers and --deadline out, or --no-run.")
    until = deadline_of(deadline)
    if launcher == "ray" and (no_run or watch):
        raise UsageError("--launcher ray runs the study and waits; leave --no-run and --watch out.")
    _check_watch(watch, json)
    flags = {
        "model": model, "task": task, "memory_budget": memory_budget, "max_drop": max_drop,
        "min_accuracy": min_accuracy, "max_increase": max_increase, "max_perplexity": max_perplexity,
        "lambda": lam, "precisions": bits_list("--precisions", precisions),
        "sensitivity_precisions": bits_list("--sensitivity-precisions", sensitivity_precisions),
        "layout": layout, "quantizer": quantizer, "fixed": fixed, "sign_embedding": sign_embedding,
        "pins": pins(pin or ()), "exclude": tuple(exclude) if exclude else None,
        "ties": tuple(tie) if tie else None,
        "data": data, "split": split, "window": window, "limit": limit,
        "window_batch": window_batch, "matmul": matmul, "embed_spike": embed_spike,
        "rescale_every": rescale_every, "seed": seed, "device": device, "power_window": power_window,
        "calibration_split": calibration_split, "calibration": calibration, "strategy": strategy,
        "beam_width": beam_width, "evaluations": evaluations, "gate": gate, "every": every, "tune": tune,
        "family": family, "tokenizer": tokenizer, "timesteps": timesteps, "config": config_keys(config),
        "hold_back": hold_back, "report_split": report_split, "confidence": confidence,
    }  # fmt: skip
    url = storage_url(storage)
    made = make_spec(name, spec, flags) if source is None else _continued(name, spec, source, flags, url)
    made = made.located(Path.cwd())
    if launcher == "ray":
        import_ray()  # before anything is stored
        create_only(made, url, False, source)
        with resumable(made.name, url):
            launch_on_ray(made, url, workers, until)
        report(made.name, url, as_json=json)
        facts = read_facts(made.name, url)
        if until is not None and facts.row.reason == DEADLINE:
            say_unfinished(facts, url)
    elif no_run:
        create_only(made, url, json, source)
    elif watch:
        create_only(made, url, False, source)
        watch_in_background(made.name, url, workers, deadline=until)
    else:
        create_and_run(
            made, url, progress=progress, workers=workers, as_json=json, deadline=until, source=source
        )


def resume(
    name: Name,
    storage: Storage = None,
    device: Device = None,
    workers: Workers = 1,
    power_window: PowerWindow = None,
    deadline: Deadline = None,
    watch: Watch = False,
    progress: Progress = "auto",
    json: Json = False,
) -> None:
    """Go on with a study where it stopped, or help one that runs as another worker."""
    _check_watch(watch, json)
    url, until = storage_url(storage), deadline_of(deadline)
    with writing(url) as repository:
        row = repository.study(name)
        left = _to_report(repository, row)
    if row.state in ENDED and not left:
        narrate(f"study {name!r} has ended, nothing is left to run")
        report(name, url, as_json=json)
        return
    check_mapping(name, row.spec.family, row.mapping_digest)
    if watch:
        watch_in_background(name, url, workers, device, power_window, until)
        return
    seconds = row.spec.power_window if power_window is None else power_window
    spec = replace(row.spec, device=device or row.spec.device, power_window=seconds)
    with resumable(name, url):
        run(
            name, url, open_session(spec), progress=progress, workers=workers, as_json=json,
            power_window=power_window, deadline=until,
        )  # fmt: skip


def _to_report(repository: Repository, row: StudyRow) -> bool:
    """Return whether a study's result is still to be measured on its held-back data."""
    if not row.spec.reports:
        return False
    from qslm_opt.search.reporting import due

    return bool(due(row, repository.trials(row.name)))


def create_and_run(
    spec: StudySpec, url: str, *, progress: ProgressKind, workers: int = 1, as_json: bool = False,
    deadline: RunDeadline | None = None, source: str | None = None,
) -> None:  # fmt: skip
    """Create a study, with the evaluations of ``source`` where one is given, and run it to its end."""
    session = _create(spec, url, source)
    narrate(f"study {spec.name!r} is created; watch it live: {command('watch', spec.name, url=url)}")
    run(
        spec.name, url, session, progress=progress, workers=workers, as_json=as_json, deadline=deadline
    )


def create_only(spec: StudySpec, url: str, as_json: bool, source: str | None = None) -> None:
    """Create a study without running it."""
    _create(spec, url, source)
    narrate(f"study {spec.name!r} is created; run it: {command('study', 'resume', spec.name, url=url)}")
    if as_json:
        print_json(read_facts(spec.name, url).to_json())


def _continued(
    name: str | None, file: Path | None, source: str, flags: Mapping[str, Any], url: str
) -> StudySpec:
    """Return the spec of a study that takes over what ``source`` measured."""
    from qslm_opt.search.targets import require_same_evaluations

    if file is not None or name is None:
        raise UsageError("--from takes the spec of its study; give NAME, and no --spec.")
    with reading(url) as repository:
        row = repository.study(source)
    known = row.spec
    if flags["family"] is None:
        check_mapping(source, known.family, row.mapping_digest)
    made = lay_over(asdict(known), {"name": name, **flags})
    require_same_evaluations(known, made)
    return made


def _create(spec: StudySpec, url: str, source: str | None = None) -> Session:
    from qslm_opt.store import is_new, prepare, study_exists

    if not is_new(url):  # a new one is created with the study: a refused study leaves no file
        prepare(url)
        with reading(url) as repository:
            if spec.name in repository.names():
                raise study_exists(spec.name, url)
    session = open_session(spec)
    from qslm_opt.search.driver import create_study

    whole = session.hierarchy.fp32_bytes()
    if spec.budget_bytes(whole) >= whole:
        narrate(f"the memory budget {spec.memory_budget} rules nothing out: the model has {size(whole)}")
    if source is None:
        create_study(spec, url, session)
        return session
    from qslm_opt.search.reuse import check_source, reuse

    with reading(url) as repository:
        check_source(repository.study(source), session.fingerprint())
    create_study(spec, url, session)
    count = reuse(source, spec, url)
    narrate(f"{count} evaluations of study {source!r} are used; only what is missing is run")
    return session


def _check_watch(watch: bool, json: bool) -> None:
    if watch and json:
        raise UsageError("--watch shows a dashboard and prints no JSON; leave one of --watch and --json out.")
    if watch:
        need_terminal()
