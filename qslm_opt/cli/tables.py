"""Studies and candidates as tables for people."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from qslm_opt.cli.facts import ENDED, equivalents, ran
from qslm_opt.cli.generalising import (
    data_words,
    held_back_cells,
    held_back_words,
    interval_json,
    interval_words,
)
from qslm_opt.cli.output import (
    console,
    interval,
    metric_change,
    metric_value,
    size,
    table,
    table_width,
    total_text,
    watts,
)

if TYPE_CHECKING:
    from rich.table import Table

    from qslm_opt.cli.facts import StudyFacts
    from qslm_opt.results import TrialRecord
    from qslm_opt.store import StudyRow

Cell: TypeAlias = "Callable[[Mapping[str, Any]], str]"
_WIDE = 100
"""Columns that a table of candidates needs."""
_SPARE = ("power", "saving", "95 % interval", "its change", "p")
"""Its columns that a terminal without room for all goes without, in this order."""


def print_studies(rows: Sequence[StudyRow]) -> None:
    """Print one line a study."""
    found = table("study", "state", "model", "task", "bound", "budget", "trials", "created", left=4)
    for row in rows:
        bound = metric_value(row.spec.metric, row.bound)
        found.add_row(
            row.name, row.state, row.spec.model, row.spec.task, bound, size(row.budget),
            str(sum(row.counts.values())), row.created.replace("T", " "),
        )  # fmt: skip
    console().print(found)


def _time(row: StudyRow) -> str:
    return "" if row.timesteps is None else f", {row.timesteps} time steps"


def print_study(facts: StudyFacts) -> None:
    """Print what a study is, how far it is and what it found."""
    out, row = console(), facts.row
    base = row.baseline
    lines = {
        "state": _state(row),
        "model": f"{row.spec.model} on task {row.spec.task}" + _time(row),
        **row.reading,
        "baseline": "not measured yet",
        "bound": facts.bound_text(),
        "memory": f"at most {size(row.budget)} ({100 * row.budget / facts.fp32_bytes:.3g} % of float32)",
        "trials": facts.trials_text(),
    }
    if base is not None:
        value, n = metric_value(base.metric, base.value), f"{base.n:,}"
        chance = interval_json(base.metric, base.value, base.n, facts.searched.get("baseline"))
        if chance["ci_low"] is not None:
            words = interval_words(base.metric, chance["ci_low"], chance["ci_high"])
            n += f" (95 % interval {words})"
        lines["baseline"] = f"{base.metric} {value} over {n}, {size(base.bytes)} in float32"
        if base.firing_rate is not None:
            lines["firing"] = f"{100 * base.firing_rate:.2f} % of the neurons at a step, unquantized"
    if "baseline" in row.held_back:
        told = held_back_words(facts.metric, row.held_back["baseline"])
        lines["held back"] = f"{data_words(row)}: unquantized {told}"
    out.print(row.name, style="bold")
    for name, text in lines.items():
        out.print(f"  {name:<9} {text}", soft_wrap=True)
    tiers = table("tier", "done", "of", "model runs", f"best {facts.metric}", "trial", left=1)
    for tier in facts.tiers():
        total = total_text(tier["done"], tier["total"], ended=row.state in ENDED)
        value = "–" if tier["best"] is None else metric_value(facts.metric, tier["best"])
        trial = "–" if tier["trial"] is None else f"#{tier['trial']}"
        tiers.add_row(tier["tier"], str(tier["done"]), total, str(tier["evaluations"]), value, trial)
    out.print(tiers)
    ahead = facts.ahead_words()
    if ahead is not None:
        out.print(ahead, soft_wrap=True)
    cheap = sum(ran(t) and t.cheap for t in facts.trials)
    if cheap:
        full = sum(ran(t) and not t.cheap for t in facts.trials)
        out.print(
            f"model runs: {full} full and {cheap} cheap ones over a share of the data, "
            f"together {equivalents(facts.trials):.1f} full evaluations",
            soft_wrap=True,
        )
    gate = facts.gate()
    if gate is not None:
        out.print(
            f"gate: {gate['evaluated']} postponed settings were evaluated in the end, "
            f"{gate['false_rejects']} of them met the metric (false rejects)",
            soft_wrap=True,
        )
    best = facts.best
    if best is None:
        return
    t = best.record
    out.print(
        f"best at λ = {facts.lam:g}: trial {t.number}, {facts.metric} {metric_value(facts.metric, t.value)}"
        f"{_interval(facts, t)} ({metric_change(facts.metric, t.value, facts.baseline)}), {size(t.bytes)} "
        f"(−{100 * t.saving:.1f} %), score {best.score:.5g}"
        + ("" if t.firing_rate is None else f", {100 * t.firing_rate:.2f} % firing"),
        soft_wrap=True,
    )
    if t.digest in row.held_back:
        out.print(
            f"held back ({data_words(row)}): {held_back_words(facts.metric, row.held_back[t.digest])}",
            soft_wrap=True,
        )


def _interval(facts: StudyFacts, trial: TrialRecord) -> str:
    """Return the 95 % interval of a candidate's metric in brackets; empty where it is not known."""
    n = facts.row.baseline.n if facts.row.baseline else 0
    found = interval_json(facts.metric, trial.value, n, facts.searched.get(trial.digest))
    if found["ci_low"] is None:
        return ""
    return f" [{interval_words(facts.metric, found['ci_low'], found['ci_high'])}]"


def _state(row: StudyRow) -> str:
    if row.state == "running":
        return f"running, process {row.pid} on {row.host}: {row.phase}"
    if row.state == "dead":
        return f"dead: its process is gone; go on with 'qslm-opt study resume {row.name}'"
    return f"{row.state} ({row.reason})" if row.reason else row.state


def print_candidates(facts: StudyFacts, rows: Sequence[Mapping[str, Any]], total: int) -> None:
    """Print candidates, best first; ``total`` is how many there are when ``rows`` are the first of them.

    A dot marks the Pareto front, a cross what is beyond a bound. A narrow terminal leaves columns out.
    """
    out = console()
    shown = f", the first {len(rows)}" if len(rows) < total else ""
    columns: dict[str, Cell] = {
        "rank": lambda row: str(row["rank"]) if row["feasible"] else "✗",
        "trial": lambda row: f"#{row['trial']} {'●' if row['pareto'] else ' '}",
        "tier": lambda row: row["tier"],
        facts.metric: lambda row: metric_value(facts.metric, row["value"]),
        "95 % interval": lambda row: interval_words(facts.metric, row["ci_low"], row["ci_high"]),
        "change": lambda row: metric_change(facts.metric, row["value"], facts.baseline),
        "memory": lambda row: size(row["bytes"]),
        "saving": lambda row: f"{100 * row['saving']:.1f} %",
        "score": lambda row: f"{row['score']:.5g}",
        "held back": lambda row: held_back_cells(facts.metric, row["held_back"])[0],
        "its change": lambda row: held_back_cells(facts.metric, row["held_back"])[1],
        "p": lambda row: held_back_cells(facts.metric, row["held_back"])[2],
        "power": lambda row: watts(row["power_w"]),
        "wins at λ": lambda row: interval(row["lambda_interval"]),
    }
    unknown = set() if facts.row.held_back else {"held back", "its change", "p"}
    if all(row["ci_low"] is None for row in rows):
        unknown.add("95 % interval")
    if out.width < _WIDE:
        unknown |= {"saving", "power"}
    columns = {name: write for name, write in columns.items() if name not in unknown}
    noun = "candidate" if total == 1 else "candidates"
    title = f"{facts.row.name}: {total} {noun} at λ = {facts.lam:g}{shown}"
    found = _candidates(columns, rows, title)
    for name in _SPARE:
        if name in columns and table_width(out, found) > out.width:
            del columns[name]
            found = _candidates(columns, rows, title)
    out.print(found)


def _candidates(columns: Mapping[str, Cell], rows: Sequence[Mapping[str, Any]], title: str) -> Table:
    found = table(*columns, text=("tier", "wins at λ"), title=title)
    for row in rows:
        best = row["rank"] == 1 and row["feasible"]
        found.add_row(*(write(row) for write in columns.values()), style="bold" if best else None)
    return found
