"""NVML against an autospec'd pynvml: no GPU needed, no call that the real package would refuse."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import pynvml
import pytest

from qslm_opt.measure.meter import open_meter
from qslm_opt.measure.nvml import NvmlUnavailableError, count_devices, find_device, open_source
from qslm_opt.measure.nvml_source import NvmlSource
from qslm_opt.measure.sampled import SampledMeter
from qslm_opt.results import PowerSample
from tests.measure.fakes import Bench

UNSUPPORTED = pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
LOST = pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)


FUNCTIONS = (
    "nvmlInit", "nvmlShutdown", "nvmlDeviceGetCount", "nvmlDeviceGetName", "nvmlDeviceGetHandleByIndex",
    "nvmlDeviceGetHandleByUUID", "nvmlDeviceGetMigMode", "nvmlDeviceGetPowerUsage",
    "nvmlDeviceGetFieldValues", "nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetMemoryInfo",
    "nvmlDeviceGetUUID", "nvmlDeviceGetIndex", "nvmlDeviceGetEnforcedPowerLimit", "nvmlDeviceGetArchitecture",
    "nvmlDeviceGetUtilizationRates", "nvmlDeviceGetClockInfo", "nvmlDeviceGetTemperature",
    "nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons",
    "nvmlDeviceIsMigDeviceHandle", "nvmlDeviceGetDeviceHandleFromMigDeviceHandle",
)  # fmt: skip
REST = {
    "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=97, memory=40), "nvmlDeviceGetTemperature": 61,
    "nvmlDeviceGetCurrentClocksEventReasons": 0x1 | 0x4 | 0x20,
    "nvmlDeviceGetMemoryInfo": SimpleNamespace(used=5 * 2**30, total=141 * 2**30),
}  # fmt: skip
"""What the fake answers, by function; an exception is raised."""


class Machine:
    """Knobs of the machine that the fake NVML shows."""

    def __init__(self, fake: Any) -> None:
        self.nvml = fake
        self.names = ["NVIDIA H200"]
        self.instant_mw: int | None = 300_000
        self.energy_mj: int | None = 7_000_000
        self.average_mw: int | Exception = 250_000
        self.counter_mj: int | Exception = 7_000_000
        self.mig: list[int] | Exception = [0, 0]
        self.rest: dict[str, Any] = dict(REST)
        self.answers: dict[str, Any] = {
            "nvmlDeviceGetCount": lambda: len(self.names),
            "nvmlDeviceGetName": lambda handle: self.names[handle],
            "nvmlDeviceGetHandleByIndex": self._by_index,
            "nvmlDeviceGetHandleByUUID": lambda uuid: uuid,
            "nvmlDeviceGetMigMode": lambda handle: self._value(self.mig),
            "nvmlDeviceGetPowerUsage": lambda handle: self._value(self.average_mw),
            "nvmlDeviceGetTotalEnergyConsumption": lambda handle: self._value(self.counter_mj),
            "nvmlDeviceGetFieldValues": self._fields,
            "nvmlDeviceGetUUID": lambda handle: f"GPU-{handle}",
            "nvmlDeviceGetIndex": lambda handle: handle,
            "nvmlDeviceGetEnforcedPowerLimit": lambda handle: 700_000,
            "nvmlDeviceGetArchitecture": lambda handle: 9,
            "nvmlDeviceGetClockInfo": lambda handle, kind: 1980 if kind == pynvml.NVML_CLOCK_SM else 3201,
            "nvmlDeviceIsMigDeviceHandle": lambda handle: handle == "MIG-abc",
            "nvmlDeviceGetDeviceHandleFromMigDeviceHandle": lambda handle: 0,
            **{name: self._rest(name) for name in REST},
        }
        for name, answer in self.answers.items():
            getattr(fake, name).side_effect = answer

    @staticmethod
    def _value(value: Any) -> Any:
        if isinstance(value, Exception):
            raise value
        return value

    def _rest(self, name: str) -> Any:
        return lambda *_: self._value(self.rest[name])

    def _by_index(self, index: int) -> int:
        if not 0 <= index < len(self.names):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        return index

    def _fields(self, handle: object, ids: list[int]) -> list[SimpleNamespace]:
        known = {
            pynvml.NVML_FI_DEV_POWER_INSTANT: (self.instant_mw, pynvml.NVML_VALUE_TYPE_UNSIGNED_INT, "uiVal"),
            pynvml.NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION: (
                self.energy_mj, pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG, "ullVal"
            ),
        }  # fmt: skip
        return [self._field(*known[field]) for field in ids]

    @staticmethod
    def _field(value: int | None, kind: int, member: str) -> SimpleNamespace:
        if value is None:
            return SimpleNamespace(nvmlReturn=pynvml.NVML_ERROR_NOT_SUPPORTED, valueType=0, value=None)
        held = SimpleNamespace(**{member: value})
        return SimpleNamespace(nvmlReturn=pynvml.NVML_SUCCESS, valueType=kind, value=held)

    def source(self) -> NvmlSource:
        """The source of the first GPU."""
        return NvmlSource(self.nvml, 0, "cuda:0")

    def sample(self) -> PowerSample:
        """One sample of the first GPU."""
        return self.source().read(lambda: 5.0).sample


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    # Calls must fit the real signatures; constants and errors are the real ones; nothing else is there.
    fake = ModuleType("pynvml")
    vars(fake).update({name: value for name, value in vars(pynvml).items() if name.startswith("NVML")})
    vars(fake).update({name: mock.create_autospec(getattr(pynvml, name)) for name in FUNCTIONS})
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    monkeypatch.delenv("QSLM_OPT_METER", raising=False)
    return Machine(fake)


def balance(machine: Machine) -> int:
    """How many more times NVML was started than shut down."""
    return int(machine.nvml.nvmlInit.call_count - machine.nvml.nvmlShutdown.call_count)


# ------------------------------------------------------------------------------------------- reading


def test_a_reading_holds_all_that_the_gpu_tells(machine: Machine) -> None:
    reading = machine.source().read(lambda: 5.0)
    assert reading.counter_j == 7000.0
    assert reading.sample == PowerSample(
        5.0, 300.0, 5 * 2**30, 0.97, 1980, 3201, 61.0, ("power cap", "thermal")
    )
    machine.nvml.nvmlDeviceGetPowerUsage.assert_not_called()
    machine.nvml.nvmlDeviceGetTotalEnergyConsumption.assert_not_called()


def test_the_gpu_is_described(machine: Machine) -> None:
    device = machine.source().describe()
    assert (device.device, device.index, device.name) == ("cuda:0", 0, "NVIDIA H200")
    assert (device.limit_w, device.memory_bytes) == (700.0, 141 * 2**30)
    assert machine.source().board == "GPU-0"


def test_names_may_come_as_bytes(machine: Machine) -> None:
    machine.names = [b"Tesla V100"]  # type: ignore[list-item]
    assert machine.source().describe().name == "Tesla V100"


def test_a_reading_costs_two_calls_and_six_of_them_ask_for_all(machine: Machine) -> None:
    source = machine.source()
    slow = [name for name in FUNCTIONS if name in REST or name == "nvmlDeviceGetClockInfo"]

    def calls() -> int:
        return sum(getattr(machine.nvml, name).call_count for name in slow)

    before = calls()
    for number in range(1, 7):
        source.read(lambda: 0.0)
        assert calls() == before + number
    machine.rest["nvmlDeviceGetTemperature"] = 70
    assert [source.read(lambda: 0.0).sample.temperature_c for _ in range(6)][-1] == 70.0


def test_an_older_gpu_gives_the_averaged_reading_and_says_so(machine: Machine) -> None:
    machine.instant_mw = None
    assert machine.source().domain == "average"
    assert machine.sample().power_w == 250.0


def test_up_to_turing_the_plain_reading_is_instant(machine: Machine) -> None:
    machine.instant_mw = None
    machine.nvml.nvmlDeviceGetArchitecture.side_effect = lambda handle: pynvml.NVML_DEVICE_ARCH_TURING
    assert machine.source().domain == "instant"


def test_an_older_nvidia_ml_py_without_the_fields_gives_the_plain_readings(machine: Machine) -> None:
    del machine.nvml.NVML_FI_DEV_POWER_INSTANT
    del machine.nvml.NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION
    reading = machine.source().read(lambda: 0.0)
    assert (reading.sample.power_w, reading.counter_j) == (250.0, 7000.0)


def test_a_counter_without_a_field_is_asked_for_by_its_function(machine: Machine) -> None:
    machine.energy_mj = None
    source = machine.source()
    assert source.counts_energy
    machine.counter_mj = 9_000_000
    assert source.read(lambda: 0.0).counter_j == 9000.0


def test_an_instant_reading_that_fails_once_is_not_replaced_by_an_average(machine: Machine) -> None:
    source = machine.source()
    machine.instant_mw = None
    assert source.read(lambda: 0.0).sample.power_w is None
    machine.average_mw = LOST
    with pytest.raises(Exception, match=str(LOST)):
        source.read(lambda: 0.0)


@pytest.mark.parametrize(
    ("function", "field", "word"),
    [
        ("nvmlDeviceGetUtilizationRates", "utilization", "utilization"),
        ("nvmlDeviceGetTemperature", "temperature_c", "temperature"),
        ("nvmlDeviceGetMemoryInfo", "memory_bytes", "memory in use"),
    ],
)
def test_what_is_not_supported_is_none_is_not_asked_for_again_and_the_rest_goes_on(
    machine: Machine, function: str, field: str, word: str
) -> None:
    machine.rest[function] = UNSUPPORTED
    source = machine.source()
    assert source.missing() == [word]
    asked = getattr(machine.nvml, function).call_count
    samples = [source.read(lambda: 0.0).sample for _ in range(12)]
    assert {getattr(sample, field) for sample in samples} == {None}
    assert {(sample.power_w, sample.sm_clock_mhz) for sample in samples} == {(300.0, 1980)}
    assert getattr(machine.nvml, function).call_count == asked


def test_what_fails_for_another_reason_is_none_until_it_answers_again(machine: Machine) -> None:
    machine.rest["nvmlDeviceGetTemperature"] = pynvml.NVMLError(pynvml.NVML_ERROR_TIMEOUT)
    source = machine.source()
    assert source.read(lambda: 0.0).sample.temperature_c is None
    machine.rest["nvmlDeviceGetTemperature"] = 55
    assert [source.read(lambda: 0.0).sample.temperature_c for _ in range(6)][-1] == 55.0
    assert source.missing() == []


def test_throttle_reasons_of_an_older_package_and_of_none(machine: Machine) -> None:
    del machine.nvml.nvmlDeviceGetCurrentClocksEventReasons
    machine.nvml.nvmlDeviceGetCurrentClocksThrottleReasons.side_effect = lambda handle: 0x80
    assert machine.sample().throttle == ("power brake",)
    machine.nvml.nvmlDeviceGetCurrentClocksThrottleReasons.side_effect = UNSUPPORTED
    assert machine.sample().throttle == ()
    assert machine.source().missing() == ["throttle reasons"]


def test_the_meter_says_whether_the_gpu_counts_energy(machine: Machine) -> None:
    machine.energy_mj, machine.counter_mj = None, UNSUPPORTED
    source = machine.source()
    assert not source.counts_energy
    assert source.missing() == ["energy counter"]
    assert source.read(lambda: 0.0).counter_j is None


# ------------------------------------------------------------------------------------------- windows


def test_a_window_on_a_gpu(machine: Machine) -> None:
    bench = Bench(machine.source())
    with bench.meter.window() as window:
        for second in range(30):
            machine.energy_mj = 7_000_000 + 30_000 * (second + 1)
            bench.now += 0.1
            bench.meter.step()
    found = window.result()
    assert found is not None
    assert (found.source, found.mean_w, found.std_w) == ("nvml", pytest.approx(300.0), 0.0)
    assert found.counter_j == found.energy_j == pytest.approx(900.0)
    assert (found.limit_w, found.memory_bytes, found.temperature_c) == (700.0, 5 * 2**30, 61.0)
    assert (found.steady, found.steady_reason) == (False, "clocks were limited: power cap, thermal")


def test_a_gpu_lost_in_a_window_is_a_reason_until_it_is_back(machine: Machine) -> None:
    machine.instant_mw = None
    bench = Bench(machine.source())
    machine.average_mw = LOST
    bench.go(0.5)
    assert bench.meter.reason == f"NVML stopped answering: {LOST}"
    machine.average_mw = 100_000
    with bench.meter.window() as window:
        bench.go(0.5)
    assert window.result().mean_w == pytest.approx(100.0)  # type: ignore[union-attr]
    assert bench.meter.reason is None


def test_closing_shuts_nvml_down_once(machine: Machine) -> None:
    meter = open_meter("cuda")
    assert isinstance(meter, SampledMeter)
    assert (balance(machine), meter.board) == (1, "GPU-0")
    meter.close()
    meter.close()
    assert balance(machine) == 0


# ----------------------------------------------------------------------------------------------- MIG


def test_a_board_split_by_mig_gives_its_own_watts_and_says_whose_they_are(machine: Machine) -> None:
    machine.mig = [pynvml.NVML_DEVICE_MIG_ENABLE, pynvml.NVML_DEVICE_MIG_ENABLE]
    machine.rest["nvmlDeviceGetUtilizationRates"] = UNSUPPORTED
    source = machine.source()
    assert source.describe().name == "NVIDIA H200 (MIG: watts of the whole board)"
    bench = Bench(source)
    with bench.meter.window() as window:
        bench.go(2.0)
    found = window.result()
    assert found is not None
    assert found.mean_w == pytest.approx(300.0)
    assert found.steady is None
    assert "whole board" in found.steady_reason


def test_a_mig_instance_has_its_own_memory_and_its_boards_power(machine: Machine) -> None:
    source = NvmlSource(machine.nvml, "MIG-abc", "cuda:0")
    assert source.board == "GPU-0"
    assert "whole board" in source.shared
    assert source.read(lambda: 0.0).sample.power_w == 300.0
    machine.nvml.nvmlDeviceGetMemoryInfo.assert_called_with("MIG-abc")
    machine.nvml.nvmlDeviceGetFieldValues.assert_called_with(0, mock.ANY)


# ------------------------------------------------------------------------------------------- refusing


def refused(device: str = "cuda:0", **options: Any) -> str:
    meter = open_meter(device, **options)
    assert meter.source == "null"
    assert meter.describe().reason == meter.reason
    with meter.window() as window:
        pass
    assert window.result() is None
    return meter.reason or ""


def test_a_machine_without_the_driver_has_a_null_meter_with_the_reason(machine: Machine) -> None:
    machine.nvml.nvmlInit.side_effect = pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)
    assert "install the NVIDIA driver" in refused()
    machine.nvml.nvmlShutdown.assert_not_called()
    with pytest.raises(NvmlUnavailableError):
        count_devices()


def test_this_machines_real_nvml_answers_or_says_why() -> None:
    meter = open_meter("cuda:0")
    assert (meter.reason is None) == (meter.source == "nvml")
    meter.close()


def test_a_gpu_without_power_readings_is_refused_and_nvml_shut_down(machine: Machine) -> None:
    machine.instant_mw, machine.average_mw = None, UNSUPPORTED
    assert "NVML reads no power of this GPU: Not Supported" in refused()
    assert balance(machine) == 0


def test_a_gpu_that_knows_no_mig_is_fine(machine: Machine) -> None:
    machine.mig = UNSUPPORTED
    machine.nvml.nvmlDeviceIsMigDeviceHandle.side_effect = UNSUPPORTED
    assert machine.source().shared == ""


def test_gpus_are_counted_as_cuda_sees_them(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.names = ["NVIDIA H200"] * 3
    assert count_devices() == 3
    for visible, count in (("", 0), ("2", 1), ("0,2", 2)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert count_devices() == count
    assert balance(machine) == 0


def test_a_missing_package_names_the_one_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert "pip install nvidia-ml-py" in refused()


@pytest.mark.parametrize("kind", ["a package of that name", "an empty module"])
def test_the_wrong_pynvml_is_recognised(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    wrong = ModuleType("pynvml")
    if kind == "a package of that name":
        wrong.__path__ = []
        wrong.nvmlInit = lambda: None
    monkeypatch.setitem(sys.modules, "pynvml", wrong)
    assert "pip uninstall pynvml" in refused()


# ------------------------------------------------------------------------------------ which GPU it is


@pytest.mark.parametrize(
    ("visible", "index", "handle"),
    [
        (None, 1, 1),
        ("2,0", 0, 2),
        ("2,0", 1, 0),
        (" 1 ", 0, 1),
        ("GPU-abc,1", 0, "GPU-abc"),
        ("MIG-abc", 0, "MIG-abc"),
    ],
)
def test_the_gpu_is_the_one_that_cuda_sees(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, visible: str | None, index: int, handle: object
) -> None:
    machine.names = ["NVIDIA H200"] * 3
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert find_device(machine.nvml, index) == handle


@pytest.mark.parametrize(("visible", "index"), [("", 0), ("0", 1), ("0,,1", 1)])
def test_a_gpu_that_is_not_visible_is_refused(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, visible: str, index: int
) -> None:
    machine.names = ["NVIDIA H200"] * 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(NvmlUnavailableError, match=f"CUDA device {index} is not among the visible ones"):
        find_device(machine.nvml, index)


def test_a_gpu_that_nvml_does_not_know_is_refused(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    assert "NVML does not know CUDA device 0" in refused()


def test_unlike_gpus_are_told_apart_by_slot_order_or_uuid_only(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.names = ["NVIDIA T400", "NVIDIA H200"]
    assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in refused("cuda:1")
    assert find_device(machine.nvml, 1, uuid="1234-5678") == "GPU-1234-5678"
    with pytest.raises(NvmlUnavailableError):
        open_source(1)
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    assert find_device(machine.nvml, 1) == 1


def test_an_instance_is_found_by_the_number_that_cuda_gives_it(machine: Machine) -> None:
    def known(uuid: str) -> str:
        if uuid.startswith("GPU-"):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return uuid

    machine.nvml.nvmlDeviceGetHandleByUUID.side_effect = known
    assert find_device(machine.nvml, 0, uuid="abc") == "MIG-abc"
