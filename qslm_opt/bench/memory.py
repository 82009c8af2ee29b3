"""How much memory a run needs at most, and what running out of it looks like."""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_STATM = Path("/proc/self/statm")
_EVERY_SECONDS = 0.002
_CPU_WORDS = ("not enough memory", "can't allocate memory", "cannot allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that a device's or the machine's memory is used up."""
    import torch

    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _CPU_WORDS)


def peak_growth(run: Callable[[], object], device: torch.device) -> int | None:
    """Run once and return by how many bytes memory grew at most meanwhile.

    CUDA: the tensors that torch's allocator held. CPU: the resident size of this process, sampled every
    2 ms; None where the system does not tell it (/proc/self/statm). Freed memory goes back first where the C
    library can do that; elsewhere it hides growth.
    """
    import torch

    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    before_cpu = _resident()
    if before_cpu is None:
        run()
        return None
    largest, ended = [before_cpu], Event()

    def sample() -> None:
        while not ended.wait(_EVERY_SECONDS):
            largest[0] = max(largest[0], _resident() or 0)

    thread = Thread(target=sample, daemon=True)
    thread.start()
    try:
        run()
    finally:
        ended.set()
        thread.join()
    return largest[0] - before_cpu


def _resident() -> int | None:
    """Resident bytes of this process."""
    try:
        pages = int(_STATM.read_text("ascii").split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")
