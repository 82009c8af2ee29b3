"""The figure of the plane: left all that was measured, right what lies around both limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
    from typing import TypeAlias

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from qslm_opt.cli.report.data import Report
    from qslm_opt.cli.report.plane import Kind, Plane, Point, Winner

    _Line: TypeAlias = "tuple[float | None, str, str, str]"
    """Value, name, colour and style."""
    _Box: TypeAlias = "tuple[float, float, float]"
    """Start, end and height of a label, as shares of its panel."""

_VECTOR = 1500
"""More points than this are drawn as one picture inside the SVG."""
_LINE, _LETTER = 0.06, 0.0155
"""Height of a line and width of a letter, as shares of the right panel."""
_FEW = 2
"""So few sizes span no axis of their own: both limits and the baseline are drawn beside them."""
_REACH = 1.35, 3.0
"""A budget is drawn up to so many times the largest point: usually, and where points are few."""
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
    """Return the two panels, or the left one where nothing is near both limits; None without points."""
    found = report.plane
    if found is None:
        return None
    near = _near(found)
    figure, axes = new_figure(4.3, 2, (1.0, 1.55)) if near else new_figure(4.0)
    _panel(axes[0], report, found, found.points, small=True)
    _whole_axis(axes[0], report, found, named=not near)
    _subtitle(axes[0], "everything that was measured")
    if near:
        _panel(axes[1], report, found, near, small=False)
        both = _near_axis(axes[1], report, found, near)
        _front(axes[1], report, found)
        _winners(axes[1], report, found)
        around = "around both limits" if both else f"around the {report.metric} bound"
        _subtitle(axes[1], around + (": the choice for each λ" if found.winners else ""))
    named: dict[str, Any] = {}
    for ax in axes:
        handles, labels = ax.get_legend_handles_labels()
        named |= dict(zip(labels, handles, strict=True))
    figure.legend(
        list(named.values()), list(named), loc="outside lower center", ncols=3, handletextpad=0.4,
        columnspacing=1.6,
    )  # fmt: skip
    set_title(figure, plane_title(report))
    return figure


def _subtitle(ax: Axes, text: str) -> None:
    ax.set_title(text, fontsize=9, fontweight="normal", color=MUTED)


def _near(found: Plane) -> list[Point]:
    """Return the points of the right panel: candidates, and what lies about as near to both limits."""
    judged = found.of("candidate", "violates", "not needed")
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
            facecolors="none", edgecolors=INK, linewidths=0.9, s=46, marker="D", zorder=4,
            label="uniform bits",
        )  # fmt: skip
    star = found.chosen or found.closest
    if star is not None:
        words = "chosen" if found.chosen else "closest"
        ax.scatter([star.bytes / unit], [shown(report.metric, star.value)], c=GREEN, edgecolors=INK,
                   linewidths=0.7, marker="*", s=190 if not small else 90, zorder=6, label=words)  # fmt: skip


def _whole_axis(ax: Axes, report: Report, found: Plane, named: bool) -> None:
    """Set the axes of the left panel and draw all limits; ``named`` where no other panel names them."""
    lines = _lines(found, baseline=True)
    _draw_lines(ax, report.metric, lines, found.points)
    label, unit = bytes_axis(found.fp32_bytes)
    budget = found.budget / unit
    sizes = [budget, *(p.bytes / unit for p in found.points)]
    _whole_span(ax, min(sizes), max(*sizes, found.fp32_bytes / unit))
    if named:
        _name_lines(ax, report.metric, lines, None)
    _budget(ax, found.budget, budget, top=report.metric != "accuracy")
    _name_axes(ax, f"{label} (logarithmic)", metric_label(report.metric))


def _near_axis(ax: Axes, report: Report, found: Plane, points: Sequence[Point]) -> bool:
    """Set the axes of the right panel and draw what is in reach; return whether the budget is."""
    label, unit = bytes_axis(found.budget)
    budget, sizes = found.budget / unit, [p.bytes / unit for p in points]
    few = len(set(sizes)) <= _FEW
    values = [shown(report.metric, p.value) for p in points]
    lines = _lines(found, baseline=few or _in_reach(found, values, report))
    _draw_lines(ax, report.metric, lines, points)
    reached = budget <= _REACH[few] * max(sizes)
    sizes += [budget] if reached else []
    room = (max(sizes) - min(sizes)) or max(sizes) * (0.5 if few else 0.1)
    left = 0.55 if few else 0.4 if found.winners else 0.12
    right = 0.4 if few and not reached else 0.12
    ax.set_xlim(max(0.0, min(sizes) - left * room), max(sizes) + right * room)
    _name_lines(ax, report.metric, lines, budget if reached else None)
    if reached:
        _budget(ax, found.budget, budget, top=report.metric != "accuracy", right=few)
    _name_axes(ax, label, "")
    return reached


def _lines(found: Plane, baseline: bool) -> list[_Line]:
    """Return the horizontal lines: the bound, and the ``baseline`` where it is wanted."""
    lines: list[_Line] = [(found.bound, "bound", RED, "--")]
    return [*lines, (found.baseline, "baseline", MUTED, ":")] if baseline else lines


def _draw_lines(ax: Axes, metric: str, lines: Sequence[_Line], points: Sequence[Point]) -> None:
    """Draw horizontal lines on an axis that holds them and the points."""
    known = [(shown(metric, value), colour, style) for value, _, colour, style in lines if value is not None]
    spread_axis(ax, metric, [shown(metric, p.value) for p in points] + [at for at, *_ in known])
    for at, colour, style in known:
        ax.axhline(at, color=colour, linewidth=1.1, linestyle=style, zorder=1)


def _name_axes(ax: Axes, memory: str, metric: str) -> None:
    ax.xaxis.set_major_formatter(tick_text)
    ax.set_xlabel(f"memory, {memory}")
    ax.set_ylabel(metric)
    ax.grid(visible=True)


def _whole_span(ax: Axes, low: float, high: float) -> None:
    """Set a logarithmic axis of bytes with a few round ticks."""
    from matplotlib.ticker import FixedLocator, NullLocator

    ax.set_xscale("log")
    ax.set_xlim(low / (high / low) ** 0.06, high * (high / low) ** 0.06)
    ax.xaxis.set_major_locator(FixedLocator(_ticks(low, high)))
    ax.xaxis.set_minor_locator(NullLocator())


def _budget(ax: Axes, size_bytes: int, at: float, top: bool, right: bool = False) -> None:
    """Draw the budget and name it on the side that has room, at the end where no candidate is.

    ``right``: it has room there for certain.
    """
    ax.axvline(at, color=RED, linewidth=1.1, linestyle="--", zorder=1)
    place = ax.transAxes.inverted().transform(ax.transData.transform((at, ax.get_ylim()[0])))[0]
    side = 3 if right or place <= 0.15 else -3
    ax.annotate(
        f"budget {size(size_bytes)}", (at, float(top)), xycoords=("data", "axes fraction"),
        xytext=(side, -3 if top else 3), textcoords="offset points", rotation=90,
        ha="right" if side < 0 else "left", va="top" if top else "bottom", color=RED, fontsize=8, bbox=BEHIND,
        zorder=6,
    )  # fmt: skip


def _name_lines(
    ax: Axes, metric: str, lines: list[_Line], budget: float | None
) -> None:
    """Name the baseline at the left and the bound at the right, beside the budget's own name."""
    label_lines(ax, metric, [line for line in lines if line[1] == "baseline"])
    for value, name, colour, _ in lines:
        if name == "bound" and value is not None:
            above = metric != "accuracy"
            ax.annotate(
                f"{name} {metric_value(metric, value)}",
                (1.0 if budget is None else budget, shown(metric, value)),
                xycoords=("axes fraction" if budget is None else "data", "data"),
                xytext=(-4 if budget is None else -17, 3 if above else -3), textcoords="offset points",
                va="bottom" if above else "top", ha="right", color=colour, fontsize=8, bbox=BEHIND, zorder=6,
            )  # fmt: skip


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
        [p.bytes / unit for p in found.front], [shown(report.metric, p.value) for p in found.front],
        where="post", color=PURPLE, linewidth=1.3, zorder=3, label="Pareto front",
    )  # fmt: skip


def _winners(ax: Axes, report: Report, found: Plane) -> None:
    """Ring the winners, and name the interval of λ of those that have room for it, the choice first."""
    if not found.winners:
        return
    unit = bytes_axis(found.budget)[1]
    places = [(w.point.bytes / unit, shown(report.metric, w.point.value)) for w in found.winners]
    xs, ys = zip(*places, strict=True)
    ax.scatter(xs, ys, facecolors="none", edgecolors=PURPLE, linewidths=1.4, s=90,
               zorder=5, label="wins at some λ")  # fmt: skip
    up = 1 if report.metric == "accuracy" else -1
    taken = _named_lines(ax, report.metric, found, up)
    pairs = zip(found.winners, places, strict=True)
    for winner, place in sorted(pairs, key=lambda pair: pair[0].point != found.chosen):
        text = f"#{winner.point.trial}  {winner_words(winner)}"
        at, height = ax.transAxes.inverted().transform(ax.transData.transform(place))
        wide = _LETTER * len(text)
        boxes = {"right": (at - wide, at, height), "left": (at, at + wide, height)}
        side = next((s for s, box in boxes.items() if _is_free(box, taken)), None)
        if side is None:
            continue
        taken.append(boxes[side])
        ax.annotate(
            text, place, xytext=(-8 if side == "right" else 8, 5 * up), textcoords="offset points", ha=side,
            va="bottom" if up > 0 else "top", fontsize=7.5, color=INK, bbox=BEHIND, zorder=7,
        )  # fmt: skip


def _is_free(box: _Box, taken: Sequence[_Box]) -> bool:
    """Return whether a label has room inside the panel, and beside the others."""
    start, end, height = box
    inside = start >= 0 and end <= 1
    return inside and not any(abs(height - h) < _LINE and start < e and s < end for s, e, h in taken)


def _named_lines(ax: Axes, metric: str, found: Plane, up: int) -> list[_Box]:
    """Return where the names of the lines stand, as the heights of points whose labels would meet them.

    The baseline's name is on the side of its line on which a point's label is, the bound's on the other.
    """
    boxes: list[_Box] = []
    for name, value in (("baseline", found.baseline), ("bound", found.bound)):
        if value is not None:
            words = f"{name} {metric_value(metric, value)}"
            at = ax.transData.transform((ax.get_xlim()[0], shown(metric, value)))
            height = float(ax.transAxes.inverted().transform(at)[1])
            wide = _LETTER * (len(words) + 2)
            boxes.append((0.0, wide, height) if name == "baseline" else (1 - wide, 1.0, height - up * _LINE))
    return boxes
