"""Studies and candidates as tables for people."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from qslm_opt.cli.facts import equivalents, ran
from qslm_opt.cli.output import console, interval, metric_change, metric_value, size, table, watts

if TYPE_CHECKING:
    from qslm_opt.cli.facts import StudyFacts
    from qslm_opt.store import StudyRow

_WIDE = 100
"""Columns that a table of candidates needs."""


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


def print_study(facts: StudyFacts) -> None:
    """Print what a study is, how far it is and what it found."""
    out, row = console(), facts.row
    base = row.baseline
    lines = {
        "state": _state(row),
        "model": f"{row.spec.model} on task {row.spec.task}",
        "baseline": "not measured yet",
        "bound": facts.bound_text(),
        "memory": f"at most {size(row.budget)} ({100 * row.budget / facts.fp32_bytes:.3g} % of float32)",
        "trials": ", ".join(f"{count} {state}" for state, count in row.counts.items()),
    }
    if base is not None:
        value = metric_value(base.metric, base.value)
        lines["baseline"] = f"{base.metric} {value} over {base.n:,}, {size(base.bytes)} in float32"
    out.print(row.name, style="bold")
    for name, text in lines.items():
        out.print(f"  {name:<9} {text}", soft_wrap=True)
    tiers = table("tier", "done", "of", "model runs", f"best {facts.metric}", "trial", left=1)
    for tier in facts.tiers():
        total = "?" if tier["total"] is None else str(tier["total"])
        value = "–" if tier["best"] is None else metric_value(facts.metric, tier["best"])
        trial = "–" if tier["trial"] is None else f"#{tier['trial']}"
        tiers.add_row(tier["tier"], str(tier["done"]), total, str(tier["evaluations"]), value, trial)
    out.print(tiers)
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
        f"best at λ = {facts.lam:g}: trial {t.number}, {facts.metric} {metric_value(facts.metric, t.value)} "
        f"({metric_change(facts.metric, t.value, facts.baseline)}), {size(t.bytes)} "
        f"(−{100 * t.saving:.1f} %), score {best.score:.5g}",
        soft_wrap=True,
    )


def _state(row: StudyRow) -> str:
    if row.state == "running":
        return f"running, process {row.pid} on {row.host}: {row.phase}"
    if row.state == "dead":
        return f"dead: its process is gone; go on with 'qslm-opt study resume {row.name}'"
    return f"{row.state} ({row.reason})" if row.reason else row.state


def print_candidates(facts: StudyFacts, rows: Sequence[Mapping[str, Any]], total: int) -> None:
    """Print candidates, best first; ``total`` is how many there are when ``rows`` are the first of them.

    A dot marks the Pareto front. A narrow terminal leaves out saving and power.
    """
    out = console()
    shown = f", the first {len(rows)}" if len(rows) < total else ""
    columns: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "rank": lambda row: str(row["rank"]) if row["feasible"] else "✗",
        "trial": lambda row: f"#{row['trial']} {'●' if row['pareto'] else ' '}",
        "tier": lambda row: row["tier"],
        facts.metric: lambda row: metric_value(facts.metric, row["value"]),
        "change": lambda row: metric_change(facts.metric, row["value"], facts.baseline),
        "memory": lambda row: size(row["bytes"]),
        "saving": lambda row: f"{100 * row['saving']:.1f} %",
        "score": lambda row: f"{row['score']:.5g}",
        "power": lambda row: watts(row["power_w"]),
        "wins at λ": lambda row: interval(row["lambda_interval"]),
    }
    if out.width < _WIDE:
        del columns["saving"], columns["power"]
    noun = "candidate" if total == 1 else "candidates"
    title = f"{facts.row.name}: {total} {noun} at λ = {facts.lam:g}{shown}"
    found = table(*columns, text=("tier", "wins at λ"), title=title)
    for row in rows:
        best = row["rank"] == 1 and row["feasible"]
        found.add_row(*(write(row) for write in columns.values()), style="bold" if best else None)
    out.print(found)
