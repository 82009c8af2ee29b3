"""One trial in full, as lines of text. No Textual."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qslm_opt.errors import QslmError
from qslm_opt.lineage import STEPPED
from tui.bitmap import bits_bar
from tui.compare import bytes_change, change_words, changes_between
from tui.glyphs import glyphs, plain
from tui.lineage import parent
from tui.notices import pruned_why
from tui.text import (
    bytes_text,
    metric_change,
    metric_text,
    number_text,
    percent,
    room_text,
    significant,
    state_role,
    state_sign,
    state_word,
)  # fmt: skip
from tui.windows import measured_lines

if TYPE_CHECKING:
    from qslm_opt.results import TrialRecord
    from tui.model import StudyView

Run = tuple[str, str]
_BAR = 20


def trial_runs(view: StudyView, record: TrialRecord) -> list[Run]:
    """Return all that is known of a trial: outcome and reason, limits, parent, cost, then its setting."""
    return [
        *_outcome(view, record), *_limits(view, record), *_parent(view, record), *_cost(view, record),
        *_setting(view, record),
    ]  # fmt: skip


def line(label: str, value: str, role: str = "", more: str = "") -> list[Run]:
    """Return one line: a label, what it is, and what goes with it."""
    return [
        (f"{plain(label):<17}", "dim"),
        (plain(value), role),
        (plain(more and "  " + more), "dim"),
        ("\n", ""),
    ]


def _outcome(view: StudyView, record: TrialRecord) -> list[Run]:
    best = view.best(view.row.spec.lam)
    note = "best at the study's own λ" if best is not None and best.number == record.number else ""
    base = view.row.baseline
    word = f"{state_sign(record)} {state_word(record)}"
    runs = line("outcome", word, state_role(record), note or pruned_why(record, view.metric))
    runs += line("reason", reason_text(view, record))
    runs += line("tried", f"{record.tier}: {record.unit} at {record.bits} bits", "bold")
    against = f"baseline {metric_text(view.metric, base.value)}" if base else ""
    runs += line(view.metric, metric_text(view.metric, record.value), "bold", against)
    return runs


def reason_text(view: StudyView, record: TrialRecord) -> str:
    """Return in a sentence why the trial came out as it did."""
    past = " and ".join(_past(view, key, slack) for key, slack in record.slack.items() if slack > 0)
    if record.state == "running":
        return "it runs"
    if record.state == "failed":
        return record.reason or "the evaluation failed; the search goes on without it"
    if record.extra:
        return "measured ahead by a worker and not needed: no part of the result"
    if record.feasible:
        return "measured to the end and within both limits"
    if record.cheap:
        return f"measured over {record.share_text} to learn what the step costs; it is not judged"
    if record.tier == "sensitivity":
        return "measured to learn how much this block minds; it is not judged"
    if record.state == "pruned":
        how = "stopped as soon as it was certain" if record.used else "not run: memory alone decides it"
        return f"{past or 'past a limit'}; {how}"
    return past or "not measured to its end"


def _past(view: StudyView, key: str, slack: float) -> str:
    share = significant(100 * slack, 2) if slack < 10 else ">1000"
    return f"{view.metric if key == 'metric' else key} {share} % past its limit"


def _limits(view: StudyView, record: TrialRecord) -> list[Run]:
    row = view.row
    saved = f"of {bytes_text(record.fp32_bytes)} in fp32, {percent(record.saving)} saved"
    runs = line("memory", f"{bytes_text(record.bytes)} ({record.bytes:,} B)", "bold", saved)
    limits = {
        "metric": f"limit {metric_text(view.metric, row.bound)}",
        "memory": f"budget {bytes_text(row.budget)}",
    }
    for key, slack in record.slack.items():
        name = view.metric if key == "metric" else key
        role = "infeasible" if slack > 0 else ""
        known = room_text(record, key) != glyphs().dash
        runs += line(f"{name} room", f"{room_text(record, key):>7}", role, limits.get(key, ""))[:-1]
        runs += [(f"  used {limit_bar(slack)}" if known else "", role or "bar"), ("\n", "")]
    return runs


def limit_bar(slack: float, width: int = _BAR) -> str:
    """Return how much of a limit is used: a full bar is the limit, ``!`` goes on past it."""
    signs = glyphs()
    if slack > 0:
        return signs.full * width + "!" * max(1, min(5, round(width * slack)))
    used = min(width, max(0, round(width * (1 + slack))))
    return signs.full * used + signs.rest * (width - used)


def _parent(view: StudyView, record: TrialRecord) -> list[Run]:
    """Return the trial that this one was made from and what that changed."""
    if record.tier not in STEPPED:
        return line("made from", "the unquantized model", "", f"{record.unit} set to {record.bits} bits")
    origin = parent(view, record)
    if origin is None:
        return line("made from", "a trial that is not here", "dim")
    score = metric_change(view.metric, origin.value, record.value)
    what = f"{origin.tier}, {metric_text(view.metric, origin.value)}, {bytes_text(origin.bytes)}"
    runs = line("made from", f"#{origin.number}", "bold", what)
    runs += line("what changed", change_words(changes_between(view, origin, record)), "bold")
    return runs + line(
        "what it did", f"{view.metric} {score}, memory {bytes_change(origin.bytes, record.bytes)}"
    )


def _cost(view: StudyView, record: TrialRecord) -> list[Run]:
    base, dash = view.row.baseline, glyphs().dash
    of = f"of {base.n}" if base else ""
    unit = "sentences" if view.metric == "accuracy" else "tokens"
    runs = line("data used", f"{record.used} {of} {unit}")
    runs += line("mean loss", dash if record.loss is None else f"{significant(record.loss, 5)} nats")
    began, ended = ((text or dash)[:19].replace("T", " ") for text in (record.started, record.finished))
    took = dash if record.seconds is None else f"{number_text(record.seconds)} s"
    runs += line("model run", took, "", f"began {began}, ended {ended}")
    watts = "n/a" if record.power_w is None else f"{number_text(record.power_w)} W"
    joules = "energy n/a" if record.energy_j is None else f"{number_text(record.energy_j)} J"
    runs += line(
        "power", watts, "", joules + ("" if record.power_w is not None else " (no meter read this run)")
    )
    runs += _window(view, record)
    return runs + _firing(view, record)


def _firing(view: StudyView, record: TrialRecord) -> list[Run]:
    """Return the trial's spikes per neuron and step, beside the unquantized model's."""
    before = view.row.baseline.firing_rate if view.row.baseline else None
    known = "" if before is None else f", {significant(before)} unquantized"
    return line(
        "firing rate", number_text(record.firing_rate), "", f"spikes per neuron and step{known}"
    )


def _window(view: StudyView, record: TrialRecord) -> list[Run]:
    """Return the trial's power window where one was kept and read."""
    window = None if view.power is None else view.power.windows.get(record.uuid)
    if window is None:
        return []
    runs: list[Run] = []
    for i, words in enumerate(measured_lines(view, window)):
        label = f"{'' if i else 'energy window':<17}"
        runs += [(label, "dim"), *((plain(part), role) for part, role in words), ("\n", "")]
    return runs


def _setting(view: StudyView, record: TrialRecord) -> list[Run]:
    try:
        setting = view.setting(record)
        bar = bits_bar(view.row.hierarchy, setting)
    except QslmError as error:
        return line("setting", str(error), "failed")
    runs = [
        *line("setting", record.digest, "", f"{setting.quantizer}, the rest {setting.fixed}"),
        *line("bits", bar, "bar"),
    ]
    width = max(len(unit) for unit in setting.units)
    for unit, fmt in sorted(setting.units.items(), key=lambda item: _order(item[0], view)):
        runs += [(f"  {unit:<{width}}  ", "dim" if "/" in unit else ""), (str(fmt), ""), ("\n", "")]
    return runs


def _order(unit: str, view: StudyView) -> int:
    units = view.row.hierarchy.units()
    return units.index(unit) if unit in units else len(units)
