"""A family that another package brings: found by its entry point, and refused in one sentence when broken."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import save_file  # noqa: E402

from qslm_opt.cli.doctor import _packages  # noqa: E402
from qslm_opt.conformance.case import random_tensors  # noqa: E402
from qslm_opt.errors import ModelError  # noqa: E402
from qslm_opt.hierarchy.discover import discover  # noqa: E402
from qslm_opt.models import registry  # noqa: E402
from qslm_opt.models.loading import load_model  # noqa: E402

EXAMPLE = Path(__file__).parent.parent / "conformance" / "tiny_family.py"


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a package of one module, with one entry point, for the time of a test."""

    def installed(source: str, name: str = "tiny", attribute: str = "Tiny", before: str = "") -> None:
        site = tmp_path / "site"
        info = site / "a_stranger-1.0.dist-info"
        info.mkdir(parents=True)
        (site / "a_stranger.py").write_text(source, "utf-8")
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: a-stranger\nVersion: 1.0\n", "utf-8")
        (info / "entry_points.txt").write_text(
            f"[{registry.GROUP}]\n{before}{name} = a_stranger:{attribute}\n", "utf-8"
        )
        monkeypatch.syspath_prepend(str(site))
        forget()

    def forget() -> None:
        registry._installed.cache_clear()
        registry._loaded.cache_clear()
        sys.modules.pop("a_stranger", None)

    forget()
    yield installed
    monkeypatch.undo()
    forget()


def test_one_file_and_one_entry_point_are_a_family(install, tmp_path) -> None:
    assert "tiny" not in registry.family_names()
    install(EXAMPLE.read_text("utf-8"))
    assert registry.family_names()[-1] == "tiny"
    config = registry.get_family("tiny").config_class(vocab_size=11, width=8, layers=3, classes=2)
    path = tmp_path / "model.safetensors"
    save_file(random_tensors(config), path)
    model = load_model(str(path))
    assert model.config == config  # known by its tensors' names
    assert type(registry.family_of(model.config)).__module__ == "a_stranger"
    assert "attention.2" in discover(config, config.tensor_shapes(), "classification").units()


@pytest.mark.parametrize(
    ("source", "name", "sentence"),
    [
        ("raise OSError('no disk')", "tiny", "cannot be loaded (no disk); repair or remove the package"),
        ("Tiny = dict", "tiny", "is no Family of that name; repair the package"),
        (EXAMPLE.read_text("utf-8"), "other", "is no Family of that name; repair the package"),
        ("", "tiny", "cannot be loaded"),
    ],
)
def test_a_broken_package_is_named(install, source, name, sentence) -> None:
    install(source, name)
    with pytest.raises(ModelError) as error:
        registry.get_family(name)
    assert sentence in str(error.value)
    assert f"{name!r} of a_stranger:Tiny" in str(error.value)


BROKEN = "aaa = nothere:X\naab = a_stranger:Exits\naac = a_stranger:Fails\n"
SOURCE = EXAMPLE.read_text("utf-8") + """

class Exits(Tiny):
    def __init__(self):
        raise SystemExit(3)


class FailsConfig(TinyConfig):
    family = "aac"


class Fails(Tiny):
    config_class = FailsConfig
    model_types = ()

    def recognises(self, names):
        raise KeyError("broken")
"""


def test_a_broken_package_stops_no_other(install, tmp_path) -> None:
    install(SOURCE, before=BROKEN)
    assert registry.family_names()[-4:] == ("aaa", "aab", "aac", "tiny")
    config = registry.get_family("tiny").config_class(vocab_size=11, width=8, layers=3, classes=2)
    path = tmp_path / "model.safetensors"
    save_file(random_tensors(config), path)
    assert load_model(str(path)).config == config
    assert registry.find_family(["emb", "no.such"]) is None
    assert registry.family_of_type("aaa") is None and registry.family_of_type("other") is None
    assert registry.family_of_type("tiny").name == "tiny"
    for name, reason in {"aaa": "nothere", "aab": "3"}.items():
        with pytest.raises(ModelError, match=rf"'{name}' of .* cannot be loaded \(.*{reason}"):
            registry.open_family(name)


def test_doctor_says_which_family_is_broken(install) -> None:
    install(SOURCE, before=BROKEN)
    found = {check.name: check for check in _packages() if check.name.startswith("family ")}
    assert {name: check.ok for name, check in found.items()} == {
        "family aaa": False, "family aab": False, "family aac": True, "family tiny": True
    }  # fmt: skip
    assert "nothere" in found["family aaa"].why and "repair or remove" in found["family aaa"].fix
    assert found["family tiny"].value == "a_stranger:Tiny"


def test_a_title_is_a_name_whatever_its_capitals(install) -> None:
    install(EXAMPLE.read_text("utf-8"))
    for name in registry.BUILT_IN:
        title = registry.get_family(name).config_class.title
        assert registry.open_family(title) is registry.get_family(name)
    assert registry.open_family("Spike-Bert") is registry.get_family("spikebert")
    assert registry.open_family("TINY").name == "tiny"
    with pytest.raises(ModelError, match=r"'SpikeBRT' is unknown.* Did you mean 'spikebert'"):
        registry.open_family("SpikeBRT")


def test_no_package_takes_the_name_of_a_built_in_family(install) -> None:
    install(EXAMPLE.read_text("utf-8"), "spikegpt")
    assert type(registry.get_family("spikegpt")).__module__ == "qslm_opt.models.spikegpt"
