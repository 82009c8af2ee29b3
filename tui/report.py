"""One trial in full, as lines of text. No Textual."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qslm_opt.errors import QslmError
from tui.bitmap import bits_bar
from tui.glyphs import glyphs, plain
from tui.notices import pruned_why
from tui.text import (
    bytes_text,
    metric_text,
    number_text,
    percent,
    room_text,
    significant,
    state_role,
    state_sign,
    state_word,
)  # fmt: skip

if TYPE_CHECKING:
    from qslm_opt.results import TrialRecord
    from tui.model import StudyView

Run = tuple[str, str]


def trial_runs(view: StudyView, record: TrialRecord) -> list[Run]:
    """Return all that is stored of a trial: outcome, limits, cost, then its setting unit by unit."""
    return [*_outcome(view, record), *_limits(view, record), *_cost(view, record), *_setting(view, record)]


def _line(label: str, value: str, role: str = "", more: str = "") -> list[Run]:
    return [(f"{label:<17}", "dim"), (plain(value), role), (plain(more and "  " + more), "dim"), ("\n", "")]


def _outcome(view: StudyView, record: TrialRecord) -> list[Run]:
    best = view.best(view.row.spec.lam)
    note = "best at the study's own λ" if best is not None and best.number == record.number else ""
    base = view.row.baseline
    runs = _line(
        "outcome",
        f"{state_sign(record)} {state_word(record)}",
        state_role(record),
        note or pruned_why(record, view.metric),
    )
    runs += _line("tried", f"{record.tier}: {record.unit} at {record.bits} bits", "bold")
    against = f"baseline {metric_text(view.metric, base.value)}" if base else ""
    runs += _line(view.metric, metric_text(view.metric, record.value), "bold", against)
    return runs


def _limits(view: StudyView, record: TrialRecord) -> list[Run]:
    row = view.row
    saved = f"of {bytes_text(record.fp32_bytes)} in fp32, {percent(record.saving)} saved"
    runs = _line("memory", f"{bytes_text(record.bytes)} ({record.bytes:,} B)", "bold", saved)
    limits = {
        "metric": f"limit {metric_text(view.metric, row.bound)}",
        "memory": f"budget {bytes_text(row.budget)}",
    }
    for key, slack in record.slack.items():
        name = view.metric if key == "metric" else key
        runs += _line(
            f"{name} room", room_text(record, key), "infeasible" if slack > 0 else "", limits.get(key, "")
        )
    return runs


def _cost(view: StudyView, record: TrialRecord) -> list[Run]:
    base, dash = view.row.baseline, glyphs().dash
    of = f"of {base.n}" if base else ""
    unit = "sentences" if view.metric == "accuracy" else "tokens"
    runs = _line("data used", f"{record.used} {of} {unit}")
    runs += _line("mean loss", dash if record.loss is None else f"{significant(record.loss, 5)} nats")
    began, ended = ((text or dash)[:19].replace("T", " ") for text in (record.started, record.finished))
    took = dash if record.seconds is None else f"{number_text(record.seconds)} s"
    runs += _line("model run", took, "", f"began {began}, ended {ended}")
    watts = "n/a" if record.power_w is None else f"{number_text(record.power_w)} W"
    joules = "energy n/a" if record.energy_j is None else f"{number_text(record.energy_j)} J"
    runs += _line(
        "power", watts, "", joules + ("" if record.power_w is not None else " (no meter read this run)")
    )
    runs += _line("firing rate", number_text(record.firing_rate))
    return runs


def _setting(view: StudyView, record: TrialRecord) -> list[Run]:
    try:
        setting = view.setting(record)
        bar = bits_bar(view.row.hierarchy, setting)
    except QslmError as error:
        return _line("setting", str(error), "failed")
    runs = [
        *_line("setting", record.digest, "", f"{setting.quantizer}, the rest {setting.fixed}"),
        *_line("bits", bar, "bar"),
    ]
    width = max(len(unit) for unit in setting.units)
    for unit, fmt in sorted(setting.units.items(), key=lambda item: _order(item[0], view)):
        runs += [(f"  {unit:<{width}}  ", "dim" if "/" in unit else ""), (str(fmt), ""), ("\n", "")]
    return runs


def _order(unit: str, view: StudyView) -> int:
    units = view.row.hierarchy.units()
    return units.index(unit) if unit in units else len(units)
