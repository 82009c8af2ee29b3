"""How often neurons fire, before and after: overall, and by site where the evaluations were stored. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qslm_opt.cli.output import digits
from qslm_opt.cli.report.html import Markup, table

if TYPE_CHECKING:
    from qslm_opt.cli.facts import StudyFacts
    from qslm_opt.cli.report.data import Report

_UNKNOWN = "n/a"
_UNIT = "spikes per neuron and step"


@dataclass(frozen=True)
class Rate:
    """Spikes per neuron and step, of all neurons or of one site; None where they were not counted."""

    before: float | None
    """Of the unquantized model."""
    after: float | None
    """Of the choice."""


@dataclass(frozen=True)
class Neurons:
    """The time steps of a study's model, and its firing rates."""

    timesteps: int | None
    """Steps over which every token is presented; None where time is the token index."""
    rate: Rate
    sites: Mapping[str, Rate]
    """By site, in the model's order; empty where no evaluation has them."""


def neurons(facts: StudyFacts, chosen: Mapping[str, Any] | None) -> Neurons:
    """Return what is known; ``chosen`` is the whole Evaluation of the choice."""
    base = facts.row.baseline
    before = (base.evaluation.get("rates") if base else None) or {}
    after = (chosen or {}).get("rates") or {}
    whole = Rate(
        base.firing_rate if base else None, facts.best.record.firing_rate if facts.best else None
    )
    names = dict.fromkeys((*before, *after))
    sites = {name: Rate(before.get(name), after.get(name)) for name in names}
    return Neurons(facts.row.timesteps, whole, sites)


def overall(report: Report) -> Markup:
    """Return the time steps and the rate of all neurons; nothing where neither is known."""
    found = report.neurons
    steps, rate = found.timesteps, found.rate
    rows = [] if steps is None else [["time steps T", steps, steps if report.choice else _UNKNOWN, ""]]
    if rate.before is not None or rate.after is not None:
        rows.append([f"firing rate, {_UNIT}", *_cells(rate)])
    columns = ("quantity", "unquantized", "choice", "change")
    return table("Neurons before and after", columns, rows, columns[:1]) if rows else Markup("")


def by_site(report: Report) -> Markup:
    """Return the rates of every site; nothing without any."""
    found = report.neurons.sites
    columns = ("site", "unquantized", "choice", "change")
    rows = [[name, *_cells(rate)] for name, rate in found.items()]
    return table(f"Firing rate by site, {_UNIT}", columns, rows, columns[:1]) if rows else Markup("")


def _cells(rate: Rate) -> list[str]:
    before, after = rate.before, rate.after
    change = f"{100 * (after / before - 1):+.2f} %" if before and after is not None else _UNKNOWN
    return [*(_UNKNOWN if r is None else digits(r) for r in (before, after)), change]
