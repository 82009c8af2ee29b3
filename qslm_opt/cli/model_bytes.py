"""What ``model info --bits`` adds: the bytes of a model at uniform bits, from its shapes alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from qslm_opt.cli.model_session import setting_of, spec_of
from qslm_opt.cli.output import size, table
from qslm_opt.evaluate.memory import live_bytes

if TYPE_CHECKING:
    from rich.table import Table

    from qslm_opt.formats import Bits
    from qslm_opt.hierarchy.tree import Hierarchy

_TASKS = {"classification": "sst2", "lm": "wikitext2"}
"""A task of each kind; bytes depend on the kind alone."""


def uniform_bytes(
    model: str, hierarchy: Hierarchy, kind: str, bits: Sequence[Bits], layout: str | None
) -> Iterator[dict[str, Any]]:
    """Yield the live bytes of each uniform setting, what is not searched included, as a study counts them.

    Raises:
        SettingError: bits that the layout has not.
    """
    spec = spec_of(model, _TASKS[kind], quantizer=None, layout=layout)
    whole = hierarchy.fp32_bytes()
    for level in bits:
        found = setting_of(spec, hierarchy, level, "searched")
        count = live_bytes(hierarchy, found)
        yield {
            "bits": level, "format": str(found.units["network"]), "bytes": count, "saving": 1 - count / whole,
        }  # fmt: skip


def bytes_table(rows: Sequence[dict[str, Any]], fp32_bytes: int) -> Table:
    """Return the bytes at uniform bits as a table, float32 first."""
    found = table("bits", "format", "bytes", "", "saved", text=("format",))
    found.add_row("32", "fp32", f"{fp32_bytes:,}", size(fp32_bytes), "")
    for row in rows:
        saved = f"{100 * row['saving']:.1f} %"
        found.add_row(str(row["bits"]), row["format"], f"{row['bytes']:,}", size(row["bytes"]), saved)
    return found
