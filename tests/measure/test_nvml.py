"""NVML against an autospec'd pynvml: no GPU needed, no call that the real package would refuse."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from time import perf_counter, sleep
from types import ModuleType, SimpleNamespace
from unittest import mock

import pynvml
import pytest

from qslm_opt.measure import nvml as nvml_module
from qslm_opt.measure import sampling
from qslm_opt.measure.meter import open_meter
from qslm_opt.measure.nvml import NvmlMeter, NvmlUnavailableError, find_device

UNSUPPORTED = pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
LOST = pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)


FUNCTIONS = (
    "nvmlInit", "nvmlShutdown", "nvmlDeviceGetCount", "nvmlDeviceGetName", "nvmlDeviceGetHandleByIndex",
    "nvmlDeviceGetHandleByUUID", "nvmlDeviceGetMigMode", "nvmlDeviceGetPowerUsage",
    "nvmlDeviceGetFieldValues",
    "nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetMemoryInfo",
)  # fmt: skip


class Machine:
    """Knobs of the machine that the fake NVML shows."""

    def __init__(self, fake: ModuleType) -> None:
        self.nvml = fake
        self.names = ["NVIDIA H200"]
        self.instant_mw: int | None = 300_000
        self.average_mw: int | Exception = 250_000
        self.counter_mj: Iterator[int] | Exception = iter(range(0, 10**9, 1000))
        self.mig: list[int] | Exception = [0, 0]
        fake.nvmlDeviceGetCount.side_effect = lambda: len(self.names)
        fake.nvmlDeviceGetName.side_effect = lambda handle: self.names[handle]
        fake.nvmlDeviceGetHandleByIndex.side_effect = self._by_index
        fake.nvmlDeviceGetHandleByUUID.side_effect = lambda uuid: uuid
        fake.nvmlDeviceGetMigMode.side_effect = lambda handle: self._value(self.mig)
        fake.nvmlDeviceGetPowerUsage.side_effect = lambda handle: self._value(self.average_mw)
        fake.nvmlDeviceGetTotalEnergyConsumption.side_effect = lambda handle: self._value(self.counter_mj)
        fake.nvmlDeviceGetMemoryInfo.side_effect = lambda handle: SimpleNamespace(used=5 * 2**30)
        fake.nvmlDeviceGetFieldValues.side_effect = self._fields

    @staticmethod
    def _value(value):
        if isinstance(value, Exception):
            raise value
        return next(value) if hasattr(value, "__next__") else value

    def _by_index(self, index):
        if not 0 <= index < len(self.names):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        return index

    def _fields(self, handle, ids):
        assert ids == [pynvml.NVML_FI_DEV_POWER_INSTANT]
        if self.instant_mw is None:
            return [SimpleNamespace(nvmlReturn=pynvml.NVML_ERROR_NOT_SUPPORTED, value=None)]
        return [SimpleNamespace(nvmlReturn=pynvml.NVML_SUCCESS, value=SimpleNamespace(uiVal=self.instant_mw))]


@pytest.fixture
def machine(monkeypatch):
    # Calls must fit the real signatures; constants and errors are the real ones; nothing else is there.
    fake = ModuleType("pynvml")
    vars(fake).update({name: value for name, value in vars(pynvml).items() if name.startswith("NVML")})
    vars(fake).update({name: mock.create_autospec(getattr(pynvml, name)) for name in FUNCTIONS})
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    return Machine(fake)


def balance(machine: Machine) -> int:
    """How many more times NVML was started than shut down."""
    return machine.nvml.nvmlInit.call_count - machine.nvml.nvmlShutdown.call_count


def window_of(meter, samples=2, counting=False):
    """Leave a window once it has so many samples, and its thread has read the counter."""
    with meter.window() as window:
        end = perf_counter() + 30
        while len(window._samples) < samples or window._counting < counting:
            assert perf_counter() < end, "the window's thread took no sample"
            sleep(0.001)
    return window.result()


# ------------------------------------------------------------------------------------------- reading


def test_a_window_holds_instant_watts_memory_and_the_real_rate(machine):
    meter = open_meter("cuda", rate_hz=200)
    found = window_of(meter, samples=4)
    assert (found.source, meter.reason) == ("nvml", None)
    assert found.mean_w == pytest.approx(300.0)
    assert found.std_w == 0.0
    assert found.memory_bytes == 5 * 2**30
    assert found.samples >= 4
    assert found.idle_w is None
    machine.nvml.nvmlDeviceGetPowerUsage.assert_not_called()


def test_an_older_gpu_gives_the_averaged_reading(machine):
    machine.instant_mw = None
    assert window_of(open_meter("cuda:0")).mean_w == pytest.approx(250.0)


def test_an_older_nvidia_ml_py_without_the_field_gives_the_averaged_reading(machine):
    del machine.nvml.NVML_FI_DEV_POWER_INSTANT
    assert window_of(open_meter("cuda:0")).mean_w == pytest.approx(250.0)


def test_a_short_window_integrates_because_the_counter_moves_in_steps(machine):
    found = window_of(open_meter("cuda"))
    assert found.energy_j == pytest.approx(found.mean_w * found.samples / found.rate_hz)


def test_a_window_with_one_sample_says_nothing_of_its_power_and_why(machine):
    meter = open_meter("cuda", rate_hz=0.01)
    assert window_of(meter, samples=1) is None
    assert "before NVML had answered twice" in meter.reason


def test_a_gpu_that_answers_after_the_end_holds_nothing_up_and_gives_nothing(machine):
    meter = open_meter("cuda")
    go_on = threading.Event()
    machine.nvml.nvmlDeviceGetFieldValues.side_effect = lambda *_: go_on.wait(30)
    for _ in range(3):  # the threads of later windows do not queue up behind the first one's question
        assert window_of(meter, samples=0) is None
        assert not go_on.is_set()
        assert "before NVML had answered twice" in meter.reason
    go_on.set()


def test_a_long_window_takes_the_counter_and_integrates_what_came_before_it(machine, monkeypatch):
    monkeypatch.setattr(nvml_module, "COUNTER_MIN_SECONDS", 0.0)
    monkeypatch.setattr(sampling, "COUNTER_AFTER_SECONDS", 0.0)
    meter = open_meter("cuda", rate_hz=200)
    machine.counter_mj = iter([1_000_000, 1_012_500])
    found = window_of(meter, counting=True)
    assert 12.5 + 300 * 0.005 <= found.energy_j <= 12.5 + found.mean_w * found.samples / found.rate_hz


@pytest.mark.parametrize(
    "counter", [UNSUPPORTED, iter([7000] * 100), iter([9000, 8000, 7000])], ids=["none", "stuck", "backwards"]
)
def test_without_a_counter_that_moves_the_energy_is_the_integral(machine, monkeypatch, counter):
    monkeypatch.setattr(nvml_module, "COUNTER_MIN_SECONDS", 0.0)
    monkeypatch.setattr(sampling, "COUNTER_AFTER_SECONDS", 0.0)
    machine.counter_mj = counter
    found = window_of(open_meter("cuda", rate_hz=200), counting=counter is not UNSUPPORTED)
    assert found.energy_j == pytest.approx(found.mean_w * found.samples / found.rate_hz)


def test_memory_that_cannot_be_read_is_none_and_the_rest_stands(machine):
    machine.nvml.nvmlDeviceGetMemoryInfo.side_effect = UNSUPPORTED
    found = window_of(open_meter("cuda"))
    assert found.memory_bytes is None
    assert found.mean_w == pytest.approx(300.0)


def test_idle_watts_stand_beside_every_later_window(machine):
    meter = open_meter("cuda", rate_hz=200)
    machine.instant_mw = 75_000
    assert meter.measure_idle(0.5) == pytest.approx(75.0)
    machine.instant_mw = 500_000
    found = window_of(meter)
    assert (found.idle_w, found.mean_w) == (pytest.approx(75.0), pytest.approx(500.0))


def test_a_gpu_lost_in_a_window_gives_none_with_the_reason_and_the_next_window_tries_again(machine):
    machine.instant_mw = None
    meter = open_meter("cuda", rate_hz=100)
    with meter.window() as window:
        machine.average_mw = LOST
        sleep(0.05)
    assert window.result() is None
    assert meter.reason == f"NVML stopped answering: {LOST}"
    machine.average_mw = 100_000
    assert window_of(meter).mean_w == pytest.approx(100.0)
    assert meter.reason is None


def test_the_device_is_synchronised_at_both_ends(machine):
    calls = mock.Mock()
    window_of(open_meter("cuda", synchronize=calls))
    assert calls.call_count == 2


def test_closing_shuts_nvml_down_once(machine):
    meter = open_meter("cuda")
    assert balance(machine) == 1
    meter.close()
    meter.close()
    assert balance(machine) == 0
    with meter.window() as window:
        pass
    assert window.result() is None
    assert meter.reason == "the meter was closed"


# ------------------------------------------------------------------------------------------- refusing


def refused(device="cuda:0", **options) -> str:
    meter = open_meter(device, **options)
    assert meter.source == "null"
    with meter.window() as window:
        pass
    assert window.result() is None
    return meter.reason


def test_a_machine_without_the_driver_has_a_null_meter_with_the_reason(machine):
    machine.nvml.nvmlInit.side_effect = pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)
    assert "install the NVIDIA driver" in refused()
    machine.nvml.nvmlShutdown.assert_not_called()


def test_this_machines_real_nvml_answers_or_says_why():
    meter = open_meter("cuda:0")
    assert (meter.reason is None) == (meter.source == "nvml")
    meter.close()


def test_a_gpu_without_power_readings_is_refused_and_nvml_shut_down(machine):
    machine.instant_mw, machine.average_mw = None, UNSUPPORTED
    assert "NVML reads no power of this GPU: Not Supported" in refused()
    assert balance(machine) == 0


def test_a_gpu_split_by_mig_is_refused_because_power_is_the_whole_boards(machine):
    machine.mig = [pynvml.NVML_DEVICE_MIG_ENABLE, pynvml.NVML_DEVICE_MIG_ENABLE]
    assert "MIG" in refused()
    assert balance(machine) == 0


def test_a_gpu_that_knows_no_mig_is_fine(machine):
    machine.mig = UNSUPPORTED
    assert open_meter("cuda").source == "nvml"


def test_a_missing_package_names_the_one_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert "pip install nvidia-ml-py" in refused()


@pytest.mark.parametrize("kind", ["a package of that name", "an empty module"])
def test_the_wrong_pynvml_is_recognised(monkeypatch, kind):
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
def test_the_gpu_is_the_one_that_cuda_sees(machine, monkeypatch, visible, index, handle):
    machine.names = ["NVIDIA H200"] * 3
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert find_device(machine.nvml, index) == handle


@pytest.mark.parametrize(("visible", "index"), [("", 0), ("0", 1), ("0,,1", 1)])
def test_a_gpu_that_is_not_visible_is_refused(machine, monkeypatch, visible, index):
    machine.names = ["NVIDIA H200"] * 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(NvmlUnavailableError, match=f"CUDA device {index} is not among the visible ones"):
        find_device(machine.nvml, index)


def test_a_gpu_that_nvml_does_not_know_is_refused(machine, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    assert "NVML does not know CUDA device 0" in refused()


def test_unlike_gpus_are_told_apart_by_slot_order_or_uuid_only(machine, monkeypatch):
    machine.names = ["NVIDIA T400", "NVIDIA H200"]
    assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in refused("cuda:1")
    assert find_device(machine.nvml, 1, uuid="1234-5678") == "GPU-1234-5678"
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    assert find_device(machine.nvml, 1) == 1


def test_the_meter_says_whether_the_gpu_counts_energy(machine):
    assert NvmlMeter(machine.nvml, 0).counts_energy
    machine.counter_mj = UNSUPPORTED
    assert not NvmlMeter(machine.nvml, 0).counts_energy
