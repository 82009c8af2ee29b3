"""``qslm-opt compare``: the strategies on one model, task and budget, side by side."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qslm_opt.cli.facts import ENDED
from qslm_opt.cli.options import Device, Json, Progress, ProgressKind, Storage, reading, storage_url
from qslm_opt.cli.output import console, metric_value, narrate, print_json, size, table
from qslm_opt.cli.progress import make_listener
from qslm_opt.cli.running import open_session, resumable
from qslm_opt.cli.spec_flags import make_spec
from qslm_opt.errors import UsageError, did_you_mean
from qslm_opt.spec import SAMPLERS, STRATEGIES, StudySpec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qslm_opt.pipeline import Session
    from qslm_opt.search.comparison import Entry

DEFAULT = "tiered,beam,knapsack,tpe,nsga2"


def compare(
    spec: Annotated[Path, typer.Argument(metavar="SPEC", help="TOML file of the study to compare them on.")],
    strategies: Annotated[
        str, typer.Option("--strategies", help=f"Which of {', '.join(STRATEGIES)}, separated by commas.")
    ] = DEFAULT,
    seeds: Annotated[
        int, typer.Option("--seeds", min=1, help="Seeds of those that are random: 0, 1, and so on.")
    ] = 3,
    evaluations: Annotated[
        int | None,
        typer.Option("--evaluations", min=1, metavar="N", show_default=False,
                     help="Most full evaluations of each, cheap ones by their share. Without it ours end by "
                          "themselves, and Optuna's samplers get as many as the longest of ours."),
    ] = None,
    storage: Storage = None,
    device: Device = None,
    progress: Progress = "none",
    json: Json = False,
) -> None:  # fmt: skip
    """Search one study by several strategies with the same model, data and evaluator; compare what they find.

    Each is a study of its own, NAME-STRATEGY or NAME-STRATEGY-SEED, with the same baseline. Weights and
    activations kept of one search are dropped before the next, so that each wall time stands for itself; the
    baseline, and what a quantizer is calibrated on, are measured once before and are in none of them.
    """
    names = _names(strategies)
    # Any strategy will do here that may have a gate; each search has its own below.
    flags = {"device": device, "evaluations": evaluations, "strategy": "knapsack"}
    base = make_spec(None, spec, flags).located(Path.cwd())
    url = storage_url(storage)
    with resumable(base.name, url):
        session = open_session(base)
        narrate("measuring the unquantized model")
        session.baseline()
        session.fingerprint()
        entries = _all(base, names, seeds, evaluations, session, url, progress)
    from qslm_opt.search.comparison import means

    if json:
        rows = [entry.to_json() for entry in entries]
        print_json({"spec": base.decides(), "rows": rows, "means": means(entries)})
    else:
        _print(base, entries, means(entries))


def _names(text: str) -> list[str]:
    names = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    for name in names:
        if name not in STRATEGIES:
            raise UsageError(
                f"strategy {name!r} is unknown; use some of {', '.join(STRATEGIES)}."
                f"{did_you_mean(name, STRATEGIES)}"
            )
    if not names:
        raise UsageError(f"--strategies names none; use some of {', '.join(STRATEGIES)}.")
    return names


def _all(
    base: StudySpec, names: Sequence[str], seeds: int, evaluations: int | None, session: Session, url: str,
    progress: ProgressKind,
) -> list[Entry]:  # fmt: skip
    from qslm_opt.search.comparison import searches

    entries: list[Entry] = []
    for strategy, seed in searches(names, seeds):
        most = evaluations
        if most is None and strategy in SAMPLERS:
            ours = [entry.equivalents for entry in entries if entry.strategy not in SAMPLERS]
            most = round(max(ours)) if ours else None
        made = _spec(base, strategy, seed, most)
        entries.append(_one(made, session.under(made), url, progress))
        narrate(_line(made, entries[-1]))
    return entries


def _spec(base: StudySpec, strategy: str, seed: int | None, most: int | None) -> StudySpec:
    """Return the study of one strategy; its name says which."""
    name = f"{base.name}-{strategy}" + ("" if seed is None else f"-{seed}")
    gate = base.gate and "gate" in STRATEGIES[strategy]
    return replace(
        base, name=name, strategy=strategy, seed=base.seed if seed is None else seed, evaluations=most,
        gate=gate,
    )  # fmt: skip


def _one(spec: StudySpec, session: Session, url: str, progress: ProgressKind) -> Entry:
    """Run one study, or go on with it; one that has ended with the same spec is taken as it is."""
    from qslm_opt.search.comparison import entry_of
    from qslm_opt.search.driver import create_study, run_study

    wall = None
    row = _known(spec, url)
    if row is None or row not in ENDED:
        if row is None:
            create_study(spec, url, session)
        narrate(f"searching {spec.name}")
        baseline = session.baseline().value
        with make_listener(progress, spec.metric, lambda: baseline) as listener:
            summary = run_study(spec.name, url, session, listener=listener)
        wall = summary.seconds if row is None else None
    with reading(url) as repository:
        return entry_of(repository.study(spec.name), repository.trials(spec.name), wall)


def _known(spec: StudySpec, url: str) -> str | None:
    """Return the state of the study of this name, None when there is none."""
    from qslm_opt.store import prepare

    prepare(url)
    with reading(url) as repository:
        if spec.name not in repository.names():
            return None
        row = repository.study(spec.name)
    if row.spec.hash() != spec.hash():
        raise UsageError(
            f"study {spec.name!r} is there with another spec; delete it, or give the comparison another name "
            "in its spec file."
        )
    return row.state


def _line(spec: StudySpec, entry: Entry) -> str:
    found = "nothing feasible" if entry.bytes is None else (
        f"{size(entry.bytes)}, {spec.metric} {metric_value(spec.metric, entry.value)}"
    )  # fmt: skip
    cut = f", cut off by --evaluations {spec.evaluations}" if entry.cut_off else ""
    return f"{entry.study}: {found} after {entry.equivalents:g} evaluations{cut}"


def _print(spec: StudySpec, entries: Sequence[Entry], rows: Sequence[Mapping[str, Any]]) -> None:
    """Print one line a strategy: means, ± the standard deviation where there are several seeds."""
    found = table(
        "strategy", "runs", "full", "cheap", "evaluations", "wall s", "smallest", spec.metric, "saving",
        "hypervolume", "score", left=1, title=f"{spec.name}: {spec.model} on {spec.task}",
    )  # fmt: skip
    for row in rows:
        found.add_row(
            row["strategy"], f"{row['feasible']}/{row['runs']}", _mean(row["full"], "{:.0f}"),
            _mean(row["cheap"], "{:.0f}"), _mean(row["equivalents"], "{:.1f}"),
            _mean(row["wall_s"], "{:.1f}"), _sized(row["bytes"]), _value(spec.metric, row["value"]),
            _mean(row["saving"], "{:.2f} %", 100), _mean(row["hypervolume"], "{:.4f}"),
            _mean(row["score"], "{:.5g}"),
        )  # fmt: skip
    console().print(found)
    cut = [f"{row['strategy']} ({row['cut_off']}/{row['runs']})" for row in rows if row["cut_off"]]
    if cut:
        limit = "as many evaluations as the longest of ours" if spec.evaluations is None else (
            f"--evaluations {spec.evaluations}"
        )  # fmt: skip
        console().print(
            f"cut off by {limit} before their own end (runs): {', '.join(cut)}; "
            "what they found is the best so far, and more evaluations may find better",
            soft_wrap=True,
        )
    if any(entry.wall_s is None for entry in entries):
        narrate("no wall time for what was not searched in one go by this command")


def _mean(value: Mapping[str, Any] | None, form: str, factor: float = 1.0) -> str:
    if value is None:
        return "–"
    text = form.format(factor * value["mean"])
    if value["std"] is None:
        return text
    return f"{text} ± {form.format(factor * value['std']).removesuffix(' %')}"


def _sized(value: Mapping[str, Any] | None) -> str:
    if value is None or value["std"] is None:
        return "–" if value is None else size(value["mean"])
    return f"{size(value['mean'])} ± {size(value['std'])}"


def _value(metric: str, value: Mapping[str, Any] | None) -> str:
    return _mean(value, "{:.2f} %", 100) if metric == "accuracy" else _mean(value, "{:,.5g}")
