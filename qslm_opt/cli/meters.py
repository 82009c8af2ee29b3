"""The meter of a session's device."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qslm_opt.measure.meter import Meter
    from qslm_opt.pipeline import Session

REST_KEY = "QSLM_OPT_AT_REST"
"""Names the study to a worker that has a device of its own, which is at rest until the worker begins."""


def told_at_rest(study: str) -> bool:
    """Return whether this process was started on a device on which no other worker of the study computes."""
    return os.environ.get(REST_KEY) == study


@contextmanager
def meter_of(session: Session, *, idle: bool) -> Iterator[Meter]:
    """Open the power meter of the session's device; with ``idle``, measure the device at rest first."""
    from qslm_opt.measure.meter import open_meter

    device, uuid = session.engine.device, None
    if device.type == "cuda":
        import torch

        uuid = str(torch.cuda.get_device_properties(device).uuid)
    meter = open_meter(str(device), uuid=uuid, synchronize=session.engine.synchronise)
    try:
        if idle:
            meter.measure_idle()
        yield meter
    finally:
        meter.close()
