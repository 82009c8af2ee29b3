"""Torch devices: picking one by name, what it is called, and how much memory it has."""

from __future__ import annotations

import torch

from qslm_opt.errors import DeviceError, UsageError


def pick_device(name: str) -> torch.device:
    """Return the torch device of ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    UsageError for another name, DeviceError for a device that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"device {name!r} is unknown; use auto, cpu, cuda or cuda:N.") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DeviceError(
            f"device {name!r} is not there: torch sees {torch.cuda.device_count()} CUDA devices; "
            "use --device cpu, or install a CUDA build of torch and its driver."
        )
    return device


def device_name(device: torch.device) -> str:
    """Return ``cpu``, or a GPU's place and model such as ``cuda:0 NVIDIA H200``."""
    if device.type == "cuda":
        return f"{device} {torch.cuda.get_device_name(device)}"
    return "cpu"


def gpu_bytes(device: torch.device) -> tuple[int, int]:
    """Return free and all bytes of a GPU; a CPU's memory is not asked for, and counts as without bound."""
    return torch.cuda.mem_get_info(device) if device.type == "cuda" else (2**62, 2**62)
