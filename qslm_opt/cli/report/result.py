"""The first part of the page: the choice, both limits, how sure it is, how to get it, what to know."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qslm_opt.cli.output import digits, metric_change, metric_value, size
from qslm_opt.cli.report import candidates, chance, neurons
from qslm_opt.cli.report.html import Markup, items, join, table, tag, text

if TYPE_CHECKING:
    from qslm_opt.cli.report.data import Report


def result(report: Report) -> Markup:
    """Return the choice in numbers, both limits, how sure it is, how to get it, and what to know."""
    parts: list[object] = [_cards(report)]
    if report.choice is None:
        why = str(report.facts.no_candidate())
        parts.append(tag("p", tag("strong", f"{why[:1].upper()}{why[1:]}")))
    parts += [_limits(report), _held_back(report), neurons.overall(report)]
    for what, command in report.commands.items():
        parts += [tag("p", f"To {what}:"), tag("pre", tag("code", command))]
    if report.warnings:
        parts.append(tag("h3", "What to know before trusting these numbers"))
        parts.append(items(report.warnings, class_="notes"))
    return join(parts)


def _cards(report: Report) -> Markup:
    best, base = report.choice, report.facts.baseline
    if best is None:
        cards = [("baseline", metric_value(report.metric, base), report.metric),
                 ("float32", size(report.facts.fp32_bytes), "what the task reads")]  # fmt: skip
    else:
        change = metric_change(report.metric, best.value, base)
        score = report.facts.best.score if report.facts.best else 0.0
        cards = [
            (f"trial {best.number}", metric_value(report.metric, best.value), f"{report.metric}, {change}"),
            ("packed", size(best.bytes), f"of {size(best.fp32_bytes)} in float32"),
            ("saved", f"{100 * best.saving:.2f} %", "of the weights' memory"),
            ("score", digits(score, 5), f"at λ = {report.facts.lam:g}"),
        ]
    return tag("div", *(
        tag("div", tag("span", over), tag("b", value), tag("span", under), class_="card")
        for over, value, under in cards
    ), class_="cards")  # fmt: skip


def _limits(report: Report) -> Markup:
    rows = []
    for limit in report.limits:
        room, met = "n/a", text("n/a")
        if limit.slack is not None:
            room = f"{-100 * limit.slack:.2f} %"
            word, look = ("met", "good") if limit.slack <= 0 else ("violated", "bad")
            met = tag("span", word, class_=look)
        values = (_limit_text(report, limit.name, value) for value in (limit.limit, limit.chosen))
        rows.append([limit.name, *values, room, met])
    caption = f"Constraints: {report.facts.bound_text()}; memory at most {size(report.facts.row.budget)}"
    columns = ("constraint", "limit", "choice", "room", "verdict")
    return table(caption, columns, rows, ("constraint", "verdict"))


def _held_back(report: Report) -> Markup:
    """Return the choice's result on held-back data and the interval of its metric, where they are known."""
    row = report.rows[0] if report.rows else None
    sure, found = chance.interval(row), chance.held_back(row)
    rows = []
    if sure is not None:
        words = candidates.interval_words(report.metric, sure)
        rows.append([f"interval of its {report.metric} on the searched data", words])
    if found is not None:
        value = candidates.held_back_value(report.metric, found)
        rows += [
            ["on held-back data", f"{value}: {found.reason}" if found.reason else value],
            ["its interval", candidates.interval_words(report.metric, found.interval)],
            ["its change against the baseline there", candidates.held_back_change(report.metric, found)],
        ]
    if not rows:
        return Markup("")
    return table("How sure the choice is", ("of the choice", "found"), rows, ("of the choice", "found"))


def _limit_text(report: Report, name: str, value: float | None) -> str:
    if name == "memory":
        return "n/a" if value is None else size(value)
    return metric_value(report.metric, value)
