"""The section ``packed`` of ``qslm-opt bench`` as tables for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qslm_opt.cli.output import console, digits, print_line, print_table, size, table

_NONE = "n/a"
_TITLES = {
    "generation": "generation, batch 1, token by token",
    "evaluation": "evaluation of whole windows, batch {batch}, loss included",
}


def print_packed(found: Mapping[str, Any]) -> None:
    """Print one table a load, or why there is none; energy above float32's is marked."""
    if "note" in found:
        print_line(f"packed weights: {_NONE}: {found['note']}")
        return
    for load, title in _TITLES.items():
        rows = [row for row in found["rows"] if row["load"] == load]
        shown = table(
            "weights", "held", "ms/token", "spread", "tokens/s", "× fp32", "W", "σ", "mJ/token", "σ",
            "energy × fp32", left=1, title=title.format(batch=rows[0]["batch"]),
        )  # fmt: skip
        for row in rows:
            shown.add_row(*_cells(row))
        print_table(console(), shown)
    idle = next((row["idle_w"] for row in found["rows"] if row["idle_w"] is not None), None)
    if found["meter"] == "null":
        print_line(f"power {_NONE}: {found['reason']}")
    else:
        print_line(f"power by {found['meter']}, rest {_number(idle)} W, not subtracted")


def _cells(row: Mapping[str, Any]) -> list[str]:
    spread = f"{digits(row['ms_low'], 3)}–{digits(row['ms_high'], 3)}"
    ratio = row["energy_ratio"]
    energy = _NONE if ratio is None else f"{ratio:.2f}" + (" (more)" if ratio > 1 else "")
    return [
        row["arm"], size(row["weight_bytes"]), digits(row["ms_per_token"], 3), spread,
        digits(row["tokens_per_s"], 4), f"{row['speedup']:.2f}",
        _number(row["mean_w"]), _number(row["std_w"], 2),
        _number(row["token_j"], 4, 1e3), _number(row["token_j_std"], 2, 1e3), energy,
    ]  # fmt: skip


def _number(value: float | None, places: int = 4, scale: float = 1.0) -> str:
    return _NONE if value is None else digits(scale * value, places)
