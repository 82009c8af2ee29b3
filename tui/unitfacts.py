"""What is known of one unit of a candidate: its format, why it has it, and what its trials came to."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from qslm_opt.errors import QslmError
from qslm_opt.evaluate.memory import unit_bytes
from qslm_opt.lineage import effect, read_setting
from tui.compare import bytes_change
from tui.glyphs import glyphs, plain
from tui.lineage import parent
from tui.reasons import neighbours, why
from tui.text import bytes_text, metric_change, metric_text, percent, state_role, state_sign

if TYPE_CHECKING:
    from qslm_opt.hierarchy.tree import Hierarchy, Module
    from qslm_opt.results import TrialRecord
    from qslm_opt.setting import QuantSetting
    from tui.model import StudyView

Run = tuple[str, str]
_TRIED_SHOWN = 6


def cell_lines(
    view: StudyView, record: TrialRecord | None, unit: str, lam: float
) -> tuple[str, list[list[Run]]]:
    """Return (title, lines) about ``unit`` in ``record``: format and bytes, the reasons, what was tried."""
    setting = None if record is None else read_setting(record.setting)
    if record is None or setting is None:
        return unit, [_full(view, unit), *tried_lines(view, unit)]
    block = unit.partition("/")[0]
    found = why(view, record, setting, unit, lam)
    title = f"Why {unit} has {found.bits}" if found.bits else unit
    lines: list[list[Run]] = [[(plain(found.reason), "bold")]] if found.reason else []
    if block != unit:
        whole = why(view, record, setting, block, lam)
        if whole.reason != found.reason:
            lines.append([(plain(f"{block}: {whole.reason}"), "")])
    if found.origin or found.alone:
        lines.append([(plain(" ".join(filter(None, (found.origin, found.alone)))), "dim")])
    lines.append(_facts(view, record, setting, unit))
    return title, lines + (tried_lines(view, unit) if found.origin or neighbours(view, unit) else [])


def _modules(view: StudyView, unit: str) -> list[Module]:
    return [m for m in view.row.hierarchy.modules() if unit in (m.unit, m.unit.partition("/")[0])]


def _full_bytes(modules: list[Module]) -> int:
    return sum(4 * t.numel for m in modules for t in m.tensors if t.counted)


def _full(view: StudyView, unit: str) -> list[Run]:
    return [(f"{bytes_text(_full_bytes(_modules(view, unit)))} in fp32", "")]


def _facts(view: StudyView, record: TrialRecord, setting: QuantSetting, unit: str) -> list[Run]:
    modules = _modules(view, unit)
    full = _full_bytes(modules)
    try:
        sizes = _sizes(view.row.hierarchy, record.setting)
    except QslmError as error:
        return [(str(error), "failed")]
    packed = sum(sizes[m.unit] for m in modules)
    saved = f"{glyphs().minus}{percent(1 - packed / full)}" if full else ""
    formats = dict.fromkeys(str(setting.format_of(m.unit)) for m in modules if m.searched)
    return [
        (", ".join(formats), "bold"),
        (f"  {bytes_text(packed)} of {bytes_text(full)} {saved}", ""),
        (f"  in #{record.number}", "dim"),
    ]


@lru_cache(maxsize=8)
def _sizes(hierarchy: Hierarchy, setting: str) -> dict[str, int]:
    from qslm_opt.setting import QuantSetting

    return unit_bytes(hierarchy, QuantSetting.from_json(setting))


def tried_lines(view: StudyView, unit: str) -> list[list[Run]]:
    """Return a line for each trial of this unit and of its block, newest first, with what it changed."""
    found = neighbours(view, unit)
    if not found:
        return [[("not tried by itself yet", "dim")]]
    lines = [_tried(view, trial, unit) for trial in found[:_TRIED_SHOWN]]
    if len(found) > _TRIED_SHOWN:
        lines.append([(f"and {len(found) - _TRIED_SHOWN} more", "dim")])
    return lines


def _tried(view: StudyView, trial: TrialRecord, unit: str) -> list[Run]:
    origin = parent(view, trial)
    what = "" if trial.unit == unit else "block at "
    moved = effect(trial, origin)
    words = ""
    if origin is not None and moved is not None:
        metric = metric_change(view.metric, origin.value, trial.value)
        words = f"{metric} {view.metric}, {bytes_change(origin.bytes, trial.bytes)} against #{origin.number}"
    return [
        (f"tried {what}{trial.bits:>2} bits  ", "dim"),
        (f"{state_sign(trial)} {metric_text(view.metric, trial.value):>8}", state_role(trial)),
        (f"  {words}  ", ""),
        (f"(#{trial.number}, {trial.tier})", "dim"),
    ]
