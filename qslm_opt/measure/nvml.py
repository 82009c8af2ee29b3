"""Finding an NVIDIA GPU through NVML, and the meter that reads it. The only importer of ``pynvml``."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from qslm_opt.measure.meter import DEFAULT_RATE_HZ, Meter, NullMeter
from qslm_opt.measure.nvml_source import NoPowerError, NvmlSource
from qslm_opt.measure.sampled import SampledMeter


class NvmlUnavailableError(Exception):
    """Why NVML cannot measure this device, then ``; `` and the fix."""


def open_nvml(
    index: int,
    *,
    uuid: str | None = None,
    synchronize: Callable[[], None] | None = None,
    rate_hz: float = DEFAULT_RATE_HZ,
) -> Meter:
    """Return the meter of CUDA device ``index``, or a NullMeter with the reason why there is none."""
    try:
        source = open_source(index, uuid)
    except NvmlUnavailableError as error:
        return NullMeter(str(error), f"cuda:{index}")
    return SampledMeter(source, rate_hz=rate_hz, synchronize=synchronize)


def open_source(index: int, uuid: str | None = None) -> NvmlSource:
    """Return what reads CUDA device ``index``; raise NvmlUnavailableError with the fix."""
    nvml = load_nvml()
    try:
        return NvmlSource(nvml, find_device(nvml, index, uuid), f"cuda:{index}")
    except BaseException as error:
        nvml.nvmlShutdown()
        if isinstance(error, NoPowerError):
            raise NvmlUnavailableError(
                f"NVML reads no power of this GPU: {error}; use a GPU with a power sensor"
            ) from None
        raise


def count_devices() -> int:
    """Return how many GPUs of this machine CUDA may see; raise NvmlUnavailableError with the fix."""
    nvml = load_nvml()
    try:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        if visible is None:
            return int(nvml.nvmlDeviceGetCount())
        return len(visible.split(",")) if visible.strip() else 0
    finally:
        nvml.nvmlShutdown()


def load_nvml() -> Any:
    """Return ``pynvml``, initialised (the caller shuts it down); raise NvmlUnavailableError with the fix."""
    try:
        import pynvml
    except ImportError:
        raise NvmlUnavailableError("nvidia-ml-py is not installed; pip install nvidia-ml-py") from None
    if not hasattr(pynvml, "nvmlInit") or hasattr(pynvml, "__path__"):
        raise NvmlUnavailableError(
            "another package named pynvml hides NVIDIA's; "
            "pip uninstall pynvml, then pip install --force-reinstall nvidia-ml-py"
        )
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise NvmlUnavailableError(f"NVML does not start: {error}; install the NVIDIA driver") from None
    return pynvml


def find_device(nvml: Any, index: int, uuid: str | None = None) -> Any:
    """Return the NVML handle of CUDA device ``index`` under CUDA_VISIBLE_DEVICES, or of ``uuid``."""
    try:
        if uuid is not None:
            return _by_uuid(nvml, uuid)
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = [str(i) for i in range(nvml.nvmlDeviceGetCount())] if visible is None else visible.split(",")
        if index >= len(names) or not names[index].strip():
            raise NvmlUnavailableError(
                f"CUDA device {index} is not among the visible ones: {names}; see CUDA_VISIBLE_DEVICES"
            )
        name = names[index].strip()
        if not name.isdecimal():
            return _by_uuid(nvml, name)
        _refuse_unordered(nvml)
        return nvml.nvmlDeviceGetHandleByIndex(int(name))
    except nvml.NVMLError as error:
        raise NvmlUnavailableError(
            f"NVML does not know CUDA device {uuid or index}: {error}; see CUDA_VISIBLE_DEVICES"
        ) from None


def _by_uuid(nvml: Any, uuid: str) -> Any:
    if uuid.startswith(("GPU-", "MIG-")):
        return nvml.nvmlDeviceGetHandleByUUID(uuid)
    try:
        return nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
    except nvml.NVMLError:  # CUDA names a MIG instance by its own number
        return nvml.nvmlDeviceGetHandleByUUID(f"MIG-{uuid}")


def _refuse_unordered(nvml: Any) -> None:
    """Raise when CUDA may count the GPUs otherwise than NVML: unlike GPUs, fastest first."""
    if os.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID":
        return
    handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
    if len({nvml.nvmlDeviceGetName(handle) for handle in handles}) > 1:
        raise NvmlUnavailableError(
            "the GPUs differ: CUDA counts them fastest first, NVML by slot; set CUDA_DEVICE_ORDER=PCI_BUS_ID"
        )
