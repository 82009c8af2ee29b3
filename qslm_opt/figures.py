"""How figures are written for people: bytes, metrics and powers, the same wherever a line is printed."""

from __future__ import annotations

from math import floor, isfinite, log10


def digits(value: float, count: int = 3) -> str:
    """Return ``value`` with ``count`` significant digits, never in powers of ten."""
    if not value or not isfinite(value):
        return f"{value:g}"
    return f"{value:,.{max(0, count - 1 - floor(log10(abs(value))))}f}"


def size(count: float) -> str:
    """Return bytes as kB, MB (10⁶) or GB with three significant digits."""
    for unit, step in (("GB", 1e9), ("MB", 1e6)):
        if count >= step:
            return f"{digits(count / step)} {unit}"
    return f"{digits(count / 1e3)} kB"


def metric_value(metric: str, value: float | None) -> str:
    """Return an accuracy in percent or a perplexity; n/a when it was not measured."""
    if value is None:
        return "n/a"
    return f"{100 * value:.2f} %" if metric == "accuracy" else digits(value, 5)


def metric_change(metric: str, value: float | None, baseline: float | None) -> str:
    """Return the change against the baseline: points of accuracy (pp), or percent of perplexity."""
    if value is None or not baseline:
        return "n/a"
    if metric == "accuracy":
        return f"{100 * (value - baseline):+.2f} pp"
    return f"{100 * (value / baseline - 1):+.2f} %"


def total_text(done: int, total: int | None, *, ended: bool = False) -> str:
    """Return how many trials there will be, such as ``~140`` until it has ``ended`` or all are ``done``.

    A search decides what it asks next, so only what is over has an exact total; ``?`` where none is known.
    """
    if total is None:
        return "?"
    return f"{total}" if ended or done >= total else f"~{total}"


def watts(power_w: float | None) -> str:
    """Return a power, n/a where no meter read it."""
    return "n/a" if power_w is None else f"{digits(power_w)} W"
