"""The three memories of a model that runs: its file, its weights as they are held, and the most there was."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from qslm_opt.cli.output import size

if TYPE_CHECKING:
    from qslm_opt.measure.footprint import Watch
    from qslm_opt.pipeline import Session


def memory_of(session: Session, watch: Watch) -> dict[str, Any]:
    """Return the memories of an evaluation in bytes; null where a packed file or held codes are not there."""
    packed, device = session.model.packed, session.engine.device
    if device.type == "cuda":
        import torch

        peak, source = torch.cuda.max_memory_allocated(device), "torch.cuda.max_memory_allocated"
    else:
        found = watch.peak()
        peak, source = found.bytes, found.source
    return {
        "file_bytes": None if packed is None else packed.file_bytes,
        "payload_bytes": None if packed is None else packed.payload_bytes,
        "weight_bytes": session.engine.weight_bytes, "peak_bytes": peak, "peak_source": source,
    }  # fmt: skip


def memory_line(memory: Mapping[str, Any]) -> str:
    """Return the memories as one line for people."""
    return (
        f"file {size(memory['file_bytes'])}, weights held {size(memory['weight_bytes'])}, peak "
        f"{size(memory['peak_bytes'])} ({memory['peak_source']})"
    )
