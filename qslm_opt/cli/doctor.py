"""``qslm-opt doctor``: what this machine offers. Every "no" says why, and how to change it."""

from __future__ import annotations

import json as jsonlib
import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from qslm_opt.cli.placement import available_cores
from qslm_opt.models.registry import installed_families

if TYPE_CHECKING:
    from qslm_opt.measure.nvml_source import NvmlSource

SCHEMA = 1
_PACKAGES = (
    "torch", "optuna", "sqlalchemy", "textual", "typer", "numpy", "numba", "transformers", "tokenizers",
    "safetensors", "datasets", "nvidia-ml-py",
)  # fmt: skip
_EXTRAS = {
    "optuna-dashboard": "dashboard", "psycopg": "postgres", "pymysql": "mysql", "grpcio": "grpc", "ray": "ray"
}  # fmt: skip


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    group: str
    name: str
    ok: bool
    value: str | None = None
    """What was found; None when there is nothing."""
    why: str | None = None
    """Why it is a no."""
    fix: str | None = None
    """What to do about a no."""


def doctor(
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object, schema 1.")] = False,
) -> None:
    """Say what this machine offers: GPU, power meter, kernels, storage, offline data, packages."""
    checks = list(examine())
    typer.echo(as_json(checks) if json else as_text(checks))


def examine() -> Iterator[Check]:
    """Yield every check. One that breaks in an unforeseen way is a no, and the others go on."""
    for group, look in _GROUPS.items():
        try:
            yield from look()
        except Exception as error:  # noqa: BLE001  whatever is broken here is what the user asks about
            why = f"{type(error).__name__}: {error}"
            yield Check(group, "check", False, why=why, fix="report this as a bug")


def as_json(checks: list[Check]) -> str:
    """Return the machine-readable form: ``schema``, ``version`` and the list of ``checks``."""
    from qslm_opt import __version__

    rows = [asdict(check) for check in checks]
    return jsonlib.dumps({"schema": SCHEMA, "version": __version__, "checks": rows}, indent=2)


def as_text(checks: list[Check]) -> str:
    """Return the table for people: yes or no, what, the value or the reason; the fix on its own line."""
    width = max((len(check.name) for check in checks), default=0)
    paragraphs = []
    for group, members in groupby(checks, key=lambda check: check.group):
        lines = [group]
        for check in members:
            text = ": ".join(part for part in (check.value, check.why) if part)
            lines.append(f"  {'yes' if check.ok else 'no':3}  {check.name:{width}}  {text}")
            if check.fix:
                lines.append(f"       {'':{width}}  fix: {check.fix}")
        paragraphs.append("\n".join(lines))
    return "\n\n".join(paragraphs)


# ---------------------------------------------------------------------------------------- the checks


def _python() -> Iterator[Check]:
    where = f"{platform.python_implementation()}, {platform.system()} {platform.machine()}"
    yield Check("Python", "interpreter", True, f"{platform.python_version()} ({where})")
    yield Check("Python", "processors", True, str(available_cores()))


def _torch() -> Iterator[Check]:
    try:
        import torch
    except ImportError as error:
        why = "torch is not installed" if error.name == "torch" else f"torch does not load: {error}"
        yield Check("GPU", "torch", False, why=why, fix="pip install 'torch>=2.7,<2.14'")
        return
    yield Check("GPU", "torch", True, f"{torch.__version__}, {torch.get_num_threads()} CPU threads")
    if torch.version.cuda is None:
        yield Check(
            "GPU", "CUDA", False, why="this torch is a build without CUDA",
            fix="on a machine with an NVIDIA GPU install the CUDA build of torch",
        )  # fmt: skip
    elif not torch.cuda.is_available():
        yield Check(
            "GPU", "CUDA", False, why=f"torch has CUDA {torch.version.cuda} but finds no usable GPU",
            fix="check nvidia-smi (driver) and CUDA_VISIBLE_DEVICES",
        )  # fmt: skip
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        compute = f"compute {properties.major}.{properties.minor}"
        found = f"{properties.name}, {properties.total_memory / 1e9:.1f} GB, {compute}"
        yield Check("GPU", f"cuda:{index}", True, found)
        yield from _gpu_meter(index, str(getattr(properties, "uuid", "")) or None)


def _gpu_meter(index: int, uuid: str | None) -> Iterator[Check]:
    from qslm_opt.measure.nvml import NvmlUnavailableError, open_source
    from qslm_opt.measure.reading import steady_clock

    name = f"cuda:{index} power"
    try:
        source = open_source(index, uuid)
    except NvmlUnavailableError as error:
        yield _null("GPU", name, str(error))
        return
    try:
        reading, found = source.read(steady_clock()), source.describe()
        watts, used = reading.sample.power_w, reading.sample.memory_bytes
        limit = "" if found.limit_w is None else f" of {found.limit_w:.0f} W"
        if watts is None:
            yield _null("GPU", name, "NVML answered without a number; ask again")
        else:
            yield Check("GPU", name, True, f"NVML, {watts:.1f} W now{limit}, {_kind(source)}")
        gone = source.missing()
        told = None if gone else "memory, utilization, clocks, temperature, throttle reasons, energy counter"
        why = f"this GPU or its driver does not tell: {', '.join(gone)}" if gone else None
        fix = "a newer driver may; what is missing is shown as n/a" if gone else None
        yield Check("GPU", f"cuda:{index} sensors", not gone, told, why=why, fix=fix)
        if used is not None:
            yield Check("GPU", f"cuda:{index} memory", True, f"{used / 1e9:.1f} GB in use by all processes")
    except Exception as error:  # noqa: BLE001  a GPU that is lost says so in its own words
        yield _null("GPU", name, f"NVML stopped answering: {error}; look at nvidia-smi")
    finally:
        source.close()


def _kind(source: NvmlSource) -> str:
    """Return what a GPU's watts and joules are, in words."""
    reading = "instant readings" if source.domain == "instant" else "readings averaged over a second"
    counter = "with an energy counter" if source.counts_energy else "no energy counter: energy is integrated"
    return "; ".join(part for part in (f"{reading}, {counter}", source.shared) if part)


def _power() -> Iterator[Check]:
    from qslm_opt.measure.meter import ENVIRONMENT_KEY, open_meter
    from qslm_opt.measure.nvml import NvmlUnavailableError, load_nvml
    from qslm_opt.measure.rapl import open_rapl

    try:
        nvml = load_nvml()
    except NvmlUnavailableError as error:
        yield _null("Power", "NVML", str(error))
    else:
        yield Check("Power", "NVML", True, f"driver {nvml.nvmlSystemGetDriverVersion()}")
        nvml.nvmlShutdown()
    meter = open_rapl()
    if meter.reason is None:
        yield Check("Power", "RAPL", True, "energy of the CPU packages, all processes together")
    else:
        yield _null("Power", "RAPL", meter.reason)
    meter.close()
    if os.environ.get(ENVIRONMENT_KEY):
        chosen = open_meter("cpu")
        yield Check(
            "Power", ENVIRONMENT_KEY, chosen.source == "replay", os.environ[ENVIRONMENT_KEY],
            why=None if chosen.source == "replay" else "no device is measured",
            fix=f"unset {ENVIRONMENT_KEY} to measure the devices themselves",
        )  # fmt: skip
        chosen.close()


def _null(group: str, name: str, reason: str) -> Check:
    """Return the no of a meter whose ``reason`` is ``why; fix``."""
    why, _, fix = reason.partition("; ")
    return Check(group, name, False, why=f"{why} (its power is shown as n/a)", fix=fix or None)


def _kernels() -> Iterator[Check]:
    if find_spec("numba") is None:
        yield Check("Kernels", "numba", False, why="numba is not installed", fix="pip install 'numba>=0.60'")
    else:
        import numba

        doubled = numba.njit(cache=False)(lambda x: 2 * x)(21)
        threads = f"{numba.get_num_threads()} of {available_cores()} processors"
        yield Check("Kernels", "numba", doubled == 42, f"{numba.__version__} compiles, {threads}")
    if find_spec("triton") is None:
        yield Check(
            "Kernels", "triton", False, why="not installed, only GPUs use it",
            fix="it comes with the CUDA build of torch on Linux",
        )  # fmt: skip
    else:
        yield Check("Kernels", "triton", True, _version("triton"))
    if find_spec("torch") is not None:
        import torch

        from qslm_opt.kernels.ops import available_precisions, pick_precision

        for device in ("cpu", "cuda")[: 1 + torch.cuda.is_available()]:
            there, chosen = available_precisions(device), pick_precision(device)
            found = f"{chosen}; --matmul has {', '.join(there)}" if len(there) > 1 else chosen
            yield Check("Kernels", f"products on {device}", True, found)


def _storage() -> Iterator[Check]:
    import sqlite3

    from qslm_opt.errors import QslmError
    from qslm_opt.store import default_url, masked, prepare

    yield Check("Storage", "SQLite", True, sqlite3.sqlite_version)
    here = Path.cwd()
    if os.access(here, os.W_OK):
        with TemporaryDirectory(prefix=".qslm-opt-doctor-", dir=here) as folder:
            try:
                prepare(f"sqlite:///{folder}/probe.db")
                yield Check("Storage", "study file here", True, f"{here} (write-ahead log works)")
            except QslmError as error:
                yield Check(
                    "Storage", "study file here", False, str(here), why=str(error),
                    fix="give --storage or QSLM_OPT_STORAGE another place",
                )  # fmt: skip
    else:
        yield Check(
            "Storage", "study file here", False, why=f"{here} is read-only",
            fix="run in another folder, or give --storage or QSLM_OPT_STORAGE",
        )  # fmt: skip
    yield Check("Storage", "default URL", True, masked(default_url()))


def _offline() -> Iterator[Check]:
    import qslm_opt

    demo = Path(qslm_opt.__file__).parent / "data" / "demo_model" / "model.safetensors"
    found = demo.is_file()
    yield Check(
        "Offline data", "demo model", found, f"{demo.stat().st_size / 1e6:.1f} MB" if found else None,
        why=None if found else f"{demo} is missing", fix=None if found else "reinstall qslm-opt",
    )  # fmt: skip
    for name, module in (("demo text", "pydoc_data.topics"), ("library sources", "argparse")):
        spec = find_spec(module)
        there = bool(spec and spec.origin and spec.origin.endswith(".py") and Path(spec.origin).is_file())
        yield Check(
            "Offline data", name, there, module if there else None,
            why=None if there else f"this Python comes without the source of {module}",
            fix=None if there else "use a Python that has its standard library's sources",
        )  # fmt: skip
    offline = os.environ.get("HF_HUB_OFFLINE") in ("1", "ON", "YES", "TRUE")
    yield Check(
        "Offline data", "Hugging Face hub", not offline, None if offline else "asked when needed",
        why="HF_HUB_OFFLINE is set" if offline else None,
        fix="unset HF_HUB_OFFLINE, or use local folders and --data" if offline else None,
    )  # fmt: skip


def _packages() -> Iterator[Check]:
    for name in _PACKAGES:
        found = _version(name)
        fix = None if found else f"pip install {name}"
        why = None if found else "not installed"
        yield Check("Packages", name, found is not None, found, why=why, fix=fix)
    for name, extra in _EXTRAS.items():
        found = _version(name)
        fix = None if found else f"pip install 'qslm-opt[{extra}]'"
        why = None if found else "optional, not installed"
        yield Check("Packages", name, found is not None, found, why=why, fix=fix)
    for name, place, why in installed_families():
        reason, _, fix = (why or "").rstrip(".").rpartition("; ")
        found = None if why else place
        yield Check("Packages", f"family {name}", why is None, found, why=reason or None, fix=fix or None)


_GROUPS: dict[str, Callable[[], Iterator[Check]]] = {
    "Python": _python,
    "GPU": _torch,
    "Power": _power,
    "Kernels": _kernels,
    "Storage": _storage,
    "Offline data": _offline,
    "Packages": _packages,
}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
