"""The figures of the choice: bits of every module, and the bytes of every block before and after."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qslm_opt.cli.output import digits, size
from qslm_opt.cli.report.theme import (
    BLUE,
    GREY,
    INK,
    MUTED,
    PAPER,
    bytes_axis,
    new_figure,
    plain,
    set_title,
    tick_text,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from qslm_opt.cli.report.bits import BitCell
    from qslm_opt.cli.report.data import Report

_STEPS = (1, 1.58, 2, 3, 4, 5, 6, 8, 10, 12, 16, 32)
"""Widths that have a colour of their own."""
_SIGNS = {"pinned": "p", "sign": "s", "dead": "dead", "tied": "tied", "": ""}


def bits_title(report: Report) -> str:
    """Return the mean and the range of the bits."""
    found = report.bit_map
    assert found is not None
    widths = [c.bits for _, cells in found.rows for c in cells if c is not None and c.bits is not None]
    span = f"from {min(widths):g} to {max(widths):g}" if widths else "none"
    return f"The choice uses {digits(found.mean_bits)} bits a weight on the mean, {span} by module"


def bits_figure(report: Report) -> Figure | None:
    """Blocks × modules with the bits of the choice; marked are units that were not free to move."""
    found = report.bit_map
    if found is None or not found.rows:
        return None
    from matplotlib import colormaps

    figure, (ax,) = new_figure(1.3 + 0.27 * len(found.rows))
    colours = colormaps["Blues"]
    for y, (_, cells) in enumerate(found.rows):
        for x, cell in enumerate(cells):
            if cell is not None:
                _draw(ax, x, y, cell, colours)
    ax.set_xlim(0, len(found.columns))
    ax.set_ylim(len(found.rows), 0)
    ax.set_xticks([x + 0.5 for x in range(len(found.columns))], [plain(c, 16) for c in found.columns])
    ax.set_yticks([y + 0.5 for y in range(len(found.rows))], [plain(b, 22) for b, _ in found.rows])
    if len(found.columns) > 5:
        for label in ax.get_xticklabels():
            label.set(rotation=28, ha="right", rotation_mode="anchor")
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    words = {"pinned": "p: pinned", "sign": "s: only the sign is read", "dead": "dead: not read by the task",
             "tied": "tied: shares another's storage"}  # fmt: skip
    notes = [words[mark] for mark in found.marks()]
    ax.set_xlabel("bits a weight" + (f"   ({'; '.join(notes)})" if notes else ""))
    set_title(figure, bits_title(report))
    return figure


def _draw(ax: Axes, x: int, y: int, cell: BitCell, colours: object) -> None:
    from matplotlib.patches import Rectangle

    share = 0.0 if cell.bits is None else sum(cell.bits > step for step in _STEPS) / (len(_STEPS) - 1)
    colour = "none" if cell.bits is None else colours(0.12 + 0.8 * share)  # type: ignore[operator]
    edge = MUTED if cell.bits is None else PAPER
    style = ":" if cell.bits is None else "-"
    ax.add_patch(Rectangle((x + 0.02, y + 0.02), 0.96, 0.96, facecolor=colour, edgecolor=edge,
                           linestyle=style, linewidth=0.9))  # fmt: skip
    sign = _SIGNS[cell.mark]
    text = sign if cell.bits is None else f"{cell.bits:g}" + (f" {sign}" if sign else "")
    ink = INK if cell.bits is None else "#fefefe" if share > 0.5 else "#111112"
    ax.text(x + 0.5, y + 0.5, text, ha="center", va="center", fontsize=8, color=ink)


def bytes_title(report: Report) -> str:
    """Return how much smaller the model became, and where most of what is left lies."""
    found = report.bit_map
    assert found is not None
    before, after = (sum(getattr(b, key) for b in found.blocks) for key in ("before", "after"))
    largest = max(found.blocks, key=lambda b: b.after)
    share = 100 * largest.after / after if after else 0.0
    times = f"{before / after:.1f} times smaller" if after else "empty"
    most = f"{plain(largest.block)} holds {share:.0f} % of what is left"
    return f"{size(before)} become {size(after)}, {times}; {most}"


def bytes_figure(report: Report) -> Figure | None:
    """Bytes of every block in float32 and packed."""
    found = report.bit_map
    if found is None or not found.blocks:
        return None
    from matplotlib.ticker import FuncFormatter

    figure, (ax,) = new_figure(1.35 + 0.29 * len(found.blocks))
    label, unit = bytes_axis(max(b.before for b in found.blocks))
    where = range(len(found.blocks))
    ax.barh([y - 0.2 for y in where], [b.before / unit for b in found.blocks], height=0.36, color=GREY,
            label="float32")  # fmt: skip
    ax.barh([y + 0.2 for y in where], [b.after / unit for b in found.blocks], height=0.36, color=BLUE,
            label="packed")  # fmt: skip
    for y, block in enumerate(found.blocks):
        share = "" if not block.before else f"  −{100 * (1 - block.after / block.before):.1f} %"
        ax.annotate(f"{size(block.after)}{share}", (block.after / unit, y + 0.2), xytext=(4, 0),
                    textcoords="offset points", va="center", fontsize=7.5, color=INK)  # fmt: skip
    ax.set_yticks(list(where), [plain(b.block, 22) for b in found.blocks])
    ax.set_ylim(len(found.blocks) - 0.4, -0.6)
    ax.set_xlim(0, max(b.before for b in found.blocks) / unit * 1.02)
    ax.xaxis.set_major_formatter(FuncFormatter(tick_text))
    ax.set_xlabel(f"memory, {label}, scales and zero points included")
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x")
    figure.legend(loc="outside lower right", ncols=2)
    set_title(figure, bytes_title(report))
    return figure
