"""How every figure looks, and its two forms: PNG on white, SVG whose colours follow the page.

Matplotlib is imported here only, when a figure is drawn, without pyplot and without the user's settings.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from qslm_opt.safe import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, GRID, PAPER = "#1a1b1e", "#5c6069", "#d9dce2", "#fcfcfd"
BLUE, ORANGE, GREEN, RED, PURPLE, GREY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#aa4499", "#9aa0aa"
"""Okabe and Ito's colours, which people of every colour vision tell apart."""
NAMES = {
    INK: "ink", MUTED: "muted", GRID: "grid", PAPER: "paper", BLUE: "blue", ORANGE: "orange", GREEN: "green",
    RED: "red", PURPLE: "purple", GREY: "grey",
}  # fmt: skip
"""Colour → name of the page's variable that stands for it in an SVG."""
WIDTH = 7.6
"""Inches of every figure."""
DPI = 160
BEHIND = {"facecolor": PAPER, "edgecolor": "none", "alpha": 0.8, "pad": 0.6}
"""What stands behind a label, so that it can be read on lines and points."""
_STYLE: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"], "font.size": 9.0, "text.parse_math": False, "text.usetex": False,
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": MUTED, "axes.labelcolor": INK,
    "axes.titlesize": 11.0, "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.titlepad": 10.0,
    "axes.linewidth": 0.8, "axes.axisbelow": True, "axes.unicode_minus": True, "text.color": INK,
    "xtick.color": MUTED, "ytick.color": MUTED, "xtick.labelcolor": INK, "ytick.labelcolor": INK,
    "grid.color": GRID, "grid.linewidth": 0.6, "legend.frameon": False, "legend.fontsize": 8.0,
    "figure.facecolor": PAPER, "axes.facecolor": "none", "savefig.facecolor": PAPER,
    "svg.fonttype": "none", "svg.hashsalt": "qslm-opt",
}  # fmt: skip
_ATTRIBUTE = re.compile(r' (?:xmlns(?::\w+)?|version)="[^"]*"')
_IDS = re.compile(r'((?: id="| href="#|url\(#))')


@contextmanager
def styled() -> Iterator[None]:
    """Draw and save inside with our style alone, silent about letters that the font has not."""
    import matplotlib as mpl

    with mpl.rc_context(), warnings.catch_warnings():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        yield


def new_figure(
    height: float, columns: int = 1, widths: tuple[float, ...] = (1.0,)
) -> tuple[Figure, list[Axes]]:
    """Return a figure of our width and ``height`` inches with axes side by side."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False, gridspec_kw={"width_ratios": widths})
    return figure, list(axes[0])


def set_title(figure: Figure, text: str) -> None:
    """Put the figure's message above it, at the left, in as many lines as it needs."""
    import textwrap

    lines = textwrap.wrap(plain(text, 300), 88)
    figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=10.5, fontweight="bold")


def plain(text: str, most: int = 28) -> str:
    """Return a name of the study as one short line that cannot steer anything."""
    line = " ".join(printable(text).split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def png(figure: Figure) -> bytes:
    """Return the figure on white as PNG, the same bytes for the same numbers; its layout is fixed then."""
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=DPI, metadata={"Software": None})
    figure.set_layout_engine("none")
    return out.getvalue()


def svg(figure: Figure, prefix: str, label: str) -> str:
    """Return the figure as an SVG element for a page: no prolog, no URL, own ids, colours by variable."""
    out = io.StringIO()
    figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return inline(out.getvalue(), prefix, label)


def inline(text: str, prefix: str, label: str) -> str:
    """Make Matplotlib's SVG file part of a page; ``label`` is escaped already."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    head, mark, rest = text.partition(">")
    head = _ATTRIBUTE.sub("", head).replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
    rest = _IDS.sub(lambda match: match[1] + prefix, rest.replace("xlink:href", "href"))
    rest = rest.replace(' type="text/css"', "")
    for colour, name in NAMES.items():
        rest = rest.replace(colour, f"var(--{name})")
    return (head + mark + rest).strip()


def bytes_axis(most: float) -> tuple[str, float]:
    """Return the unit in which bytes up to ``most`` are shown, and what to divide them by."""
    return next((found for found in (("GB", 1e9), ("MB", 1e6)) if most >= found[1]), ("kB", 1e3))


def tick_text(value: float, _: object = None) -> str:
    """Return a tick's number without powers of ten."""
    return f"{value:,.9g}".replace("-", "−")
