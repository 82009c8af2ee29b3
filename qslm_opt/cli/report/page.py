"""The page: one HTML file that needs nothing else, on a screen, in the dark, on paper."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files

from qslm_opt import __version__
from qslm_opt.cli.output import metric_change, metric_value, size
from qslm_opt.cli.report import sections
from qslm_opt.cli.report.data import Report
from qslm_opt.cli.report.html import Markup, data_block, facts, items, join, table, tag
from qslm_opt.cli.report.machine import spec_rows
from qslm_opt.cli.report.result import result
from qslm_opt.cli.report.story import TierRow, total

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""What a browser may load for the page: nothing that is not in it."""
DATA_ID = "qslm-opt-data"


def page(report: Report, drawn: Mapping[str, Markup]) -> str:
    """Return the HTML of a report; ``drawn`` has figure → SVG."""
    parts = {
        "result": ("Result", result(report)),
        "plane": (f"{report.metric.capitalize()} against memory", sections.plane(report, drawn)),
        "sensitivity": ("Sensitivity of each block", sections.sensitivity(report, drawn)),
        "uniform": ("Uniform precisions", sections.uniform(report, drawn)),
        "power": ("Power and energy", sections.power(report, drawn)),
        "choice": ("The choice, module by module", sections.choice(report, drawn)),
        "lineage": ("From the baseline to the choice", _lineage(report)),
        "search": ("How it was searched", _search(report)),
        "machine": ("Machine, data and specification", _machine(report)),
    }
    name = report.facts.row.name
    body = join((
        tag("header", tag("h1", f"Study {name}"), tag("p", _subtitle(report), class_="sub")),
        tag("nav", items((tag("a", title, href=f"#{key}") for key, (title, _) in parts.items()), "ol"),
            aria_label="Contents"),
        tag("main", *(
            tag("section", tag("h2", title), content, id=key) for key, (title, content) in parts.items()
        ), tag("footer", _footer(report))),
        data_block(report.to_json(), DATA_ID),
    ))  # fmt: skip
    css = Markup(files("qslm_opt.cli.report").joinpath("style.css").read_text("utf-8"))
    head = join((
        Markup('<meta charset="utf-8">'),
        Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'),
        tag("title", f"{name}: qslm-opt selection report"), tag("style", css),
    ))  # fmt: skip
    return f"<!DOCTYPE html>\n<html lang=\"en\">\n{tag('head', head)}\n{tag('body', body)}\n</html>\n"


def _subtitle(report: Report) -> str:
    row = report.facts.row
    time = "" if row.timesteps is None else f", {row.timesteps} time steps"
    what = f"{row.spec.model} on task {row.spec.task}{time}"
    return f"{what}; the study is {row.state}; read {report.made or 'now'}"


def _footer(report: Report) -> str:
    return (
        f"Written by qslm-opt {__version__}. The numbers of every figure are in this file as JSON, "
        f"in the element with the id {DATA_ID}."
    )


def _lineage(report: Report) -> Markup:
    if not report.lineage:
        return tag("p", "There is no choice, so nothing led to it.")
    rows = [
        ["" if s.trial is None else f"#{s.trial}", s.tier, s.what, metric_value(report.metric, s.value),
         metric_change(report.metric, s.value, report.facts.baseline), size(s.bytes)]
        for s in report.lineage
    ]  # fmt: skip
    columns = ("trial", "tier", "what it changed", "metric", "against baseline", "memory")
    return table("Each step was made from the one above it", columns, rows, ("tier", "what it changed"))


def _search(report: Report) -> Markup:
    if not report.tiers:
        return tag("p", "No trial has started yet.")
    n = report.facts.row.baseline.n if report.facts.row.baseline else 0
    rows = [_tier(row) for row in (*report.tiers, total(report.tiers))]
    columns = (
        "tier", "trials", "complete", "pruned, not run", "pruned, stopped", "cheap", "failed", "open",
        "not needed", "model runs", "whole evaluations", "seconds",
    )  # fmt: skip
    order = ", ".join(report.facts.row.order)
    lead = f"Blocks from the least to the most sensitive: {order}." if order else ""
    caption = (
        f"Trials by tier. Whole evaluations: the shares of the {n:,} {report.facts.item}s that were "
        "computed, added up. Cheap: over a share of the data, without a verdict. Seconds: wall time of the "
        "model runs, added up."
    )
    return join((tag("p", lead), table(caption, columns, rows, ("tier",))))


def _tier(row: TierRow) -> list[object]:
    shares = "n/a" if row.shares is None else f"{row.shares:,.1f}"
    return [row.tier, row.trials, row.complete, row.unrun, row.stopped, row.cheap, row.failed, row.open,
            row.unneeded, row.evaluations, shares, f"{row.seconds:,.1f}"]  # fmt: skip


def _machine(report: Report) -> Markup:
    rows = [[key, value, "" if usual else "given"] for key, value, usual in spec_rows(report.facts.row.spec)]
    return join((
        facts(report.machine),
        table("The specification in full", ("key", "value", "set by the user"), rows,
              ("key", "value", "set by the user")),
    ))  # fmt: skip
