"""The model families: built in, registered by another package, or by the running program."""

from __future__ import annotations

from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING

from qslm_opt.errors import ModelError, did_you_mean
from qslm_opt.models.family import Family, bare

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from qslm_opt.models.config import ModelConfig

MAPPING = ".toml"
"""Ending of a mapping file's name."""
GROUP = "qslm_opt.families"
"""Entry-point group: name → ``module:Class``, a ``Family`` without arguments."""
BUILT_IN = {
    "spikegpt": "qslm_opt.models.spikegpt:SpikeGPT",
    "spikebert": "qslm_opt.models.spikebert:SpikeBERT",
    "spikingbert": "qslm_opt.models.spikingbert:SpikingBERT",
    "spikelm": "qslm_opt.models.spikelm:SpikeLM",
    "spikellm": "qslm_opt.models.spikellm:SpikeLLM",
}
MODEL_TYPES = {"RWKV": "spikegpt", "RWKV-ffnPre": "spikegpt", "llama": "spikellm"}
"""``model_type`` of a config.json → built-in family, where that is not its name; read without torch."""
_registered: dict[str, Family] = {}


def register(family: Family) -> None:
    """Make a family known to this process, in front of the others; the same name again replaces it."""
    _registered[family.name] = family


@contextmanager
def registered(family: Family) -> Iterator[None]:
    """Make a family known inside only."""
    before = dict(_registered)
    register(family)
    try:
        yield
    finally:
        _registered.clear()
        _registered.update(before)


def family_names() -> tuple[str, ...]:
    """Return the name of every family that is known."""
    return tuple(dict.fromkeys([*_registered, *BUILT_IN, *_installed()]))


def open_family(given: str) -> Family:
    """Return the family that a user gave: by name, or by the path of a mapping file, whose code then runs.

    Capitals, hyphens and spaces of a name do not matter, so that titles (``SpikeBERT``) are names too. A
    mapping file's family is known by its name from then on. Never call it with what a file says.

    Raises:
        ModelError: there is none, or another package's cannot be loaded.
    """
    return _mapped(given) if is_mapping_file(given) else get_family(_meant(given))


def get_family(name: str) -> Family:
    """Return a family by name; no file is opened, and no code of a mapping runs.

    Raises:
        ModelError: there is none, or another package's cannot be loaded.
    """
    if name in _registered:
        return _registered[name]
    if is_mapped(name):
        others = ", ".join(filter(is_mapped, _registered))
        raise ModelError(
            f"model family {name!r} is of a mapping file with a SHA-256 that begins with "
            f"{name.rpartition('@')[2]}{f', and not {others}' if others else ''}; give that file, --family "
            "FILE.toml, which runs the code it names."
        )
    if name in BUILT_IN:
        return _built_in(name)
    point = _installed().get(name)
    if point is None:
        known = family_names()
        raise ModelError(
            f"model family {name!r} is unknown; use one of {', '.join(known)}."
            f"{did_you_mean(name.lower(), known)}"
        )
    return _loaded(point)


def family_of(config: ModelConfig) -> Family:
    """Return the family of a config."""
    return get_family(config.family)


def find_family(names: Collection[str]) -> Family | None:
    """Return the first family that recognises a checkpoint with these names; None when none does.

    A family of another package that cannot be loaded, or fails to look, recognises nothing.
    """
    return next((family for family in _usable(family_names()) if _recognises(family, names)), None)


def family_of_type(model_type: str) -> Family | None:
    """Return the family whose config.json has this ``model_type``; None where none does, or it is broken."""
    name = MODEL_TYPES.get(model_type, model_type)
    if name in family_names():
        return next(_usable([name]), None)
    others = _usable(name for name in family_names() if name not in BUILT_IN)
    return next((family for family in others if model_type in family.model_types), None)


def installed_families() -> Iterator[tuple[str, str, str | None]]:
    """Yield (name, ``module:Class``, why it cannot be used or None) of what other packages bring."""
    for name, point in _installed().items():
        try:
            _loaded(point)
        except ModelError as error:
            yield name, point.value, str(error)
        else:
            yield name, point.value, None


def is_mapping_file(given: str) -> bool:
    """Return whether a family that a user gave is the path of a mapping file."""
    return given.endswith(MAPPING)


def is_mapped(name: str) -> bool:
    """Return whether a family's name is one that a mapping file has: its own, @ and its hash."""
    return "@" in name


def _usable(names: Iterable[str]) -> Iterator[Family]:
    """Yield the families of these names; what another package broke is left out."""
    for name in names:
        try:
            yield get_family(name)
        except ModelError:
            if name in BUILT_IN:
                raise


def _recognises(family: Family, names: Collection[str]) -> bool:
    try:
        return family.recognises({bare(name, family.prefixes) for name in names})
    except Exception:
        if family.name in BUILT_IN or is_mapped(family.name):
            raise
        return False


def _meant(given: str) -> str:
    """Return the known name that is ``given`` but for capitals, hyphens and spaces; else ``given``."""
    known = family_names()
    return given if given in known else next((k for k in known if _plain(k) == _plain(given)), given)


def _plain(name: str) -> str:
    return "".join(c for c in name.lower() if c not in " -_")


def _mapped(path: str) -> Family:
    from qslm_opt.models.mapping.family import open_mapping

    family = open_mapping(Path(path).expanduser())
    if family.name not in _registered:
        register(family)
    return _registered[family.name]


@cache
def _built_in(name: str) -> Family:
    module, _, attribute = BUILT_IN[name].partition(":")
    made: Family = getattr(import_module(module), attribute)()
    return made


@cache
def _installed() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP) if point.name not in BUILT_IN}


@cache
def _loaded(point: EntryPoint) -> Family:
    try:
        made = point.load()()
    except (Exception, SystemExit) as error:  # noqa: BLE001 - another package's code may raise anything
        raise ModelError(
            f"model family {point.name!r} of {point.value} cannot be loaded ({error}); repair or remove the "
            "package that brings it."
        ) from None
    if not isinstance(made, Family) or made.name != point.name:
        raise ModelError(
            f"model family {point.name!r} of {point.value} is no Family of that name; repair the package."
        )
    return made
