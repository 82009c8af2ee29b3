"""Why a candidate is as it is: what keeps a block at its bits, what a larger λ would choose. No Textual."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qslm_opt.errors import QslmError
from tui.bitmap import block_bits
from tui.glyphs import glyphs
from tui.reasons import block_notes
from tui.text import bytes_text, lam_text, metric_text, significant

if TYPE_CHECKING:
    from qslm_opt.results import TrialRecord
    from tui.model import StudyView


def widest_block(view: StudyView, record: TrialRecord) -> tuple[str, float] | None:
    """Return (block, mean bits) of the block that keeps the most bits; None when all keep as many."""
    try:
        blocks = [(b.unit, bits) for b, bits in block_bits(view.row.hierarchy, view.setting(record))]
    except QslmError:
        return None
    if len({bits for _, bits in blocks}) < 2:
        return None
    return max(blocks, key=lambda part: part[1])


def why_line(view: StudyView, record: TrialRecord, lam: float, short: bool = False) -> str:
    """Return ``attention.3 keeps 8 bits. 6 bits: ppl 2.3 % past (#31)``, empty with nothing to say.

    With ``short`` the bits that it keeps are left to the map: ``attention.3 6 bits: ppl 2.3 % past (#31)``.
    """
    block = widest_block(view, record)
    if block is None:
        return ""
    unit, bits = block
    width = f"{int(bits)} bits" if bits == int(bits) else f"{significant(bits, 2)} bits on average"
    note = block_notes(view, record, view.setting(record), lam)[unit]
    return f"{unit} {note}" if short else f"{unit} keeps {width}. {note}"


def next_choice(view: StudyView, lam: float) -> str:
    """Return what wins once λ is larger: ``λ from 42: #46 35.1 in 10.2 MB``."""
    if not view.winners:
        return ""
    later = [(low, trial) for low, high, trial in view.winners if low > lam and high > low]
    signs = glyphs()
    if not later:
        return f"a larger {signs.lam} chooses no other"
    low, trial = later[0]
    value = metric_text(view.metric, trial.value)
    return f"{signs.lam} from {lam_text(low)}: #{trial.number} {value} in {bytes_text(trial.bytes)}"
