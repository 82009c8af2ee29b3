"""The parts of the page that hold a figure: what it says, the figure, and a table of the same numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from qslm_opt.cli.output import digits, metric_change, metric_value, size
from qslm_opt.cli.report.bits import MARKS
from qslm_opt.cli.report.candidates import NOTHING, candidate_table, winner_table
from qslm_opt.cli.report.figures import power_title, sensitivity_title, uniform_title
from qslm_opt.cli.report.html import Markup, items, join, table, tag
from qslm_opt.cli.report.map_figure import bits_title, bytes_title
from qslm_opt.cli.report.neurons import by_site
from qslm_opt.cli.report.plane_figure import plane_title
from qslm_opt.cli.report.sweeps import loss_unit

if TYPE_CHECKING:
    from qslm_opt.cli.report.bits import BitCell
    from qslm_opt.cli.report.data import Report

def plane(report: Report, drawn: Mapping[str, Markup]) -> Markup:
    """Everything measured, both limits, the front and the winners by λ."""
    found = report.plane
    if found is None:
        return tag("p", "No setting was measured to its end yet, so there is nothing to place.")
    caption = (
        f"{len(found.points):,} measured settings; {found.unmeasured:,} more were pruned before they had a "
        "number. Dashed: the bound on the metric and the memory budget. Stairs: the best metric that "
        "candidates reach with so many bytes. Rings: the settings that win the score at some λ."
    )
    return join((
        _figure(drawn, "plane", caption),
        winner_table(report),
        candidate_table(report),
    ))  # fmt: skip


def sensitivity(report: Report, drawn: Mapping[str, Markup]) -> Markup:
    """The heat map of blocks × precisions."""
    heat = report.heat
    if heat is None:
        return tag("p", "The sensitivity of the blocks was not measured in this study.")
    caption = (
        f"Each block alone at each precision, everything else unquantized; numbers are the loss in "
        f"{loss_unit(report.metric)} against the baseline, colours their logarithm. Negative: better than "
        "the baseline."
    )
    rows = [
        [block, *(NOTHING if v is None else f"{v:+.3f}".replace("-", "−") for v in row)]
        for block, row in zip(heat.blocks, heat.loss, strict=True)
    ]
    columns = ("block", *(f"{bits:g} bits" for bits in heat.levels))
    return join((
        _figure(drawn, "sensitivity", caption),
        table(f"Loss in {loss_unit(report.metric)}", columns, rows, ("block",)),
    ))  # fmt: skip


def uniform(report: Report, drawn: Mapping[str, Markup]) -> Markup:
    """The curve of uniform precisions."""
    points = report.uniform
    if not points:
        return tag("p", "No uniform precision was tried yet.")
    caption = (
        "Every searched weight at the same width. Left the metric with its bound and the baseline, right the "
        "packed bytes with the budget. A width that is over the budget is not run."
    )
    rows = [
        [f"{p.bits:g}", f"#{p.trial}", metric_value(report.metric, p.value),
         metric_change(report.metric, p.value, report.facts.baseline), size(p.bytes), p.verdict]
        for p in points
    ]  # fmt: skip
    columns = ("bits", "trial", report.metric, "against baseline", "memory", "verdict")
    numbers = table("Uniform precisions", columns, rows, ("verdict",))
    return join((_figure(drawn, "uniform", caption), numbers))


def power(report: Report, drawn: Mapping[str, Markup]) -> Markup:
    """Watts and joules, or why there are none."""
    found, item = report.power, report.facts.item
    if not found.rows:
        return tag("p", tag("strong", "Power was not measured here"), f": {found.why_not}.")
    meters = f" by {', '.join(found.sources)}" if found.sources else ""
    caption = (
        f"Mean power{meters} while a setting ran, and energy per {item}, rest included. "
        "Green: the choice; orange: the power was not steady. Whiskers: standard deviation of the samples."
    )
    rows = [
        [row.name, digits(row.mean_w), _known(row.std_w, 2), _known(row.idle_w), _known(row.item_j),
         NOTHING if row.samples is None else row.samples,
         {True: "yes", False: "no", None: NOTHING}[row.steady]]
        for row in found.rows
    ]  # fmt: skip
    columns = ("setting", "W", "σ, W", "at rest, W", f"J per {item}", "samples", "steady")
    more = "" if found.baseline else " The baseline has no power window in this study."
    count = f"{found.measured:,} candidates were measured.{more}"
    return join((
        _figure(drawn, "power", caption), table(count, columns, rows, ("setting", "steady")),
    ))  # fmt: skip


def _known(value: float | None, count: int = 3) -> str:
    return NOTHING if value is None else digits(value, count)


def choice(report: Report, drawn: Mapping[str, Markup]) -> Markup:
    """The bits of every module and the bytes of every block."""
    found = report.bit_map
    if found is None:
        why = "there is none" if report.choice is None else "its stored setting does not fit the model"
        return tag("p", f"The choice cannot be shown: {why}.")
    marks = items(MARKS[mark] for mark in found.marks()) if found.marks() else Markup("")
    layouts = {c.format.partition("/")[2] for _, cells in found.rows for c in cells if c} - {""}
    layout = layouts.pop() if len(layouts) == 1 else ""
    bits = [[block, *(_format(cell, layout) for cell in cells)] for block, cells in found.rows]
    shared = f", scales as {layout}" if layout else ""
    sizes = [
        [b.block, size(b.before), size(b.after),
         f"{100 * (1 - b.after / b.before):.2f} %" if b.before else NOTHING, _known(b.mean_bits)]
        for b in found.blocks
    ]  # fmt: skip
    columns = ("block", "float32", "packed", "saving", "mean bits a weight")
    named = ("block", *found.columns)
    return join((
        _figure(drawn, "bits", "Bits of every module: rows are blocks, columns their modules."), marks,
        table(f"Number format of every module{shared}", named, bits, named),
        _figure(drawn, "bytes", "Bytes of every block, in float32 and packed as chosen."),
        table("Bytes of every block", columns, sizes, ("block",)), by_site(report),
    ))  # fmt: skip


def _format(cell: BitCell | None, layout: str) -> str:
    """Return a module's format, without the layout that all of them share."""
    if cell is None:
        return ""
    short = cell.format.removesuffix(f"/{layout}") if layout else cell.format
    return f"{short}, pinned" if cell.mark == "pinned" else short or cell.mark


TITLES = {
    "plane": plane_title, "sensitivity": sensitivity_title, "uniform": uniform_title, "power": power_title,
    "bits": bits_title, "bytes": bytes_title,
}  # fmt: skip
"""Figure → its message, which is also its text for those who do not see it."""


def _figure(drawn: Mapping[str, Markup], name: str, caption: str) -> Markup:
    if name not in drawn:
        return tag("p", caption)
    return tag("figure", drawn[name], tag("figcaption", caption), id=f"figure-{name}")
