"""`qslm-opt doctor`: a yes or no for everything, a reason and a fix for every no."""

from __future__ import annotations

import json
import sys
from types import ModuleType, SimpleNamespace
from unittest import mock

import pytest
import typer
from typer.testing import CliRunner

from qslm_opt.cli import doctor as module
from qslm_opt.cli.doctor import Check, as_text, doctor, examine
from qslm_opt.errors import StorageError
from qslm_opt.measure.nvml_source import NvmlSource
from qslm_opt.measure.reading import Reading
from qslm_opt.results import PowerDevice, PowerSample


def checks_of(group: str) -> dict[str, Check]:
    return {check.name: check for check in module._GROUPS[group]()}


def run(*arguments: str):
    app = typer.Typer()
    app.command()(doctor)
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_the_json_is_one_object_with_a_schema_and_every_group(tmp_path):
    pytest.importorskip("torch")
    result = run("--json")
    assert (result.exit_code, result.stderr) == (0, "")
    value = json.loads(result.stdout)
    assert value["schema"] == 1
    groups = [check["group"] for check in value["checks"]]
    assert list(dict.fromkeys(groups)) == list(module._GROUPS)
    assert set(value["checks"][0]) == {"group", "name", "ok", "value", "why", "fix"}
    assert list(tmp_path.iterdir()) == []


def test_every_no_has_a_reason_and_a_fix_and_every_yes_a_value():
    pytest.importorskip("torch")
    for check in examine():
        assert check.value if check.ok else check.why and check.fix, check


def test_the_table_names_each_group_once_and_is_plain_text(monkeypatch):
    pytest.importorskip("torch")
    result = run()
    assert result.exit_code == 0
    assert "\x1b[" not in result.stdout
    lines = result.stdout.splitlines()
    for group in module._GROUPS:
        assert lines.count(group) == 1


def test_the_table_puts_the_fix_below_its_no():
    text = as_text([
        Check("GPU", "torch", True, "2.13.0"),
        Check("GPU", "CUDA", False, why="no driver", fix="install one"),
        Check("Power", "NVML", False, "half", why="broken"),
    ])  # fmt: skip
    assert text == (
        "GPU\n"
        "  yes  torch  2.13.0\n"
        "  no   CUDA   no driver\n"
        "              fix: install one\n"
        "\n"
        "Power\n"
        "  no   NVML   half: broken"
    )


def test_a_check_that_breaks_is_a_no_and_the_others_go_on(monkeypatch):
    def broken():
        yield Check("A", "first", True, "1")
        raise RuntimeError("unforeseen")

    monkeypatch.setattr(
        module, "_GROUPS", {"A": broken, "B": lambda: iter([Check("B", "second", True, "2")])}
    )
    found = list(examine())
    assert [(c.group, c.name, c.ok) for c in found] == [
        ("A", "first", True),
        ("A", "check", False),
        ("B", "second", True),
    ]
    assert found[1].why == "RuntimeError: unforeseen"


def test_a_machine_without_torch_is_told_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr("builtins.__import__", refusing("torch"))
    (check,) = checks_of("GPU").values()
    assert (check.ok, check.why) == (False, "torch is not installed")
    assert "torch>=2.7" in check.fix


def refusing(name: str):
    """An import that finds everything but ``name``."""
    real = __import__

    def importing(wanted, *args, **kwargs):
        if wanted == name:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(wanted, *args, **kwargs)

    return importing


def fake_torch(*, cuda: str | None, devices: int = 0) -> ModuleType:
    properties = SimpleNamespace(name="NVIDIA H200", total_memory=150e9, major=9, minor=0, uuid="abc")
    torch = ModuleType("torch")
    torch.__version__ = "2.13.0"
    torch.get_num_threads = lambda: 2
    torch.version = SimpleNamespace(cuda=cuda)
    torch.cuda = SimpleNamespace(
        is_available=lambda: devices > 0,
        device_count=lambda: devices,
        get_device_properties=lambda index: properties,
    )
    return torch


def test_a_torch_without_cuda_and_a_cuda_without_gpu_are_told_apart(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", fake_torch(cuda=None))
    assert "without CUDA" in checks_of("GPU")["CUDA"].why
    monkeypatch.setitem(sys.modules, "torch", fake_torch(cuda="13.0"))
    assert "finds no usable GPU" in checks_of("GPU")["CUDA"].why


def gpu_source(monkeypatch, **says) -> mock.Mock:
    """A machine with one GPU whose sensors say what is given."""
    source = mock.create_autospec(NvmlSource, instance=True)
    source.read.return_value = Reading(PowerSample(1.0, 75.25, 5_000_000_000), 3.0)
    source.describe.return_value = PowerDevice("", "", "", 0, "cuda:0", limit_w=700.0)
    source.missing.return_value = []
    source.counts_energy, source.domain, source.shared = True, "instant", ""
    for name, value in says.items():
        setattr(source, name, value)
    monkeypatch.setitem(sys.modules, "torch", fake_torch(cuda="13.0", devices=1))
    monkeypatch.setattr("qslm_opt.measure.nvml.open_source", mock.Mock(return_value=source))
    return source


def test_a_gpu_is_shown_with_its_power_now_its_sensors_and_its_memory(monkeypatch):
    source = gpu_source(monkeypatch)
    found = checks_of("GPU")
    assert found["cuda:0"].value == "NVIDIA H200, 150.0 GB, compute 9.0"
    assert found["cuda:0 power"].value == (
        "NVML, 75.2 W now of 700 W, instant readings, with an energy counter"
    )
    assert found["cuda:0 sensors"].ok
    assert found["cuda:0 memory"].value == "5.0 GB in use by all processes"
    source.close.assert_called_once_with()


def test_what_a_gpu_does_not_tell_is_named(monkeypatch):
    source = gpu_source(monkeypatch, counts_energy=False, domain="average", shared="MIG splits the board")
    source.missing.return_value = ["temperature", "energy counter"]
    found = checks_of("GPU")
    assert found["cuda:0 power"].value.endswith(
        "readings averaged over a second, no energy counter: energy is integrated; MIG splits the board"
    )
    sensors = found["cuda:0 sensors"]
    assert (sensors.ok, sensors.value) == (False, None)
    assert "does not tell: temperature, energy counter" in sensors.why
    assert "n/a" in sensors.fix


def test_a_gpu_that_is_lost_meanwhile_says_so(monkeypatch):
    source = gpu_source(monkeypatch)
    source.read.side_effect = RuntimeError("GPU is lost")
    power = checks_of("GPU")["cuda:0 power"]
    assert not power.ok
    assert "GPU is lost" in power.why
    source.close.assert_called_once_with()


def test_a_recording_in_place_of_the_meters_is_told(monkeypatch, tmp_path):
    monkeypatch.delenv("QSLM_OPT_METER", raising=False)
    assert "QSLM_OPT_METER" not in checks_of("Power")
    (tmp_path / "r.jsonl").write_text('{"at": 1, "power_w": 5}')
    monkeypatch.setenv("QSLM_OPT_METER", f"replay:{tmp_path}/r.jsonl")
    assert checks_of("Power")["QSLM_OPT_METER"].ok
    monkeypatch.setenv("QSLM_OPT_METER", "off")
    check = checks_of("Power")["QSLM_OPT_METER"]
    assert (check.ok, check.why) == (False, "no device is measured")


def test_a_gpu_whose_power_cannot_be_read_is_na_with_the_fix(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", fake_torch(cuda="13.0", devices=1))
    monkeypatch.setitem(sys.modules, "pynvml", None)
    check = checks_of("GPU")["cuda:0 power"]
    assert (check.ok, check.value) == (False, None)
    assert "n/a" in check.why
    assert "pip install nvidia-ml-py" in check.fix


def test_a_folder_in_which_a_study_cannot_be_written_is_a_no(monkeypatch, tmp_path):
    monkeypatch.setattr("os.access", lambda *_: False)
    check = checks_of("Storage")["study file here"]
    assert check.why == f"{tmp_path} is read-only"
    assert "--storage" in check.fix


def test_a_file_system_without_wal_is_a_no_with_the_stores_reason(monkeypatch):
    def refuse(url):
        raise StorageError("its file system cannot share a write-ahead log")

    monkeypatch.setattr("qslm_opt.store.prepare", refuse)
    assert "write-ahead log" in checks_of("Storage")["study file here"].why


def test_the_default_storage_is_shown_without_its_password(monkeypatch):
    monkeypatch.setenv("QSLM_OPT_STORAGE", "postgresql+psycopg://me:secret@host/db")
    assert checks_of("Storage")["default URL"].value == "postgresql+psycopg://me:***@host/db"


def test_the_hub_switched_off_is_a_no_that_names_the_variable(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE" in checks_of("Offline data")["Hugging Face hub"].why
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert checks_of("Offline data")["Hugging Face hub"].ok


def test_the_demos_text_comes_with_this_python():
    found = checks_of("Offline data")
    assert found["demo text"].ok
    assert found["library sources"].ok


def test_a_missing_package_names_how_to_install_it(monkeypatch):
    monkeypatch.setattr(module, "_version", lambda name: None)
    found = checks_of("Packages")
    assert found["numba"].fix == "pip install numba"
    assert found["psycopg"].fix == "pip install 'qslm-opt[postgres]'"
