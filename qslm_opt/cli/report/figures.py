"""The figures of single axes: sensitivity, uniform precisions, power. Each returns None without data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qslm_opt.cli.output import digits, metric_value, size
from qslm_opt.cli.report.sweeps import loss_unit
from qslm_opt.cli.report.theme import (
    BEHIND,
    BLUE,
    GREEN,
    GREY,
    INK,
    MUTED,
    ORANGE,
    PAPER,
    RED,
    bytes_axis,
    new_figure,
    plain,
    set_title,
    tick_text,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from qslm_opt.cli.report.data import Report
    from qslm_opt.cli.report.sweeps import UniformPoint
    from qslm_opt.cli.report.watts import PowerRow

SPREAD = 8.0
"""Values that are more than this many times apart go on a logarithmic axis."""


def shown(metric: str, value: float) -> float:
    """Return a metric as axes show it: accuracy in percent."""
    return 100 * value if metric == "accuracy" else value


def metric_label(metric: str) -> str:
    """Return an axis label with its unit and the better direction."""
    return "accuracy, % (higher is better)" if metric == "accuracy" else "perplexity (lower is better)"


def sensitivity_title(report: Report) -> str:
    """Return what the sweep says: the block that minds most, and the one that minds least."""
    heat = report.heat
    assert heat is not None
    lowest = heat.levels[-1]
    cells = [cell for cell in heat.cells() if cell[1] == lowest]
    if not cells:
        return "Sensitivity of each block, the rest unquantized"
    (most, _, loss), (least, _, little) = cells[0], cells[-1]
    unit = loss_unit(report.metric)
    if most == least:
        return f"{plain(most)} alone at {lowest} bits costs {loss:+.2f} {unit}"
    return (
        f"{plain(most)} minds most: {loss:+.2f} {unit} alone at {lowest} bits; "
        f"{plain(least)} least: {little:+.2f}"
    )


def sensitivity_figure(report: Report) -> Figure | None:
    """Blocks × precisions: the metric loss of each block alone; darker is worse."""
    heat = report.heat
    if heat is None:
        return None
    import numpy as np
    from matplotlib import colormaps
    from matplotlib.colors import SymLogNorm

    loss = np.array([[np.nan if v is None else max(v, 0.0) for v in row] for row in heat.loss], dtype=float)
    top = float(np.nanmax(loss)) or 1.0
    figure, (ax,) = new_figure(1.25 + 0.27 * len(heat.blocks))
    norm = SymLogNorm(linthresh=top / 100, vmin=0, vmax=top, base=10)
    colours = colormaps["YlOrBr"].resampled(256)
    mesh = ax.pcolormesh(loss, cmap=colours, norm=norm, edgecolors=PAPER, linewidth=1.0)
    for y, row in enumerate(heat.loss):
        for x, value in enumerate(row):
            dark = value is not None and float(norm(max(value, 0.0))) > 0.62
            ax.text(
                x + 0.5, y + 0.5, "–" if value is None else _loss_text(value), ha="center", va="center",
                fontsize=8, color=INK if value is None else "#fefefe" if dark else "#111112",
            )  # fmt: skip
    ax.set_yticks(np.arange(len(heat.blocks)) + 0.5, [plain(b, 22) for b in heat.blocks])
    ax.set_xticks(np.arange(len(heat.levels)) + 0.5, [f"{bits:g}" for bits in heat.levels])
    ax.invert_yaxis()
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_xlabel("bits of this block, all others unquantized")
    bar = figure.colorbar(mesh, ax=ax, fraction=0.03, pad=0.02, ticks=[0, top / 100, top / 10, top])
    bar.ax.set_yticklabels([f"{v:.2g}" for v in (0, top / 100, top / 10, top)])
    bar.ax.minorticks_off()
    bar.outline.set_visible(False)
    bar.set_label(f"loss, {loss_unit(report.metric)}")
    set_title(figure, sensitivity_title(report))
    return figure


def _loss_text(value: float) -> str:
    if abs(value) < 0.005:
        return "0"
    places = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:+,.{places}f}".replace("-", "−")


def uniform_title(report: Report) -> str:
    """Return the fewest uniform bits that meet both limits."""
    met = [p for p in report.uniform if p.verdict == "meets both limits"]
    if not met:
        return "No uniform precision meets both limits"
    last = met[-1]
    value = metric_value(report.metric, last.value)
    return f"{last.bits:g} bits everywhere is the fewest that meets both limits: {value}, {size(last.bytes)}"


def uniform_figure(report: Report) -> Figure | None:
    """Metric and bytes against uniform bits, with both limits."""
    points = report.uniform
    if not points:
        return None
    figure, (left, right) = new_figure(3.1, 2, (1.0, 1.0))
    where = range(len(points))
    for ax in (left, right):
        ax.set_xticks(list(where), [f"{p.bits:g}" for p in points])
        ax.set_xlim(-0.6, len(points) - 0.4)
        ax.set_xlabel("bits of every searched weight")
        ax.grid(axis="y")
    _uniform_metric(left, report, points)
    label, unit = bytes_axis(max(p.bytes for p in points))
    fits = [p.bytes <= report.facts.row.budget for p in points]
    colours = [BLUE if fit else GREY for fit in fits]
    right.bar(where, [p.bytes / unit for p in points], color=colours, width=0.62)
    right.axhline(report.facts.row.budget / unit, color=RED, linewidth=1.2, linestyle="--")
    right.annotate(
        f"budget {size(report.facts.row.budget)}", (len(points) - 0.45, report.facts.row.budget / unit),
        xytext=(0, 3), textcoords="offset points", ha="right", color=RED, fontsize=8, bbox=BEHIND,
    )  # fmt: skip
    right.set_ylabel(f"memory, {label} (grey: over the budget)")
    set_title(figure, uniform_title(report))
    return figure


def _uniform_metric(ax: Axes, report: Report, points: list[UniformPoint]) -> None:
    metric = report.metric
    known = [(i, shown(metric, p.value)) for i, p in enumerate(points) if p.value is not None]
    if known:
        ax.plot(*zip(*known, strict=True), color=BLUE, marker="o", markersize=5, linewidth=1.4)
    lines = [(report.facts.baseline, "baseline", MUTED, ":"), (report.facts.row.bound, "bound", RED, "--")]
    values = [v for _, v in known]
    for value, _, colour, style in lines:
        if value is None:
            continue
        at = shown(metric, value)
        values.append(at)
        ax.axhline(at, color=colour, linewidth=1.2, linestyle=style)
    spread_axis(ax, metric, values)
    label_lines(ax, metric, lines)
    for i, point in enumerate(points):
        if point.value is None:
            why = "stopped" if "stopped" in point.verdict else "not run"
            ax.annotate(why, (i, 0.5), xycoords=("data", "axes fraction"), rotation=90, ha="center",
                        va="center", color=MUTED, fontsize=8)  # fmt: skip
    ax.set_ylabel(metric_label(metric))


def label_lines(ax: Axes, metric: str, lines: list[tuple[float | None, str, str, str]]) -> None:
    """Name horizontal lines at the left, the better one on its better side so that none overlap."""
    for value, name, colour, _ in lines:
        if value is None:
            continue
        above = (name == "baseline") == (metric == "accuracy")
        ax.annotate(
            f"{name} {metric_value(metric, value)}", (0.0, shown(metric, value)),
            xycoords=("axes fraction", "data"), xytext=(4, 3 if above else -3), textcoords="offset points",
            va="bottom" if above else "top", color=colour, fontsize=8,
            bbox=BEHIND, zorder=6,
        )  # fmt: skip


def spread_axis(ax: Axes, metric: str, values: list[float]) -> None:
    """Set the range of a metric's axis with room for labels; logarithmic where values are far apart."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = min(values, default=0.0), max(values, default=1.0)
    if metric == "perplexity" and low > 0 and high / low > SPREAD:
        ax.set_yscale("log")
        ax.set_ylim(low / (high / low) ** 0.12, high * (high / low) ** 0.08)
        ax.yaxis.set_major_locator(LogLocator(10, (1, 2, 5)))
        ax.yaxis.set_minor_formatter(NullFormatter())
    else:
        room = (high - low) or abs(high) * 0.02 or 1.0
        ax.set_ylim(low - 0.14 * room, high + 0.14 * room)
    ax.yaxis.set_major_formatter(FuncFormatter(tick_text))


def power_title(report: Report) -> str:
    """Return what the watts say: the choice against the baseline where both were measured."""
    rows, base = report.power.rows, report.power.baseline
    best = next((row for row in rows if row.trial is not None), None)
    if base is None or best is None:
        return f"{len(rows)} measured settings; the baseline's power was not measured" if base is None else (
            "The baseline's power; no candidate was measured"
        )
    if abs(best.mean_w - base.mean_w) <= max(best.std_w or 0.0, base.std_w or 0.0):
        both = f"{digits(best.mean_w)} W and {digits(base.mean_w)} W"
        return f"{best.name} and the baseline draw the same within the spread of the samples: {both}"
    change = 100 * (best.mean_w / base.mean_w - 1)
    against = f"{change:+.1f} % against the baseline's {digits(base.mean_w)} W".replace("-", "−")
    return f"{best.name} draws {digits(best.mean_w)} W, {against}"


def power_figure(report: Report) -> Figure | None:
    """Watts with their spread, and joules per item, of baseline and candidates."""
    rows = report.power.rows
    if not rows:
        return None
    figure, (left, right) = new_figure(1.5 + 0.24 * len(rows), 2, (1.0, 1.0))
    where = list(range(len(rows)))
    colours = [_power_colour(row, report) for row in rows]
    spread = [row.std_w or 0.0 for row in rows]
    left.barh(where, [row.mean_w for row in rows], color=colours, height=0.62)
    left.errorbar([row.mean_w for row in rows], where, xerr=spread, fmt="none", ecolor=INK, elinewidth=1.0,
                  capsize=2.5)  # fmt: skip
    idle = next((row.idle_w for row in rows if row.idle_w is not None), None)
    if idle is not None:
        left.axvline(idle, color=MUTED, linestyle=":", linewidth=1.2)
        left.annotate(f"at rest {digits(idle)} W", (idle, 1.0), xycoords=("data", "axes fraction"),
                      xytext=(3, 2), textcoords="offset points", fontsize=8, color=MUTED)  # fmt: skip
    left.set_xlabel("power, W (whisker: standard deviation)")
    joules = [row.item_j for row in rows]
    scale, unit = _joule_unit([j for j in joules if j is not None])
    right.barh(where, [(j or 0.0) * scale for j in joules], color=colours, height=0.62)
    for y, j in enumerate(joules):
        if j is None:
            right.annotate("n/a", (0.0, y), xytext=(4, 0), textcoords="offset points", va="center",
                           fontsize=8, color=MUTED)  # fmt: skip
    right.set_xlabel(f"energy, {unit} per {report.facts.item}")
    for ax, names in ((left, [row.name for row in rows]), (right, [""] * len(rows))):
        ax.set_yticks(where, names)
        ax.tick_params(axis="y", length=0)
        ax.set_ylim(len(rows) - 0.4, -0.6)
        ax.set_xlim(left=0)
        ax.grid(axis="x")
    set_title(figure, power_title(report))
    return figure


def _power_colour(row: PowerRow, report: Report) -> str:
    if row.trial is None:
        return GREY
    chosen = report.choice is not None and report.choice.number == row.trial
    return GREEN if chosen else ORANGE if row.steady is False else BLUE


def _joule_unit(values: list[float]) -> tuple[float, str]:
    """Return what to multiply joules by, and the unit then, so that the greatest is 1 or more."""
    most = max(values, default=1.0)
    return next(((f, u) for f, u in ((1.0, "J"), (1e3, "mJ"), (1e6, "µJ")) if most * f >= 1), (1e9, "nJ"))
