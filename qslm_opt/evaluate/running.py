"""A model on its device, ready to read tokens one by one, with the memory that this takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from qslm_opt.errors import UsageError
from qslm_opt.evaluate.device import pick_device
from qslm_opt.evaluate.generate import CompiledStepper
from qslm_opt.kernels.ops import pick_precision
from qslm_opt.measure.footprint import Watch
from qslm_opt.models.resident import StoredModel, open_stored

if TYPE_CHECKING:
    from qslm_opt.evaluate.generate import Stepper
    from qslm_opt.evaluate.generate_cuda import StepPrecision
    from qslm_opt.measure.meter import Meter


@dataclass(frozen=True)
class Running:
    """A model that was laid out on a device."""

    stored: StoredModel
    """Without its tensors: what runs holds them."""
    stepper: Stepper
    device: torch.device
    watch: Watch

    def memory(self) -> dict[str, Any]:
        """Return file, held weights and peak in bytes, and how the peak was found."""
        if self.device.type == "cuda":
            peak, source = torch.cuda.max_memory_allocated(self.device), "torch.cuda.max_memory_allocated"
        else:
            found = self.watch.peak()
            peak, source = found.bytes, found.source
        return {
            "file_bytes": self.stored.file_bytes, "payload_bytes": self.stored.payload_bytes,
            "weight_bytes": self.stepper.held_bytes, "peak_bytes": peak, "peak_source": source,
        }  # fmt: skip

    def open_meter(self) -> Meter:
        """Open the power meter of the device."""
        from qslm_opt.measure.meter import open_meter

        cuda = self.device.type == "cuda"
        uuid = str(torch.cuda.get_device_properties(self.device).uuid) if cuda else None
        return open_meter(str(self.device), uuid=uuid, synchronize=self.stepper.synchronise)


def open_running(
    source: str,
    device: str,
    matmul: str,
    embed_spike: str,
    rescale_every: int,
    narrate: Callable[[str], None],
) -> Running:
    """Read a model, lay it out, and read one token so that everything is compiled.

    Raises:
        UsageError, ModelError, DeviceError: with the value and the fix.
    """
    place = pick_device(device)
    precision = _precision(place, matmul)
    narrate(f"loading model {source}")
    watch = Watch()
    if place.type == "cuda":
        torch.cuda.reset_peak_memory_stats(place)
    stored = open_stored(source, embed_spike=embed_spike, rescale_every=rescale_every)
    stepper = make_stepper(stored, place, precision)
    empty = StoredModel(
        stored.config, {}, stored.tokenizer, source, stored.packed, stored.file_bytes, stored.payload_bytes
    )
    narrate("compiling the step of a token, unless that was done before (up to two minutes)")
    stepper.feed(0)
    stepper.synchronise()
    return Running(empty, stepper, place, watch)


def make_stepper(stored: StoredModel, device: torch.device, precision: StepPrecision = "fp32") -> Stepper:
    """Return the model on ``device``; ``precision`` is of the products of a float model on a GPU."""
    if device.type == "cpu":
        return CompiledStepper(stored)
    from qslm_opt.evaluate.generate_cuda import GraphStepper

    return GraphStepper(stored, device, precision)


def _precision(device: torch.device, matmul: str) -> StepPrecision:
    """Return the precision that ``--matmul`` means for single tokens: auto is fp32."""
    if matmul == "auto":
        return "fp32"
    if matmul in ("fp16", "split"):
        raise UsageError(f"--matmul {matmul} is for whole windows; generate with auto, fp32 or tf32.")
    return "tf32" if pick_precision(device.type, matmul) == "tf32" else "fp32"
