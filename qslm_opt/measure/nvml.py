"""Power, energy and memory of an NVIDIA GPU through NVML. The only importer of ``pynvml``.

Power is the driver's instantaneous reading where it has one: the plain reading of recent GPUs is an
average over the last second. The energy counter moves about ten times a second, so it is used for
windows of two seconds and more; shorter ones take the integral of the samples.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from threading import Lock
from time import perf_counter, sleep
from typing import Any

from qslm_opt.measure.meter import DEFAULT_RATE_HZ, Meter, NullMeter, Window
from qslm_opt.measure.sampling import Sample, SamplingWindow, summarize
from qslm_opt.results import PowerWindow

COUNTER_MIN_SECONDS = 2.0
"""Shortest window whose energy comes from the counter (its steps of 0.1 s are then at most 5 %)."""


_TOO_SHORT = "the run ended before NVML had answered twice; measure a longer one"
_ANSWER_SECONDS = 5.0


class NvmlUnavailableError(Exception):
    """Why NVML cannot measure this device, then ``; `` and the fix."""


class NvmlMeter:
    """Measures one GPU; made by ``open_nvml``."""

    source = "nvml"

    def __init__(
        self,
        nvml: Any,
        handle: Any,
        *,
        synchronize: Callable[[], None] | None = None,
        rate_hz: float = DEFAULT_RATE_HZ,
    ) -> None:
        """Take an initialised ``pynvml`` and a device handle; raise NvmlUnavailableError without power."""
        self._nvml, self._handle = nvml, handle
        self._synchronize, self._rate_hz = synchronize, rate_hz
        self._idle_w: float | None = None
        self._closed, self._asking = False, Lock()
        self.reason: str | None = None
        self._instant = self._instant_power() is not None
        self._counts = self._optional(nvml.nvmlDeviceGetTotalEnergyConsumption) is not None
        try:
            self._power_w()
        except nvml.NVMLError as error:
            raise NvmlUnavailableError(
                f"NVML reads no power of this GPU: {error}; use a GPU with a power sensor"
            ) from None

    @property
    def counts_energy(self) -> bool:
        """Whether the GPU has an energy counter."""
        return self._counts

    def window(self) -> Window:
        """Return a window that samples power in a thread."""
        if self._closed:
            return NullMeter().window()
        counter = _Counter(self._energy_j)
        memory: list[int | None] = []
        window = SamplingWindow(
            lambda: self._sample(memory),
            lambda samples: self._finish(samples, (window.began, window.ended), counter, memory),
            rate_hz=self._rate_hz,
            failed=self._failed,
            synchronize=self._synchronize,
            ends=False,  # NVML may take longer to answer than a short trial to run
            counter=counter.read if self._counts else None,
            counter_seconds=COUNTER_MIN_SECONDS,
        )
        return window

    def measure_idle(self, seconds: float = 1.0) -> float | None:
        """Return the mean watts of the GPU at rest, kept as ``idle_w`` of later windows."""
        with self.window() as window:
            sleep(seconds)
        rest = window.result()
        self._idle_w = rest.mean_w if rest else None
        return self._idle_w

    def memory_bytes(self) -> int | None:
        """Return the device memory in use by everybody, in bytes; None where NVML does not tell."""
        info = self._optional(self._nvml.nvmlDeviceGetMemoryInfo)
        return None if info is None else int(info.used)

    def close(self) -> None:
        """Release NVML, once it has answered what it was asked."""
        if not self._closed:
            self._closed, self.reason = True, "the meter was closed"
            answered = self._asking.acquire(timeout=_ANSWER_SECONDS)
            self._nvml.nvmlShutdown()
            if answered:
                self._asking.release()

    def _sample(self, memory: list[int | None]) -> float | None:
        """Return the watts, and put the memory in use beside them; None while NVML still owes an answer.

        The thread of an earlier window may be waiting for it, and a driver that is late does not get
        earlier by being asked again.
        """
        if not self._asking.acquire(blocking=False):
            return None
        try:
            watts = self._power_w()
            memory.append(self.memory_bytes())
            return watts
        finally:
            self._asking.release()

    def _finish(
        self,
        samples: Sequence[Sample],
        span: tuple[float, float],
        counter: _Counter,
        memory: Sequence[int | None],
    ) -> PowerWindow | None:
        self.reason = None if len(samples) > 1 else _TOO_SHORT
        return summarize(
            samples,
            source=self.source,
            span=span,
            energy_j=counter.energy_j(samples, span[0]),
            idle_w=self._idle_w,
            memory_bytes=memory[-1] if memory else None,
        )

    def _failed(self, error: Exception) -> None:
        self.reason = f"NVML stopped answering: {error}"

    def _power_w(self) -> float:
        watts = self._instant_power() if self._instant else None
        return watts if watts is not None else self._nvml.nvmlDeviceGetPowerUsage(self._handle) / 1000

    def _instant_power(self) -> float | None:
        nvml = self._nvml
        field = getattr(nvml, "NVML_FI_DEV_POWER_INSTANT", None)  # None: an older nvidia-ml-py
        fields = field and self._optional(lambda handle: nvml.nvmlDeviceGetFieldValues(handle, [field]))
        if not fields or fields[0].nvmlReturn != nvml.NVML_SUCCESS:
            return None
        milliwatts = int(fields[0].value.uiVal)
        return milliwatts / 1000 if milliwatts else None

    def _energy_j(self) -> float | None:
        if not self._counts:
            return None
        millijoules = self._optional(self._nvml.nvmlDeviceGetTotalEnergyConsumption)
        return None if millijoules is None else millijoules / 1000

    def _optional(self, query: Callable[[Any], Any]) -> Any:
        """Return what ``query`` says of the device, or None where this GPU or driver cannot say it."""
        try:
            return query(self._handle)
        except self._nvml.NVMLError:
            return None


class _Counter:
    """The energy counter early in a window and at its end."""

    def __init__(self, read_j: Callable[[], float | None]) -> None:
        self._read_j = read_j
        self._readings: list[tuple[float, float | None]] = []

    def read(self) -> None:
        """Note the time and the counter."""
        self._readings.append((perf_counter(), self._read_j()))

    def energy_j(self, samples: Sequence[Sample], began: float) -> float | None:
        """Return the joules since ``began``: the counter's, and before its first reading the samples' mean.

        None without two readings, or when the counter did not move.
        """
        if len(self._readings) < 2:
            return None
        (first_at, first), (_, last) = self._readings[0], self._readings[-1]
        before = [watts for at, watts in samples if at <= first_at]
        if first is None or last is None or last <= first or not before:
            return None
        return last - first + sum(before) / len(before) * (first_at - began)


def open_nvml(
    index: int,
    *,
    uuid: str | None = None,
    synchronize: Callable[[], None] | None = None,
    rate_hz: float = DEFAULT_RATE_HZ,
) -> Meter:
    """Return the meter of CUDA device ``index``, or a NullMeter with the reason why there is none."""
    try:
        nvml = load_nvml()
        try:
            handle = find_device(nvml, index, uuid)
            _refuse_mig(nvml, handle)
            return NvmlMeter(nvml, handle, synchronize=synchronize, rate_hz=rate_hz)
        except BaseException:
            nvml.nvmlShutdown()
            raise
    except NvmlUnavailableError as error:
        return NullMeter(str(error))


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
    known = uuid.startswith(("GPU-", "MIG-"))
    return nvml.nvmlDeviceGetHandleByUUID(uuid if known else f"GPU-{uuid}")


def _refuse_unordered(nvml: Any) -> None:
    """Raise when CUDA may count the GPUs otherwise than NVML: unlike GPUs, fastest first."""
    if os.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID":
        return
    handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
    if len({nvml.nvmlDeviceGetName(handle) for handle in handles}) > 1:
        raise NvmlUnavailableError(
            "the GPUs differ: CUDA counts them fastest first, NVML by slot; set CUDA_DEVICE_ORDER=PCI_BUS_ID"
        )


def _refuse_mig(nvml: Any, handle: Any) -> None:
    try:
        current, _ = nvml.nvmlDeviceGetMigMode(handle)
    except nvml.NVMLError:
        return
    if current == nvml.NVML_DEVICE_MIG_ENABLE:
        raise NvmlUnavailableError(
            "the GPU is split by MIG, and NVML has power only for the whole board; use one that is not split"
        )
