"""Where a setting comes from and what changed: parents, differences and their effects. Pure.

The block and module tiers lower one unit of an incumbent, so a trial's parent is the trial with the same
formats everywhere but in that unit, where it has the next higher bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING

from qslm_opt.errors import QslmError
from qslm_opt.hierarchy.tree import NETWORK
from qslm_opt.setting import QuantSetting

if TYPE_CHECKING:
    from qslm_opt.formats import Format
    from qslm_opt.hierarchy.tree import Hierarchy
    from qslm_opt.results import TrialRecord

Formats = Mapping[str, "Format"]
STEPPED = ("block", "module", "refinement")
"""Tiers whose trials change one unit of a trial before them; a swap of the refinement names the network."""
_LOOK_BACK = 40
"""A parent is the incumbent of its time: among so many trials that met the bound before its child."""


@dataclass(frozen=True)
class Change:
    """One unit (a module, or what stands for all of its modules) that two settings treat differently."""

    unit: str
    before: str
    after: str


def formats_of(hierarchy: Hierarchy, setting: QuantSetting) -> dict[str, Format]:
    """Return searched module → its format."""
    return {m.unit: setting.format_of(m.unit) for m in hierarchy.modules() if m.searched}


@lru_cache(maxsize=1 << 12)
def read_setting(text: str) -> QuantSetting | None:
    """Return the setting of its JSON text, None when that is damaged."""
    try:
        return QuantSetting.from_json(text)
    except QslmError:
        return None


def trial_formats(hierarchy: Hierarchy, record: TrialRecord) -> Formats:
    """Return the trial's formats by searched module; empty when its text is damaged."""
    return _expanded(record.setting, _searched(hierarchy))


def _searched(hierarchy: Hierarchy) -> tuple[str, ...]:
    return tuple(m.unit for m in hierarchy.modules() if m.searched)


@lru_cache(maxsize=512)
def _expanded(text: str, modules: tuple[str, ...]) -> Formats:
    setting = read_setting(text)
    return {} if setting is None else {module: setting.format_of(module) for module in modules}


def changes(hierarchy: Hierarchy, before: Formats, after: Formats) -> list[Change]:
    """Return what differs, in the order of the model; whole blocks, or the network, under one name."""
    whole: list[Change] = []
    parts: list[Change] = []
    for block in hierarchy.blocks:
        units = [m.unit for m in block.modules if m.searched and m.unit in before and m.unit in after]
        pairs = {(str(before[u]), str(after[u])) for u in units}
        if len(pairs) == 1:
            pair = pairs.pop()
            whole.append(Change(block.unit, *pair))
            parts += [whole[-1]] if pair[0] != pair[1] else []
        elif pairs:
            whole.append(Change("", "", ""))
            parts += [Change(u, str(before[u]), str(after[u])) for u in units if before[u] != after[u]]
    alike = {(c.before, c.after) for c in whole}
    if len(whole) > 1 and len(alike) == 1 and parts:
        return [Change(NETWORK, *alike.pop())]
    return parts


def parent(
    hierarchy: Hierarchy, ended: Sequence[TrialRecord], record: TrialRecord
) -> TrialRecord | None:
    """Return the trial that ``record`` lowered one unit of; None for the first two tiers, or when gone.

    ``ended`` are the study's ended trials by number.
    """
    if record.tier not in STEPPED:
        return None
    searched = _searched(hierarchy)
    mine = _expanded(record.setting, searched)
    earlier = (t for t in reversed(ended) if t.number < record.number and _may_be_parent(t, record))
    later = (t for t in ended if t.number > record.number and _may_be_parent(t, record))
    for other in (*islice(earlier, _LOOK_BACK), *islice(later, _LOOK_BACK)):
        if _differs_only_in(mine, _expanded(other.setting, searched), record.unit, record.bits):
            return other
    return None


def ancestors(
    hierarchy: Hierarchy, ended: Sequence[TrialRecord], record: TrialRecord
) -> list[TrialRecord]:
    """Return the trials from the first that is known to ``record`` itself, each made from the one before."""
    line = [record]
    while (before := parent(hierarchy, ended, line[-1])) is not None:
        line.append(before)  # each has more bytes than its child, so this ends
    return line[::-1]


def _may_be_parent(other: TrialRecord, record: TrialRecord) -> bool:
    """The incumbent met the metric's bound, needs more bytes, and others may build on its tier."""
    met = other.value is not None and other.slack.get("metric", 1.0) <= 0
    return met and other.bytes > record.bytes and other.tier not in ("sensitivity", "tuned")


def _differs_only_in(mine: Formats, others: Formats, unit: str, bits: float) -> bool:
    if not mine or mine.keys() != others.keys():
        return False
    inside = [m for m in mine if unit in (m, m.partition("/")[0])]
    if any(others[m] != fmt for m, fmt in mine.items() if m not in inside):
        return False
    return any(others[m].bits > bits for m in inside)


def effect(record: TrialRecord, of: TrialRecord | None) -> tuple[float | None, int] | None:
    """Return (change of the metric, change of the bytes) of a trial against its parent."""
    if of is None:
        return None
    if record.value is None or of.value is None:
        return None, record.bytes - of.bytes
    return record.value - of.value, record.bytes - of.bytes
