"""How numbers are written: three significant digits, units always, a dash for what is not known."""

from __future__ import annotations

import shlex
from math import floor, isfinite, log10
from typing import TYPE_CHECKING

from qslm_opt.safe import has_password, masked
from tui.glyphs import glyphs

if TYPE_CHECKING:
    from qslm_opt.results import TrialRecord

_UNITS = (("GB", 10**9), ("MB", 10**6), ("kB", 10**3))


def significant(value: float, digits: int = 3) -> str:
    """Return ``value`` with so many significant digits, without an exponent below a million."""
    if not isfinite(value):
        return "inf" if value > 0 else "-inf" if value < 0 else "nan"
    if value == 0:
        return "0"
    if abs(value) >= 10**6:
        return f"{value:.{digits - 1}e}"
    places = max(0, digits - 1 - floor(log10(abs(value))))
    return f"{value:.{min(places, 9)}f}"


def byte_unit(size: float) -> tuple[str, int]:
    """Return the unit for ``size`` bytes and its factor: GB, MB and kB are powers of 1000."""
    return next(((name, factor) for name, factor in _UNITS if size >= factor), ("B", 1))


def bytes_text(size: float) -> str:
    """Return for instance ``26.5 MB``."""
    name, factor = byte_unit(size)
    return f"{int(size)} B" if factor == 1 else f"{significant(size / factor)} {name}"


def metric_text(metric: str, value: float | None) -> str:
    """Return an accuracy (0..1) as ``62.41 %`` or a perplexity as ``34.21``."""
    if value is None:
        return glyphs().dash
    return f"{100 * value:.2f} %" if metric == "accuracy" else significant(value, 4)


def change_text(change: float, unit: str = "", digits: int = 3) -> str:
    """Return a change with its sign, ``0`` when there is none."""
    if change == 0:
        return f"0{unit}"
    return f"{'+' if change > 0 else glyphs().minus}{significant(abs(change), digits)}{unit}"


def metric_change(metric: str, before: float | None, after: float | None) -> str:
    """Return the change of a metric: points of an accuracy, or of a perplexity as it is."""
    if before is None or after is None:
        return glyphs().dash
    change = after - before
    return change_text(100 * change, " points") if metric == "accuracy" else change_text(change)


def percent(share: float, digits: int = 1) -> str:
    """Return a share as ``88.1 %``."""
    return f"{100 * share:.{digits}f} %"


def room_text(record: TrialRecord, key: str) -> str:
    """Return how much of a limit is left (``4.0 %``), or ``!3.1 %`` when it is passed by so much.

    A dash stands for what was not judged: the metric of a setting whose model never ran.
    """
    slack = record.slack.get(key)
    if slack is None or (key == "metric" and record.value is None and slack <= 0):
        return glyphs().dash
    if slack <= 0:
        return f"{abs(100 * slack):.1f} %"
    return f"!{significant(100 * slack, 2) if slack < 10 else '>1000'} %"


def number_text(value: float | None, digits: int = 3) -> str:
    """Return a number with so many significant digits, or ``n/a``."""
    return "n/a" if value is None else significant(value, digits)


def lam_text(lam: float) -> str:
    """Return λ with at most three significant digits and no trailing zeros."""
    return f"{lam:.3g}"


def exact_lam(lam: float) -> str:
    """Return λ for a command line, where rounding could name another winner."""
    return f"{lam:.17g}" if float(f"{lam:.12g}") != lam else f"{lam:.12g}"


def duration(seconds: float | None) -> str:
    """Return ``01:12:44``, ``00:38`` under an hour, ``2d 03:04`` from a day on."""
    if seconds is None:
        return glyphs().dash
    total = max(0, int(seconds))
    days, hours, minutes = total // 86400, total // 3600 % 24, total // 60 % 60
    if days:
        return f"{days}d {hours:02}:{minutes:02}"
    return f"{hours:02}:{minutes:02}:{total % 60:02}" if hours else f"{minutes:02}:{total % 60:02}"


def age_text(seconds: float) -> str:
    """Return how long ago in one unit: ``12s``, ``40m``, ``3h``, ``5d``."""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{max(0, int(seconds))}s"


def clip(text: str, width: int) -> str:
    """Return ``text`` cut to ``width`` cells, with an ellipsis when something was lost."""
    mark = glyphs().ellipsis
    return text if len(text) <= width else text[: max(0, width - 1)] + mark[:width]


def clip_unit(unit: str, width: int) -> str:
    """Return a unit in ``width`` cells: ``attention.3/att.key`` becomes ``3/att.key`` before it is cut."""
    return clip(unit if len(unit) <= width else unit.removeprefix("attention."), width)


def state_word(record: TrialRecord) -> str:
    """Return a trial's outcome in one word; the sensitivity tier and cheap trials judge nothing."""
    if record.cheap and record.state == "pruned":
        return "measured"
    if record.state != "complete":
        return record.state
    if record.feasible:
        return "feasible"
    return "measured" if record.tier == "sensitivity" or record.extra else "violates"


def state_sign(record: TrialRecord) -> str:
    """Return the sign of a trial's outcome."""
    signs = glyphs()
    if record.state == "complete":
        return signs.feasible if record.feasible else signs.infeasible
    return {"running": signs.running, "pruned": signs.pruned, "failed": signs.failed}.get(
        record.state, signs.waiting
    )


def state_role(record: TrialRecord) -> str:
    """Return the colour role of a trial's outcome (see ``style.tcss``)."""
    if record.state == "complete":
        return {"feasible": "feasible", "measured": ""}.get(state_word(record), "infeasible")
    return record.state if record.state in ("running", "pruned", "failed") else "dim"


def safe_url(url: str) -> str:
    """Return a storage URL without its passwords."""
    return masked(url)


def study_command(verb: str, name: str, *options: str, url: str) -> str:
    """Return a command line about a study; a name that looks like an option comes last, after ``--``."""
    if not name.startswith("-"):
        return cli_command("study", verb, name, *options, url=url)
    return f"{cli_command('study', verb, *options, url=url)} {shlex.join(('--', name))}"


def cli_command(*words: str, url: str) -> str:
    """Return the ``qslm-opt`` command line; the default storage and one with a password go unnamed.

    A URL with a password belongs into QSLM_OPT_STORAGE, not into a shell's history.
    """
    from qslm_opt.store import default_url  # SQLAlchemy loads with it, so not at import

    storage = () if has_password(url) or url == default_url() else ("--storage", url)
    return shlex.join(("qslm-opt", *words, *storage))
