"""What every test stands on: an isolated home, no network, no colour, and torch as an optional part."""

from __future__ import annotations

import os
import signal
import sys
import time
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

import hypothesis
import pytest

# A job that a script starts in the background ignores Ctrl-C, and so would every test of it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A terminal's or another CI's wish for colour or width would change what commands print.
for _name in ("FORCE_COLOR", "CLICOLOR_FORCE", "PY_COLORS", "GITHUB_ACTIONS", "COLUMNS", "LINES"):
    os.environ.pop(_name, None)
os.environ.pop("QSLM_OPT_STORAGE", None)
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # each command a test starts would compile every module again
# Read when the libraries are imported, hence set before any test module is.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line sets it
os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

# Two shared cores make single examples slow: no deadline. CI's examples are the same every time.
hypothesis.settings.register_profile("local", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") == "true" else "local")


_HEAVY = ("torch", "pyarrow", "tokenizers", "transformers", "datasets", "safetensors", "numba")


class _SkipWithoutTorch:
    """Where torch is not installed, whoever imports it or what comes with it is a test to skip."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name in _HEAVY:
            pytest.skip(f"needs {name}, which is not installed here", allow_module_level=True)
        return None


if PathFinder.find_spec("torch") is None:  # `make test-nouns`
    sys.meta_path.insert(0, _SkipWithoutTorch())


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Leave out, with a reason, what would begin after the moment that .ci/run names."""
    names = ["QSLM_OPT_TESTS_UNTIL"]
    if item.get_closest_marker("slow"):
        names.append("QSLM_OPT_LONG_TESTS_UNTIL")
    if any(time.time() > float(os.environ.get(name) or "inf") for name in names):
        pytest.skip("CI's time is over")


@pytest.fixture(scope="session", autouse=True)
def _isolated_home(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Give the tests, and the commands they start, a home of their own."""
    home = tmp_path_factory.mktemp("home")
    patch = pytest.MonkeyPatch()
    patch.setenv("HOME", str(home))
    for name, folder in (
        ("XDG_CONFIG_HOME", ".config"),
        ("XDG_CACHE_HOME", ".cache"),
        ("XDG_DATA_HOME", ".local/share"),
        ("XDG_STATE_HOME", ".local/state"),
        ("HF_HOME", ".cache/huggingface"),
    ):
        patch.setenv(name, str(home / folder))
    yield home
    patch.undo()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder ../shared beside the repository: reference models, data and tokenizers."""
    folder = (Path(__file__).resolve().parents[1] / "../shared").resolve()
    if not folder.is_dir():
        reason = f"the reference models and data are not at {folder}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return folder
