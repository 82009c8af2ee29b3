"""The section ``neurons`` of ``qslm-opt bench`` as a table for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qslm_opt.cli.output import console, digits, print_line, print_table, table


def print_neurons(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print one row a site and work."""
    shown = table(
        "neurons of", "work", "S × B × T × N", "plain torch ms", "ms", "spread", "× plain", "copy ms",
        left=1, text=("work",), title="multi-step neurons, float32",
    )  # fmt: skip
    for row in rows:
        shown.add_row(
            row["model"], row["work"], " × ".join(map(str, row["shape"])), digits(row["plain_ms"], 3),
            digits(row["ms"], 3), f"{digits(row['ms_low'], 3)}–{digits(row['ms_high'], 3)}",
            f"{row['ratio']:.1f}", digits(row["copy_ms"], 3),
        )  # fmt: skip
    print_table(console(), shown)
    print_line(
        "× plain: how many times as fast as a loop over the steps in plain torch; train: with the gradient; "
        "copy: of the currents, for what memory alone takes."
    )
