"""What the commands say about chance: intervals, paired tests, and the result on data that was held back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from qslm_opt import stats
from qslm_opt.cli.output import digits, metric_value

if TYPE_CHECKING:
    from qslm_opt.results import Comparison
    from qslm_opt.store import StudyRow

_NAMES = {
    "value": "value", "n": "n", "correct": "correct", "windows": "windows", "low": "ci_low",
    "high": "ci_high", "level": "confidence_level", "error": "standard_error", "baseline": "baseline",
    "change": "change", "change_low": "change_low", "change_high": "change_high", "p": "p_value",
    "within": "within_bound", "data_hash": "data_hash", "reason": "reason",
}  # fmt: skip
"""Field of a Comparison → its name in JSON."""


def comparison_json(found: Comparison | None) -> dict[str, Any] | None:
    """Return a comparison as the commands print it."""
    return None if found is None else {name: getattr(found, field) for field, name in _NAMES.items()}


def interval_json(
    metric: str, value: float | None, n: int, found: Comparison | None = None
) -> dict[str, Any]:
    """Return ``ci_low, ci_high, confidence_level`` of an accuracy over ``n``, or of a stored comparison."""
    if metric == "accuracy" and value is not None and n:
        low, high = stats.share_interval(value, n)
        return {"ci_low": low, "ci_high": high, "confidence_level": stats.LEVEL}
    if found is None:
        return {"ci_low": None, "ci_high": None, "confidence_level": stats.LEVEL}
    return {"ci_low": found.low, "ci_high": found.high, "confidence_level": found.level}


def data_words(row: StudyRow) -> str:
    """Return what the result is measured on, in words."""
    spec = row.spec
    if spec.report_split is not None:
        return f"split {spec.report_split!r}"
    return f"{100 * spec.hold_back:g} % of the data"


def generalisation_json(row: StudyRow) -> dict[str, Any] | None:
    """Return where the result is measured and what the unquantized model gives there; None without."""
    if not row.spec.reports:
        return None
    return {
        "hold_back": row.spec.hold_back or None,
        "report_split": row.spec.report_split,
        "measured": sum(digest != "baseline" for digest in row.held_back),
        "baseline": comparison_json(row.held_back.get("baseline")),
    }


def interval_words(metric: str, low: float | None, high: float | None) -> str:
    """Return an interval such as ``80.4–85.3`` (percent) or ``33.1–35.2``; n/a without one."""
    if low is None or high is None:
        return "n/a"
    if metric == "accuracy":
        return f"{100 * low:.1f}–{100 * high:.1f}"
    return f"{digits(low, 4)}–{digits(high, 4)}"


def change_words(metric: str, change: float | None) -> str:
    """Return a change of accuracy in points (pp), or of perplexity in percent."""
    if change is None:
        return "n/a"
    return f"{100 * change:+.2f} {'pp' if metric == 'accuracy' else '%'}"


def held_back_words(metric: str, found: Comparison) -> str:
    """Return a candidate's result on held-back data in a line, with its interval, change and p value."""
    if found.value is None:
        return f"could not be measured: {found.reason}"
    text = f"{metric} {metric_value(metric, found.value)} [{interval_words(metric, found.low, found.high)}]"
    if found.change is None:
        return text
    text += f", {change_words(metric, found.change)}"
    if found.change_low is not None and found.change_high is not None:
        text += f" [{100 * found.change_low:+.2f} to {100 * found.change_high:+.2f}]"
    p = "" if found.p is None else f", p = {found.p:.2g}"
    verdict = "meets the bound" if found.within else "beyond the bound"
    return f"{text}{p}; {verdict}"


def held_back_cells(metric: str, found: Mapping[str, Any] | None) -> tuple[str, str, str]:
    """Return value, change and p of a candidate's row on held-back data; ✗ where it is beyond the bound."""
    if found is None:
        return "–", "–", "–"
    mark = "" if found["within_bound"] else " ✗"
    p = "n/a" if found["p_value"] is None else f"{found['p_value']:.2g}"
    return metric_value(metric, found["value"]) + mark, change_words(metric, found["change"]), p
