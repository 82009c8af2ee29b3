"""Tables of the candidates: by the score at the report's λ, and the winner of each interval of λ."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from qslm_opt.cli.output import digits, metric_change, metric_value, size
from qslm_opt.cli.report.chance import Interval, has_held_back, has_intervals, held_back, interval
from qslm_opt.cli.report.html import Markup, table, tag
from qslm_opt.cli.report.plane_figure import winner_words

if TYPE_CHECKING:
    from qslm_opt.cli.report.chance import HeldBack
    from qslm_opt.cli.report.data import Report

Row = Mapping[str, Any]
NOTHING = "n/a"


def winner_table(report: Report) -> Markup:
    """Return the choice for each interval of λ, or why there is none."""
    found = report.plane
    if found is None or not found.winners:
        return tag("p", f"Nothing wins at any λ: {report.facts.no_candidate()}")
    by_trial = {row["trial"]: row for row in report.rows}
    columns = {"λ": lambda pair: winner_words(pair[0]), "trial": lambda pair: f"#{pair[0].point.trial}"}
    shown = {**columns, **{
        name: _of_row(write) for name, write in _numbers(report).items()
    }}  # fmt: skip
    pairs = [(winner, by_trial[winner.point.trial]) for winner in found.winners]
    rows = [[write(pair) for write in shown.values()] for pair in pairs]
    return table("The choice for each λ", tuple(shown), rows, ("λ",))


def _of_row(write: Callable[[Row], object]) -> Callable[[Any], object]:
    return lambda pair: write(pair[1])


def candidate_table(report: Report) -> Markup:
    """Return the first candidates of the ranking; nothing without any."""
    if not report.shown_rows:
        return Markup("")
    columns: dict[str, Callable[[Row], object]] = {
        "rank": lambda row: row["rank"],
        "trial": lambda row: f"#{row['trial']}",
        "tier": lambda row: row["tier"],
        "unit": lambda row: row["unit"],
        **_numbers(report),
        "score": lambda row: digits(row["score"], 5),
        "Pareto front": lambda row: "yes" if row["pareto"] else "",
    }
    total, count = len(report.rows), len(report.shown_rows)
    which = f"the first {count} of {total:,}" if total > count else f"all {total:,}"
    caption = f"Candidates by the score at λ = {report.facts.lam:g}: {which}; equal settings appear once"
    rows = [[write(row) for write in columns.values()] for row in report.shown_rows]
    return table(caption, tuple(columns), rows, ("tier", "unit", "Pareto front"))


def _numbers(report: Report) -> dict[str, Callable[[Row], object]]:
    """Return the columns of a candidate's numbers; those that nobody has are left out."""
    metric, base = report.metric, report.facts.baseline
    columns: dict[str, Callable[[Row], object]] = {metric: lambda row: metric_value(metric, row["value"])}
    if has_intervals(report.rows):
        columns["interval"] = lambda row: interval_words(metric, interval(row))
    columns["against baseline"] = lambda row: metric_change(metric, row["value"], base)
    columns["memory"] = lambda row: size(row["bytes"])
    columns["saving"] = lambda row: f"{100 * row['saving']:.2f} %"
    if has_held_back(report.rows):
        columns["held back"] = lambda row: held_back_value(metric, held_back(row))
        columns["change there"] = lambda row: held_back_change(metric, held_back(row))
    return columns


def interval_words(metric: str, found: Interval | None) -> str:
    """Return an interval with its level, such as ``80.4–85.3 % (95 %)``."""
    if found is None:
        return NOTHING
    level = f" ({100 * found.level:g} %)"
    if metric == "accuracy":
        return f"{100 * found.low:.2f}–{100 * found.high:.2f} %{level}"
    return f"{digits(found.low, 5)}–{digits(found.high, 5)}{level}"


def held_back_value(metric: str, found: HeldBack | None) -> str:
    """Return a metric on held-back data, with a word where it is beyond the bound there."""
    if found is None:
        return NOTHING
    return metric_value(metric, found.value) + (" beyond the bound" if found.within is False else "")


def held_back_change(metric: str, found: HeldBack | None) -> str:
    """Return the change against the baseline on held-back data, with its p value."""
    if found is None or found.change is None:
        return NOTHING
    unit = "pp" if metric == "accuracy" else "%"
    p = "" if found.p is None else f", p = {found.p:.2g}"
    return f"{100 * found.change:+.2f} {unit}{p}"
