"""What ``model info`` adds for a packed model: its bytes, whole and by block."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from qslm_opt.cli.model_pack import packed_json, packed_line
from qslm_opt.cli.output import digits, table

if TYPE_CHECKING:
    from rich.table import Table

    from qslm_opt.models.packed import PackedModel


def packed_value(packed: PackedModel) -> dict[str, Any]:
    """Return the JSON value of a packed model, with its payload by block."""
    return {**packed_json(packed), "blocks": list(block_rows(packed))}


def packed_headlines(packed: PackedModel) -> Iterator[str]:
    """Yield lines about the file."""
    yield f"packed: {packed_line(packed)}"
    header = packed.header
    study, task = header.get("study"), header.get("task")
    origin = f", from trial {study['trial']} of study {study['name']}" if isinstance(study, dict) else ""
    yield (
        f"for {f'task {task}' if task else packed.kind}{origin}, quantizer {packed.setting.quantizer}, "
        f"made by {header.get('code')}, original weights {str(header.get('weights'))[:16]}"
    )


def block_rows(packed: PackedModel) -> Iterator[dict[str, Any]]:
    """Yield each block with its payload bytes, bits per weight and formats."""
    from qslm_opt.evaluate.memory import unit_bytes

    by_module, formats = unit_bytes(packed.hierarchy, packed.setting), packed.formats()
    for block in packed.hierarchy.blocks:
        counted = [t for t in block.tensors() if t.counted]
        count = sum(by_module[module.unit] for module in block.modules)
        params = sum(t.numel for t in counted)
        yield {
            "unit": block.unit,
            "bytes": count,
            "share": count / packed.payload_bytes,
            "bits_per_weight": 8 * count / params if params else None,
            "formats": list(dict.fromkeys(str(formats[t.name]) for t in counted)),
        }


def packed_table(packed: PackedModel) -> Table:
    """Return the payload by block as a table."""
    found = table("block", "bytes", "share", "bits/weight", "formats", text=("block", "formats"))
    for row in block_rows(packed):
        bits = "–" if row["bits_per_weight"] is None else digits(row["bits_per_weight"])
        cells = (f"{row['bytes']:,}", f"{100 * row['share']:.2f} %", bits, ", ".join(row["formats"]))
        found.add_row(row["unit"], *cells)
    found.add_section()
    found.add_row("payload", f"{packed.payload_bytes:,}", "100.00 %", "", "", style="bold")
    found.add_row("file", f"{packed.file_bytes:,}", "", "", "", style="bold")
    return found
