"""What is said of a search that a deadline stopped: what is proven, what is open, and how to go on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qslm_opt.cli.options import command
from qslm_opt.cli.output import metric_value, narrate, size
from qslm_opt.errors import InfeasibleError

if TYPE_CHECKING:
    from qslm_opt.cli.facts import StudyFacts


def say_unfinished(facts: StudyFacts, url: str) -> None:
    """Narrate it; InfeasibleError (exit code 4) when nothing that was tried so far meets both constraints."""
    go_on = f"go on with: {command('study', 'resume', facts.row.name, url=url)}"
    at = f"the deadline came and the search is unfinished, {where_it_is(facts)}"
    best = facts.best
    if best is None:
        raise InfeasibleError(f"{at}; nothing that was tried meets both constraints yet; {go_on}.")
    t = best.record
    narrate(
        f"{at}; proven is that trial {t.number} meets both constraints ({facts.metric} "
        f"{metric_value(facts.metric, t.value)}, {size(t.bytes)}), not that nothing better does; {go_on}"
    )


def where_it_is(facts: StudyFacts) -> str:
    """Return ``in the block tier at 4 of at most 20``."""
    at = next((p for p in facts.row.progress if p["total"] is None or p["done"] < p["total"]), None)
    if at is None or facts.row.baseline is None:
        return "before its first trial"
    return f"in the {at['tier']} tier at {at['done']} of at most {at['total']}"
