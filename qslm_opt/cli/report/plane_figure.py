"""The figure of the plane: left all that was measured, right the part around both limits and the winners by λ."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qslm_opt.cli.output import metric_value, size
from qslm_opt.cli.report.figures import label_lines, metric_label, shown, spread_axis
from qslm_opt.cli.report.theme import (
    BEHIND,
    BLUE,
    GREEN,
    GREY,
    INK,
    MUTED,
    ORANGE,
    PURPLE,
    RED,
    bytes_axis,
    new_figure,
    set_title,
    tick_text,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from qslm_opt.cli.report.data import Report
    from qslm_opt.cli.report.plane import Kind, Plane, Point, Winner

_VECTOR = 1500
"""More points than this are drawn as one picture inside the SVG."""
_LABELLED = 6
"""Winners that are named in the figure; the table below has them all."""
_LOOKS: dict[Kind, tuple[str, str, float, str]] = {
    "block alone": (GREY, "s", 10, "one block quantized alone"),
    "not needed": (GREY, "x", 12, "measured ahead, not needed"),
    "violates": (ORANGE, "v", 16, "violates a limit"),
    "candidate": (BLUE, "o", 18, "candidate: meets both"),
}
"""Kind → colour, marker, area, words; drawn in this order."""


def plane_title(report: Report) -> str:
    """Return the choice at the report's λ, or what came closest."""
    found = report.plane
    assert found is not None
    if found.chosen is not None:
        saving = 100 * (1 - found.chosen.bytes / (found.fp32_bytes or 1))
        value = metric_value(report.metric, found.chosen.value)
        return (
            f"λ = {report.facts.lam:g} chooses trial {found.chosen.trial}: {report.metric} {value} "
            f"in {size(found.chosen.bytes)}, {saving:.1f} % less than float32"
        )
    if found.closest is not None:
        value = metric_value(report.metric, found.closest.value)
        near = f"trial {found.closest.trial} came closest: {value}, {size(found.closest.bytes)}"
        return f"No measured setting meets both limits; {near}"
    return "No measured setting meets both limits"


def winner_words(winner: Winner) -> str:
    """Return the interval of λ that a winner holds."""
    if winner.high is None:
        return f"λ ≥ {winner.low:.3g}" if winner.low else "every λ"
    return f"λ < {winner.high:.3g}" if not winner.low else f"{winner.low:.3g} ≤ λ < {winner.high:.3g}"


def plane_figure(report: Report) -> Figure | None:
    """Return the two panels; None where nothing was measured."""
    found = report.plane
    if found is None:
        return None
    figure, (left, right) = new_figure(4.3, 2, (1.0, 1.55))
    near = _near(found)
    _panel(left, report, found, found.points, small=True)
    _frame_axis(left, report, found.points, whole=True)
    left.set_title("everything that was measured", fontsize=9, fontweight="normal", color=MUTED)
    _panel(right, report, found, near, small=False)
    _frame_axis(right, report, near, whole=False)
    _front(right, report, found)
    _winners(right, report, found)
    title = "around both limits" + (": the choice for each λ" if found.winners else "")
    right.set_title(title, fontsize=9, fontweight="normal", color=MUTED)
    handles, labels = left.get_legend_handles_labels()
    more = right.get_legend_handles_labels()
    named = dict(zip(labels + more[1], handles + more[0], strict=True))
    figure.legend(
        named.values(), named.keys(), loc="outside lower center", ncols=3, handletextpad=0.4, columnspacing=1.6
    )
    set_title(figure, plane_title(report))
    return figure


def _near(found: Plane) -> list[Point]:
    """Return the points of the right panel: candidates, and what lies about as near to both limits."""
    judged = [p for p in found.of("candidate", "violates", "not needed")]
    anchors = found.of("candidate") or ([found.closest] if found.closest else judged)
    if found.bound is None or not anchors:
        return judged
    reach = max((abs(p.value - found.bound) for p in anchors), default=0.0)
    reach = max(reach, 0.02 * abs(found.bound), abs(found.bound - (found.baseline or found.bound)))
    low, high = found.bound - 1.6 * reach, found.bound + 1.6 * reach
    least = 0.8 * min(p.bytes for p in anchors)
    most = 1.15 * max([found.budget if found.budget < 4 * least else 0, *(p.bytes for p in anchors)])
    return [p for p in judged if low <= p.value <= high and least <= p.bytes <= most]


def _panel(ax: Axes, report: Report, found: Plane, points: Sequence[Point], small: bool) -> None:
    unit = bytes_axis(found.fp32_bytes if small else found.budget)[1]
    for kind, (colour, marker, area, words) in _LOOKS.items():
        mine = [p for p in points if p.kind == kind]
        if mine:
            many = len(points) > _VECTOR
            ax.scatter(
                [p.bytes / unit for p in mine], [shown(report.metric, p.value) for p in mine], c=colour,
                marker=marker, s=area * (0.55 if small or many else 1.0), alpha=0.45 if many else 0.85,
                linewidths=0.8 if marker == "x" else 0, label=words, rasterized=many,
                zorder=3 if kind == "candidate" else 2,
            )  # fmt: skip
    uniform = [p for p in points if p.bits is not None]
    if uniform:
        ax.scatter(
            [p.bytes / unit for p in uniform], [shown(report.metric, p.value) for p in uniform],
            facecolors="none", edgecolors=INK, linewidths=0.9, s=46, marker="D", zorder=4, label="uniform bits",
        )  # fmt: skip
    star = found.chosen or found.closest
    if star is not None:
        words = "chosen" if found.chosen else "closest"
        ax.scatter([star.bytes / unit], [shown(report.metric, star.value)], c=GREEN, edgecolors=INK,
                   linewidths=0.7, marker="*", s=190 if not small else 90, zorder=6, label=words)  # fmt: skip


def _frame_axis(ax: Axes, report: Report, points: Sequence[Point], whole: bool) -> None:
    """Set the axes of a panel and draw both limits."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    found = report.plane
    assert found is not None
    label, unit = bytes_axis(found.fp32_bytes if whole else found.budget)
    values = [shown(report.metric, p.value) for p in points]
    lines = [(found.bound, "bound", RED, "--")]
    lines += [(found.baseline, "baseline", MUTED, ":")] if whole or _in_reach(found, values, report) else []
    values += [shown(report.metric, v) for v, *_ in lines if v is not None]
    spread_axis(ax, report.metric, values)
    for value, _, colour, style in lines:
        if value is not None:
            ax.axhline(shown(report.metric, value), color=colour, linewidth=1.1, linestyle=style, zorder=1)
    sizes = [p.bytes for p in points] or [found.budget]
    budget_shown = whole or found.budget <= 1.35 * max(sizes)
    if budget_shown:
        ax.axvline(found.budget / unit, color=RED, linewidth=1.1, linestyle="--", zorder=1)
        ax.annotate(
            f"budget {size(found.budget)}", (found.budget / unit, 1.0), xycoords=("data", "axes fraction"),
            xytext=(-3, -3), textcoords="offset points", rotation=90, ha="right", va="top", color=RED,
            fontsize=8, bbox=BEHIND, zorder=6,
        )  # fmt: skip
        sizes = [*sizes, found.budget]
    low, high = min(sizes) / unit, max(sizes) / unit
    if whole:
        high = max(high, found.fp32_bytes / unit)
        ax.set_xscale("log")
        ax.set_xlim(low / (high / low) ** 0.06, high * (high / low) ** 0.06)
        ax.xaxis.set_major_locator(FixedLocator(_ticks(low, high)))
        ax.xaxis.set_minor_locator(NullLocator())
    else:
        room = (high - low) or high * 0.1
        ax.set_xlim(low - (0.4 if found.winners else 0.12) * room, high + 0.12 * room)
        label_lines(ax, report.metric, lines, right=True)
    ax.xaxis.set_major_formatter(FuncFormatter(tick_text))
    ax.set_xlabel(f"memory, {label}" + (" (logarithmic)" if whole else ""))
    ax.set_ylabel(metric_label(report.metric) if whole else "")
    ax.grid(visible=True)


def _in_reach(found: Plane, values: Sequence[float], report: Report) -> bool:
    """Return whether the baseline stands near enough to the points to be drawn beside them."""
    if found.baseline is None or found.bound is None or not values:
        return found.baseline is not None
    base, bound = shown(report.metric, found.baseline), shown(report.metric, found.bound)
    return abs(base - bound) <= 2.0 * max(abs(v - bound) for v in values)


def _ticks(low: float, high: float) -> list[float]:
    """Return at most about five round numbers over a logarithmic span."""
    from math import ceil, floor, log10

    decades = range(floor(log10(low)), ceil(log10(high)) + 1)
    for steps in ((1, 2, 5), (1, 3), (1,)):
        found = [s * 10.0**d for d in decades for s in steps if low * 0.95 <= s * 10.0**d <= high * 1.05]
        if len(found) <= 5:
            break
    return found


def _front(ax: Axes, report: Report, found: Plane) -> None:
    """Draw the Pareto front as the stairs of what can be had for so many bytes."""
    if len(found.front) < 2:
        return
    unit = bytes_axis(found.budget)[1]
    ax.step(
        [p.bytes / unit for p in found.front], [shown(report.metric, p.value) for p in found.front], where="post",
        color=PURPLE, linewidth=1.3, zorder=3, label="Pareto front",
    )  # fmt: skip


def _winners(ax: Axes, report: Report, found: Plane) -> None:
    """Ring the winners, and name the interval of λ that each holds where that stays readable."""
    unit = bytes_axis(found.budget)[1]
    places = [(w.point.bytes / unit, shown(report.metric, w.point.value)) for w in found.winners]
    if places:
        ax.scatter(*zip(*places, strict=True), facecolors="none", edgecolors=PURPLE, linewidths=1.4, s=90,
                   zorder=5, label="wins at some λ")  # fmt: skip
    higher_is_better = report.metric == "accuracy"
    for winner, place in list(zip(found.winners, places, strict=True))[:_LABELLED]:
        ax.annotate(
            f"#{winner.point.trial}  {winner_words(winner)}", place,
            xytext=(-8, 5 if higher_is_better else -5), textcoords="offset points", ha="right",
            va="bottom" if higher_is_better else "top", fontsize=7.5, color=INK, bbox=BEHIND, zorder=7,
        )  # fmt: skip
