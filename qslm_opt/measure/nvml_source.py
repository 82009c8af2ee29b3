"""What one NVIDIA GPU says of its power, energy, memory, clocks and heat.

NVML takes 13 to 18 ms a call on a busy GPU. So power and the energy counter, which one call gives, are asked
for in every reading, and of the rest one thing in turn. What the GPU or its driver does not support is None.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qslm_opt.measure.reading import Clock, Reading
from qslm_opt.results import THROTTLES, PowerDevice, PowerSample

_REASON_BITS = (0x2, 0x4, 0x8, 0x10, 0x20, 0x40, 0x80, 0x100)
"""NVML's bits of what limits the clocks, in the order of ``THROTTLES``. That the GPU is idle is no limit."""
_WORDS = {
    "memory_bytes": "memory in use", "utilization": "utilization", "sm_clock_mhz": "SM clock",
    "memory_clock_mhz": "memory clock", "temperature_c": "temperature", "throttle": "throttle reasons",
}  # fmt: skip
_MIG = "MIG splits the board: its watts are the whole board's, other instances included"


class NoPowerError(Exception):
    """This GPU has no power reading; the message says why."""


class NvmlSource:
    """Reads one GPU. ``handle`` may be that of a MIG instance: its memory is read, and its board's power."""

    name, quick = "nvml", False

    def __init__(self, nvml: Any, handle: Any, device: str) -> None:
        """Take an initialised ``pynvml`` over; raise NoPowerError when the board has no power reading."""
        self._nvml, self._part, self._device = nvml, handle, device
        self._handle, self.shared = self._board_of(handle)
        self.board = _text(self._optional(nvml.nvmlDeviceGetUUID, self._handle)) or f"nvml:{self._handle}"
        self._fields = self._supported_fields()
        self._counts = "energy" in self._fields or self._counter_mj() is not None
        self.domain = "instant"
        if "instant" not in self._fields:
            self.domain = self._plain_domain()
            self._plain_w()
        self._asked: dict[str, Callable[[], Any]] = {
            "memory_bytes": self._memory_used,
            "utilization": lambda: nvml.nvmlDeviceGetUtilizationRates(self._handle).gpu / 100,
            "sm_clock_mhz": lambda: nvml.nvmlDeviceGetClockInfo(self._handle, nvml.NVML_CLOCK_SM),
            "memory_clock_mhz": lambda: nvml.nvmlDeviceGetClockInfo(self._handle, nvml.NVML_CLOCK_MEM),
            "temperature_c": lambda: float(
                nvml.nvmlDeviceGetTemperature(self._handle, nvml.NVML_TEMPERATURE_GPU)
            ),
            "throttle": self._throttle,
        }
        self._rest: dict[str, Any] = {}
        for name in tuple(self._asked):
            self._ask(name)
        self._turn = 0

    @property
    def counts_energy(self) -> bool:
        """Whether the GPU has an energy counter."""
        return self._counts

    def describe(self) -> PowerDevice:
        """Return the GPU's name, place, power limit and memory."""
        nvml, handle = self._nvml, self._handle
        limit = self._optional(nvml.nvmlDeviceGetEnforcedPowerLimit, handle)
        memory = self._optional(nvml.nvmlDeviceGetMemoryInfo, self._part)
        name = _text(self._optional(nvml.nvmlDeviceGetName, handle)) or "NVIDIA GPU"
        return PowerDevice(
            "", "", "", 0, self._device, index=self._optional(nvml.nvmlDeviceGetIndex, handle),
            name=f"{name} (MIG: watts of the whole board)" if self.shared else name,
            limit_w=limit / 1000 if limit else None, memory_bytes=int(memory.total) if memory else None,
        )  # fmt: skip

    def read(self, clock: Clock) -> Reading:
        """Return power, counter, and what is known of the rest, one thing of it asked anew."""
        watts, joules = self._power_and_energy()
        at = clock()
        names = tuple(self._asked)
        if names:
            self._turn += 1
            self._ask(names[self._turn % len(names)])
        return Reading(PowerSample(at, watts, **self._rest), joules)

    def missing(self) -> list[str]:
        """Return what this GPU does not tell, in words."""
        gone = [word for name, word in _WORDS.items() if name not in self._asked]
        return gone if self._counts else [*gone, "energy counter"]

    def close(self) -> None:
        """Shut NVML down."""
        self._nvml.nvmlShutdown()

    # ------------------------------------------------------------------------------------ private

    def _board_of(self, handle: Any) -> tuple[Any, str]:
        """Return the handle of the whole board, and a remark when others may share it."""
        nvml = self._nvml
        if self._optional(nvml.nvmlDeviceIsMigDeviceHandle, handle):
            return nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle), _MIG
        mode = self._optional(nvml.nvmlDeviceGetMigMode, handle)
        return handle, _MIG if mode and mode[0] == nvml.NVML_DEVICE_MIG_ENABLE else ""

    def _supported_fields(self) -> dict[str, int]:
        """Return those of the two fields that this GPU answers: its power now, and its energy."""
        nvml = self._nvml
        known = {
            "instant": getattr(nvml, "NVML_FI_DEV_POWER_INSTANT", None),  # None: an older nvidia-ml-py
            "energy": getattr(nvml, "NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION", None),
        }
        asked = {name: field for name, field in known.items() if field is not None}
        answers = self._field_values(asked) if asked else {}
        return {name: asked[name] for name, value in answers.items() if value}

    def _field_values(self, fields: dict[str, int]) -> dict[str, int | None]:
        nvml = self._nvml
        values = self._optional(lambda handle: nvml.nvmlDeviceGetFieldValues(handle, [*fields.values()]),
                                self._handle)  # fmt: skip
        if values is None:
            return {}
        return {name: _number(nvml, value) for name, value in zip(fields, values, strict=True)}

    def _power_and_energy(self) -> tuple[float | None, float | None]:
        found = self._field_values(self._fields) if self._fields else {}
        milliwatts, millijoules = found.get("instant"), found.get("energy")
        if self._counts and "energy" not in self._fields:
            millijoules = self._counter_mj()
        watts: float | None = milliwatts / 1000 if milliwatts else self._plain_w()
        if "instant" in self._fields and not milliwatts:
            watts = None  # the GPU is there, but a mean over a second is no sample among instant ones
        return watts, None if millijoules is None else millijoules / 1000

    def _plain_w(self) -> float:
        try:
            return float(self._nvml.nvmlDeviceGetPowerUsage(self._handle)) / 1000
        except self._nvml.NVMLError as error:
            raise NoPowerError(str(error)) from None

    def _plain_domain(self) -> str:
        """Return what the plain reading is: instant up to Turing, from Ampere the mean of the last second."""
        nvml = self._nvml
        kind = self._optional(nvml.nvmlDeviceGetArchitecture, self._handle)
        return "instant" if kind is not None and kind < nvml.NVML_DEVICE_ARCH_AMPERE else "average"

    def _counter_mj(self) -> int | None:
        found = self._optional(self._nvml.nvmlDeviceGetTotalEnergyConsumption, self._handle)
        return None if found is None else int(found)

    def _memory_used(self) -> int:
        return int(self._nvml.nvmlDeviceGetMemoryInfo(self._part).used)

    def _throttle(self) -> tuple[str, ...]:
        nvml = self._nvml
        newer = getattr(nvml, "nvmlDeviceGetCurrentClocksEventReasons", None)
        bits = (newer or nvml.nvmlDeviceGetCurrentClocksThrottleReasons)(self._handle)
        return tuple(name for name, bit in zip(THROTTLES, _REASON_BITS, strict=True) if bits & bit)

    def _ask(self, name: str) -> None:
        """Ask for one thing of the rest; what is not supported is never asked for again."""
        nvml = self._nvml
        try:
            self._rest[name] = self._asked[name]()
        except nvml.NVMLError as error:
            self._rest.pop(name, None)
            unsupported = nvml.NVML_ERROR_NOT_SUPPORTED, nvml.NVML_ERROR_FUNCTION_NOT_FOUND
            if error.value in unsupported:
                del self._asked[name]

    def _optional(self, query: Callable[[Any], Any], handle: Any) -> Any:
        """Return what ``query`` says of ``handle``, or None where this GPU or driver cannot say it."""
        try:
            return query(handle)
        except self._nvml.NVMLError:
            return None


def _number(nvml: Any, value: Any) -> int | None:
    """Return a field's value; None where the GPU has none, or says 0, which no running GPU draws."""
    if value.nvmlReturn != nvml.NVML_SUCCESS:
        return None
    wide = value.valueType in (nvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG, nvml.NVML_VALUE_TYPE_UNSIGNED_LONG)
    found = value.value.ullVal if wide else value.value.uiVal
    return int(found) or None


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else value or ""
