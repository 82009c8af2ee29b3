"""How sure a metric is, and what it is on data that the search never saw, in words. No Textual."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qslm_opt import stats
from tui.glyphs import plain
from tui.text import metric_text, significant

if TYPE_CHECKING:
    from qslm_opt.results import TrialRecord
    from tui.model import StudyView


def interval_text(view: StudyView, record: TrialRecord) -> str:
    """Return `` [79.9–84.9]``, the 95 % interval of a trial's accuracy; empty where there is none."""
    base = view.row.baseline
    if view.metric != "accuracy" or record.value is None or base is None:
        return ""
    low, high = stats.share_interval(record.value, base.n)
    return plain(f" [{100 * low:.1f}–{100 * high:.1f}]")


def held_line(view: StudyView, record: TrialRecord) -> str:
    """Return a candidate's result on held-back data: value, interval, change, p value; empty without one."""
    found = view.row.held_back.get(record.digest)
    if found is None:
        return ""
    if found.value is None:
        return found.reason
    text = metric_text(view.metric, found.value)
    if found.low is not None and found.high is not None:
        if view.metric == "accuracy":
            text += f" [{100 * found.low:.1f}–{100 * found.high:.1f}]"
        else:
            text += f" [{significant(found.low, 4)}–{significant(found.high, 4)}]"
    if found.change is not None:
        text += f"  {100 * found.change:+.2f} {'pp' if view.metric == 'accuracy' else '%'}"
    if found.p is not None:
        text += f"  p {found.p:.2g}"
    return plain(text + ("  in bound" if found.within else "  past bound"))
