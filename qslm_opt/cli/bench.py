"""``qslm-opt bench``: what evaluations, studies and storage cost here, against stated alternatives."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qslm_opt.cli.model_options import Device
from qslm_opt.cli.options import Json
from qslm_opt.cli.output import narrate, print_json
from qslm_opt.errors import QslmError, UsageError, did_you_mean
from qslm_opt.spec import MATMULS, StudySpec

if TYPE_CHECKING:
    from qslm_opt.bench.run import Bench
    from qslm_opt.bench.study import StudySpeeds

SECTIONS = ("throughput", "sentences", "study", "scaling", "storage", "workers", "packed", "neurons")
VERSIONS = ("reference", "compiled", "fast")
STUDIES: tuple[dict[str, Any], ...] = (
    {
        "name": "bench", "model": "demo", "task": "demo", "max_increase": "2%", "memory_budget": "12%",
        "precisions": [6, 5, 4, 3, 2], "sensitivity_precisions": [2], "limit": 16, "window_batch": 2,
    },
    {
        "name": "bench", "model": "demo", "task": "demo-classify", "max_drop": 0.005,
        "memory_budget": "12%", "precisions": [6, 4, 3], "sensitivity_precisions": [3], "window_batch": 32,
    },
)  # fmt: skip
"""The demo studies, cut down to seconds; small batches, so that early stopping and order have a choice."""
_BOUNDS: dict[str, dict[str, Any]] = {"classification": {"max_drop": 0.02}, "lm": {"max_increase": "5%"}}


def bench(
    model: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", show_default=False,
                       help="'demo', a folder, a .pth file, or a Hugging Face id. [default: demo]"),
    ] = None,
    shape: Annotated[
        str | None,
        typer.Option("--shape", help="14m or 216m: random weights in place of MODEL.", show_default=False),
    ] = None,
    sections: Annotated[
        str, typer.Option("--sections", help="Which of these, separated by commas.")
    ] = ",".join(SECTIONS),
    dashboard: Annotated[
        bool,
        typer.Option("--dashboard", help="Only what the dashboard costs: to open, to turn λ, to leave open."),
    ] = False,
    batches: Annotated[str, typer.Option("--batches", help="Windows per forward pass.")] = "4,16,32",
    window: Annotated[int, typer.Option("--window", min=1, help="Tokens per window.")] = 1024,
    modes: Annotated[
        str | None,
        typer.Option("--modes", show_default=False,
                     help="Precisions of products: fp32, tf32, fp16, split. [default: all there are here]"),
    ] = None,
    versions: Annotated[
        str, typer.Option("--versions", help="Plain torch, torch.compile, ours.")
    ] = ",".join(VERSIONS),
    bits: Annotated[int, typer.Option("--bits", help="Of the weights; 32 is unquantized.")] = 8,
    repeats: Annotated[
        int, typer.Option("--repeats", min=1, help="Timings a row; of a study at most 3.")
    ] = 5,
    task: Annotated[
        str | None,
        typer.Option("--task", show_default=False,
                     help="Study MODEL on this task: demo, demo-classify, sst2 or wikitext2. "
                     "[default: the demo model on both demo tasks, cut down]"),
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", metavar="DIR", help="Folder with the parquet files of --task.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="The first so many windows or sentences of --task.")
    ] = None,
    workers: Annotated[
        int,
        typer.Option("--workers", min=1,
                     help="Processes of the study that several search; 1: none. In workers: the most."),
    ] = 2,
    storage: Annotated[
        str | None,
        typer.Option("--storage", metavar="URL", show_default=False,
                     help="Of the section workers; its study is deleted again. [default: a new file]"),
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option("--trials", min=2, show_default=False,
                     help="Trials of the section storage [1000], or of --dashboard [10000]."),
    ] = None,
    device: Device = "auto",
    json: Json = False,
) -> None:  # fmt: skip
    """Measure speed and cost here: medians of runs taken in turns, each beside what it is compared with.

    All sections take about ten minutes on two cores; --versions fast and --repeats 1 are quick.
    Exit code 1: a study found another verdict with one of its savings off.
    """
    if dashboard:
        _dashboard(trials or 10_000, as_json=json)
        return
    wanted = _chosen("--sections", sections, SECTIONS)
    chosen_versions = _chosen("--versions", versions, VERSIONS)
    chosen_modes = None if modes is None else _chosen("--modes", modes, MATMULS[1:])
    sizes = _sizes(batches)
    specs = _specs(model, shape, task, data, limit, device)
    _check_sources(model, [spec.model for spec in specs] if "study" in wanted else [])
    if "study" in wanted and task is None and (model or shape or "demo") != "demo":
        narrate(f"section study: the demo model is studied, not {shape or model}; --task studies MODEL")
    from qslm_opt.bench.run import Bench, Options

    made = Bench(
        Options(
            model or "demo", shape, device, bits, sizes, window, chosen_modes, chosen_versions, repeats,
            workers, trials or 1000, storage,
        ),
        narrate,
    )  # fmt: skip
    value, differing = _run(made, wanted, specs, show=not json)
    if json:
        print_json(value)
    if differing:
        raise QslmError(
            f"a saving changed a verdict: {differing[0]} ({len(differing)} in all); this is a bug, report it "
            "with the output of 'qslm-opt doctor'."
        )


def _dashboard(trials: int, *, as_json: bool) -> None:
    """Measure the dashboard on a study of so many trials."""
    if find_spec("textual") is None or find_spec("tui") is None:
        raise UsageError("--dashboard needs textual; run: pip install textual.")
    from qslm_opt.bench.dashboard import dashboard_cost
    from qslm_opt.cli.bench_tables import print_dashboard

    cost = dashboard_cost(trials, tell=narrate)
    if as_json:
        print_json({"dashboard": asdict(cost)})
    else:
        print_dashboard(cost)


def _run(
    made: Bench, wanted: tuple[str, ...], specs: list[StudySpec], *, show: bool
) -> tuple[dict[str, Any], list[str]]:
    """Measure the sections, print each as it is done, and return all as JSON with what differs in studies."""
    from qslm_opt.cli import bench_tables as tables
    from qslm_opt.cli.bench_neurons import print_neurons
    from qslm_opt.cli.bench_packed import print_packed

    value: dict[str, Any] = {**made.machine()}
    differing: list[str] = []
    speeds = [name for name in ("throughput", "sentences") if name in wanted]
    if show:
        tables.print_machine(made.machine())
    if speeds or {"scaling", "packed"} & set(wanted):
        value |= made.what()
        if show:
            tables.print_model(made.what())
    if speeds:
        value["rates"] = made.rates_json()
        if show:
            tables.print_rates(made.rates)
    for name in wanted:
        if name in speeds:
            rows = made.throughput() if name == "throughput" else made.sentences()
            value[name] = _skipped(rows) if isinstance(rows, str) else [row.to_json() for row in rows]
            if show:
                tables.print_speeds(name, rows)
        elif name == "study":
            studies = made.studies(specs, _start_workers(made))
            value[name] = [study.to_json() for study in studies]
            differing += _differing(studies)
            if show:
                tables.print_studies(studies)
        elif name == "scaling":
            scaling = made.scaling()
            value[name] = _skipped(scaling) if isinstance(scaling, str) else scaling.to_json()
            if show:
                tables.print_scaling(scaling)
        elif name == "packed":
            packed = made.packed()
            value[name] = _skipped(packed) if isinstance(packed, str) else packed.to_json()
            if show:
                print_packed(value[name])
        elif name == "neurons":
            value[name] = [row.to_json() for row in made.neurons()]
            if show:
                print_neurons(value[name])
        elif name == "workers":
            shared = made.shared()
            value[name] = [asdict(row) for row in shared]
            if show:
                tables.print_shared(shared)
        else:
            cost = made.storage()
            value[name] = asdict(cost)
            if show:
                tables.print_storage(cost)
    return value, differing


def _skipped(why: str) -> dict[str, str]:
    return {"note": why}


def _differing(studies: list[StudySpeeds]) -> list[str]:
    return [
        f"task {study.task}, {row.switches.name}: {text}"
        for study in studies
        for row in study.rows
        for text in row.differences
    ]


def _start_workers(made: Bench) -> Any:
    from qslm_opt.cli.placement import held_to, places_on
    from qslm_opt.cli.running import workers_on

    @contextmanager
    def start(name: str, url: str, count: int) -> Iterator[None]:
        places = places_on(made.device, made.options.device, count + 1)
        with held_to(places[0]), workers_on(name, url, places[1:], "", quiet=True):
            yield

    return start


def _specs(
    model: str | None, shape: str | None, task: str | None, data: str | None, limit: int | None, device: str
) -> list[StudySpec]:
    """Return the studies to run; UsageError when flags contradict each other."""
    if model is not None and shape is not None:
        raise UsageError(f"MODEL {model!r} and --shape {shape} exclude each other; leave one of them out.")
    if task is None:
        for flag, given in (("--data", data), ("--limit", limit)):
            if given is not None:
                raise UsageError(f"{flag} {given} is about --task; give --task too, or leave {flag} out.")
        return [StudySpec.from_mapping({**values, "device": device}) for values in STUDIES]
    if shape is not None:
        raise UsageError(f"--shape {shape} has no trained weights to study; give MODEL with --task {task}.")
    if data is not None and not Path(data).is_dir():
        raise UsageError(f"--data {data!r} is no folder; give the one with the parquet files of {task}.")
    from qslm_opt.cli.model_session import kind_of

    values = {
        "name": "bench", "model": model or "demo", "task": task, "memory_budget": "12%",
        "precisions": [8, 6, 5, 4, 3, 2], "data": data, "limit": limit, "device": device,
        **_BOUNDS[kind_of(task)],
    }  # fmt: skip
    return [StudySpec.from_mapping(values).located(Path.cwd())]


def _check_sources(model: str | None, studied: list[str]) -> None:
    """Say of a model that does not exist before torch is imported."""
    from qslm_opt.models.locate import check_source

    for source in dict.fromkeys([model or "demo", *studied]):
        check_source(source)


def _chosen(flag: str, text: str, known: tuple[str, ...]) -> tuple[str, ...]:
    """Return the words of a list, each once; UsageError for one that is unknown, or for none."""
    words = tuple(dict.fromkeys(word.strip() for word in text.split(",")))
    for word in words:
        if word not in known:
            hint = did_you_mean(word, known)
            raise UsageError(f"{flag} {word!r} is unknown; use {', '.join(known)}.{hint}")
    return words


def _sizes(text: str) -> tuple[int, ...]:
    try:
        sizes = tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        sizes = (0,)
    if min(sizes) < 1:
        raise UsageError(f"--batches {text!r} is no list of sizes of 1 or more; write for instance 4,16,32.")
    return sizes
