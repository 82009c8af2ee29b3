"""Why a block or module has its bits: the trial that tried fewer, and by how much it failed. No Textual."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qslm_opt.formats import FP32
from qslm_opt.hierarchy.tree import NETWORK, names_module
from qslm_opt.rank import score
from tui.bitmap import searched_modules
from tui.glyphs import glyphs
from tui.lineage import steps_below
from tui.model import sensitivity
from tui.text import lam_text, metric_text, significant

if TYPE_CHECKING:
    from qslm_opt.formats import Format
    from qslm_opt.results import TrialRecord
    from qslm_opt.setting import QuantSetting
    from tui.model import StudyView


@dataclass(frozen=True)
class Why:
    """The reason for the bits of one unit in one candidate."""

    bits: str
    """``8 bits``; ``4 to 8 bits`` for a block whose modules differ."""
    short: str
    """The reason in few words, for a line beside the map."""
    reason: str
    """The reason as a sentence."""
    origin: str
    """Which trial set the bits."""
    alone: str
    """What the sensitivity tier found; empty when it says nothing."""


def why(view: StudyView, record: TrialRecord, setting: QuantSetting, unit: str, lam: float) -> Why:
    """Return why ``unit`` (a block or a module) has its bits in ``record``."""
    formats = _formats(view, setting, unit)
    if not formats:
        return Why("", "", "", "", "")
    counts = sorted({fmt.bits for fmt in formats})
    words = f"{counts[0]} to {counts[-1]} bits" if len(counts) > 1 else bits_words(counts[0])
    bits = counts[-1]
    fixed = _fixed(view, unit, formats)
    if fixed:
        return Why(words, fixed, f"{_sentence(fixed)}.", "", "")
    lower = lower_trial(view, unit, bits)
    short, reason = _verdict(view, record, lower, bits, lam)
    origin = _origin(view, record, unit, bits)
    return Why(words, short, reason, origin, _alone(view, unit, lower.bits if lower else bits))


def _verdict(
    view: StudyView, record: TrialRecord, lower: TrialRecord | None, bits: float, lam: float
) -> tuple[str, str]:
    """Return the reason in few words, and as a sentence."""
    return _nothing_lower(view, bits) if lower is None else _against(view, record, lower, lam)


def bits_words(bits: float) -> str:
    """Return ``4 bits``, ``1 bit``."""
    return f"{bits} bit{'' if bits == 1 else 's'}"


def _formats(view: StudyView, setting: QuantSetting, unit: str) -> list[Format]:
    modules = (m for m in view.row.hierarchy.modules() if m.searched)
    return [setting.format_of(m.unit) for m in modules if unit in (m.unit, m.unit.partition("/")[0])]


def _fixed(view: StudyView, unit: str, formats: list[Format]) -> str:
    """Return why no search was made; empty when there was one."""
    pins = view.row.spec.pins
    if unit in pins or unit.partition("/")[0] in pins:
        return "pinned by the study"
    if view.row.spec.exclude and all(fmt == FP32 for fmt in formats):
        return "excluded by the study: float32"
    if all(fmt.kind == "sign" for fmt in formats):
        return "only its sign is read: 1 bit keeps it exactly"
    return ""


def lower_trial(view: StudyView, unit: str, bits: float) -> TrialRecord | None:
    """Return the trial of the next fewer bits: of ``unit`` or its tie, else its block, else the network."""
    names = (NETWORK, unit.partition("/")[0], *_tied(view, unit))
    tried = [
        (trial.bits, nearness, trial.number, trial)
        for nearness, name in enumerate(names)
        for trial in view.by_unit.get(name, ())
        if trial.bits < bits and not trial.extra
    ]
    return max(tried, key=lambda found: found[:3])[-1] if tried else None


def _tied(view: StudyView, unit: str) -> list[str]:
    """Return the modules that always have the bits of ``unit``, itself last: trials name a tie's first."""
    groups = [text.split(",") for text in view.row.spec.ties]
    mine = [group for group in groups if "/" in unit and any(names_module(part, unit) for part in group)]
    modules = [m.unit for m in view.row.hierarchy.modules() if m.searched and m.unit != unit]
    return [name for name in modules if any(names_module(part, name) for g in mine for part in g)] + [unit]


def _against(view: StudyView, record: TrialRecord, lower: TrialRecord, lam: float) -> tuple[str, str]:
    """Return (short, sentence) of what fewer bits came to."""
    what = f"{lower.bits} bits" if lower.unit != NETWORK else f"{lower.bits} bits everywhere"
    metric, number = view.metric, f"#{lower.number}"
    word = "acc" if metric == "accuracy" else "ppl"
    past = lower.slack.get("metric", 0.0)
    if lower.state == "failed":
        because = f" with {lower.reason!r}" if lower.reason else ""
        return f"{what}: failed ({number})", f"{what} could not be measured: {number} failed{because}."
    if past > 0:
        least = glyphs().at_least if lower.value is None else ""
        by = f"{least}{_share(past)}"
        value = f"gave {metric_text(metric, lower.value)}, " if lower.value is not None else "was stopped, "
        return (
            f"{what}: {word} {by} past ({number})",
            f"{what} {value}{by} past the {metric} limit ({number}).",
        )
    if lower.value is None:
        over = _share(max(0.0, lower.slack.get("memory", 0.0)))
        return f"{what}: memory {over} over ({number})", f"{what} was not run: memory {over} over ({number})."
    return _held(view, record, lower, what, lam)


def _held(view: StudyView, record: TrialRecord, lower: TrialRecord, what: str, lam: float) -> tuple[str, str]:
    """Fewer bits met the limit: the candidate keeps more because it ranks higher, or is an earlier one."""
    number, value = f"#{lower.number}", metric_text(view.metric, lower.value)
    if not lower.feasible or not record.feasible:
        return f"{what} met the limit ({number})", f"{what} met the limit too: {value} ({number})."
    mine, other = (
        score(view.metric, t.value or 0.0, t.bytes / (t.fp32_bytes or 1), lam) for t in (record, lower)
    )
    ahead = mine > other if view.metric == "accuracy" else mine < other
    at = f"{glyphs().lam} {lam_text(lam)}"
    verdict = "ranks lower" if ahead else "ranks higher"
    return (
        f"{what}: fits, {verdict} ({number})",
        f"{what} fits too: {value} ({number}), but {verdict} at {at}: "
        f"{significant(other, 5)} against {significant(mine, 5)}."
        if ahead
        else f"{what} fits too and {verdict} at {at}: {number}, {value}.",
    )


def _nothing_lower(view: StudyView, bits: float) -> tuple[str, str]:
    lowest = min(view.row.spec.precisions)
    if bits <= lowest:
        return "the lowest precision", f"{bits} bits is the lowest precision of this study."
    if view.row.state in ("finished", "infeasible"):
        return "nothing lower was tried", "The search ended before it tried fewer bits here."
    return "not lowered yet", "The search has not tried fewer bits here yet."


def _origin(view: StudyView, record: TrialRecord, unit: str, bits: float) -> str:
    """Return which trial gave the unit its bits."""
    for name in (unit, unit.partition("/")[0], NETWORK):
        made = [
            t for t in view.by_unit.get(name, ()) if t.bits == bits and t.number <= record.number
            and t.slack.get("metric", 1.0) <= 0
        ]  # fmt: skip
        if made:
            what = "the whole network" if name == NETWORK else name
            return f"#{made[-1].number} set it: {what} at {bits} bits, {made[-1].tier} tier."
    return ""


def _alone(view: StudyView, unit: str, bits: float) -> str:
    """Return how the block minds losing bits, among the others."""
    block, found = unit.partition("/")[0], sensitivity(view)
    level = min({b for name, b in found if name == block}, key=lambda b: (abs(b - bits), b), default=None)
    if level is None:
        return ""
    rises = sorted((rise for (_, b), rise in found.items() if b == level), reverse=True)
    rise = found[block, level]
    place = f"{_ordinal(rises.index(rise) + 1)} most sensitive of {len(rises)}"
    sign = "+" if rise >= 0 else glyphs().minus
    return f"Alone at {level} bits: loss {sign}{significant(abs(rise), 2)} nats, {place}."


def _ordinal(number: int) -> str:
    if number == 1:
        return "the"
    ends = {1: "st", 2: "nd", 3: "rd"}
    return f"{number}{'th' if 10 <= number % 100 <= 20 else ends.get(number % 10, 'th')}"


def _share(part: float) -> str:
    return f"{significant(100 * part, 2)} %" if part < 10 else ">1000 %"


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:]


def block_notes(view: StudyView, record: TrialRecord, setting: QuantSetting, lam: float) -> dict[str, str]:
    """Return block → the short reason for its bits."""
    notes = {}
    for block in view.row.hierarchy.blocks:
        formats = [setting.format_of(module.unit) for module in searched_modules(block)]
        if formats:
            bits = max(fmt.bits for fmt in formats)
            fixed = _fixed(view, block.unit, formats)
            lower = lower_trial(view, block.unit, bits)
            notes[block.unit] = fixed or _verdict(view, record, lower, bits, lam)[0]
    return notes


def neighbours(view: StudyView, unit: str) -> list[TrialRecord]:
    """Return the trials that changed the unit or its block, newest first."""
    return steps_below(view, unit)[::-1]
