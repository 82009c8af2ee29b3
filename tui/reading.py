"""How a study's model was read: family or mapping file, T, tokenizer, keys. No Textual."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING

from qslm_opt.safe import printable
from tui.text import clip

if TYPE_CHECKING:
    from qslm_opt.store import StudyRow

_PATHS = ("model", "family", "tokenizer")


def reading_of(row: StudyRow) -> dict[str, str]:
    """Return label → words, in the order to show them; what was not given is left out."""
    found = dict(row.reading)
    given, family = found.pop("family", ""), row.hierarchy.family
    steps = {} if row.timesteps is None else {"T": f"{row.timesteps}"}
    said = {
        "model": row.spec.model,
        "family": family if given in ("", family) else f"{given}, {family}",
        **steps,
        **found,
    }
    return {label: printable(words) for label, words in said.items()}


def reading_line(row: StudyRow, width: int) -> str:
    """Return it all in one line of ``width`` cells: of paths only the names where whole ones are too long."""
    found = reading_of(row)
    whole = _joined(found)
    if len(whole) > width:
        whole = _joined({k: PurePath(v).name if k in _PATHS else v for k, v in found.items()})
    return clip(whole, width)


def reading_notes(row: StudyRow) -> tuple[str, ...]:
    """Return a line for each, for the help."""
    return tuple(f"{label:<10}{words}" for label, words in reading_of(row).items())


def _joined(found: dict[str, str]) -> str:
    return "  ".join(f"{label} {words}" for label, words in found.items())
