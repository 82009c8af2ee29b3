"""The signs of the dashboard: Unicode by default, plain ASCII with ``QSLM_OPT_ASCII=1``."""

from __future__ import annotations

import os
from dataclasses import dataclass

HEAT_LEVELS = 6
"""Steps of a heat map, from cold to hot."""


@dataclass(frozen=True)
class Glyphs:
    """One sign for each meaning, so that colour is never the only sign.

    All are one cell wide but ``degree``, and ``lam`` and ``at_most``, which are words in ASCII.
    """

    feasible: str = "●"
    infeasible: str = "○"
    pruned: str = "✂"
    failed: str = "✕"
    running: str = "▶"
    waiting: str = "·"
    best: str = "◆"
    done: str = "✔"
    stopped: str = "■"
    gone: str = "†"
    full: str = "█"
    rest: str = "░"
    bar: str = "│"
    vertical: str = "┊"
    horizontal: str = "┄"
    axis_y: str = "┤"
    axis_x: str = "┴"
    corner: str = "└"
    rule: str = "─"
    cross: str = "┼"
    up: str = "▲"
    down: str = "▼"
    same: str = "─"
    dash: str = "–"
    minus: str = "−"
    lam: str = "λ"
    delta: str = "Δ"
    at_most: str = "≤"
    at_least: str = "≥"
    about: str = "≈"
    plus_minus: str = "±"
    pin: str = "◇"
    dot: str = "·"
    ellipsis: str = "…"
    left_cap: str = "▐"
    right_cap: str = "▌"
    begin: str = "▏"
    cursor: str = "┃"
    degree: str = "°C"
    sigma: str = "σ"
    levels: str = "▁▂▃▄▅▆▇█"
    braille: bool = True
    """Whether lines may be drawn with braille dots."""


UNICODE = Glyphs()
ASCII = Glyphs(
    feasible="+", infeasible="o", pruned="x", failed="!", running=">", waiting=".", best="*", done="v",
    stopped="#", gone="!", full="#", rest=".", bar="|", vertical=":", horizontal="-", axis_y="|", axis_x="+",
    corner="+", rule="-", cross="+", up="^", down="v", same="-", dash="-", minus="-", lam="lambda", delta="d",
    at_most="<=", at_least=">=", about="~", plus_minus="+-", pin="P", dot="-", ellipsis="~", left_cap="[",
    right_cap="]", begin="|", cursor="|", degree="C", sigma="s", levels="12345678", braille=False,
)  # fmt: skip


def ascii_wanted() -> bool:
    """Return whether ``QSLM_OPT_ASCII`` asks for plain ASCII."""
    return os.environ.get("QSLM_OPT_ASCII", "") not in ("", "0")


def glyphs() -> Glyphs:
    """Return the signs that the environment asks for."""
    return ASCII if ascii_wanted() else UNICODE


def plain(text: str) -> str:
    """Return ``text`` with the dashboard's own Unicode signs replaced, when ASCII is wanted."""
    if not ascii_wanted():
        return text
    return text.translate(_PLAIN)


_PLAIN = str.maketrans(
    {
        "·": "-",
        "–": "-",
        "−": "-",
        "…": "~",
        "λ": "lambda",
        "Δ": "d",
        "≤": "<=",
        "≥": ">=",
        "≈": "~",
        "◇": "P",
        "→": "->",
        "×": "x",
        "°": " ",
        "σ": "s",
        "Σ": "S",
        "±": "+-",
        "┃": "|",
    }
)
