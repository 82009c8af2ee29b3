"""Parents and steps of a trial in a view of its study. No Textual."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qslm_opt import lineage
from qslm_opt.lineage import STEPPED

if TYPE_CHECKING:
    from qslm_opt.lineage import Formats
    from qslm_opt.results import TrialRecord
    from tui.model import StudyView


def trial_formats(view: StudyView, record: TrialRecord) -> Formats:
    """Return the trial's formats by searched module; empty when its text is damaged."""
    return lineage.trial_formats(view.row.hierarchy, record)


def parent(view: StudyView, record: TrialRecord) -> TrialRecord | None:
    """Return the trial that ``record`` lowered one unit of; None for the first two tiers, or when gone."""
    return lineage.parent(view.row.hierarchy, view.ended, record)


def steps_below(view: StudyView, unit: str) -> list[TrialRecord]:
    """Return the ended trials of the block and module tiers that changed a unit or its block, by number."""
    names = {unit, unit.partition("/")[0]}
    return sorted((t for name in names for t in view.by_unit.get(name, ()) if t.tier in STEPPED), key=_number)


def _number(record: TrialRecord) -> int:
    return record.number
