"""The keys of a mapping file: strict, each with its type. No torch, and nothing of it is run here.

``docs/families.md`` says what they mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, get_args

from qslm_opt.errors import ModelError, SpecError, UsageError, did_you_mean
from qslm_opt.hierarchy.tree import Role
from qslm_opt.models.mapping import checks
from qslm_opt.spec import read_toml

_STRINGS = "list of strings"
_TABLES: Mapping[str, Mapping[str, tuple[str, Any]]] = {
    "": {
        "name": ("string", None), "title": ("string", ""), "build": ("string", None),
        "timesteps": ("string or integer", 1), "vocabulary": ("string or integer", ""),
    },
    "call": {"arguments": (_STRINGS, ["ids"]), "keywords": ("table", {}), "mask": ("string", "bool")},
    "encoding": {
        "special": ("boolean", False), "longest": ("integer", 0), "pad_to": ("integer", 0),
    },
    "modules": {
        "input": (_STRINGS, []), "blocks": (_STRINGS, None), "output": (_STRINGS, []), "aux": (_STRINGS, []),
        "reuse": ("boolean", False),
    },
    "output": {
        "kind": ("string", None), "item": ("string or integer", ""), "axes": ("string", ""),
        "reduce": ("string", "mean"), "head": ("string", ""),
    },
    "neurons": {"reset": ("string", "")},
    "neurons.spikes": {
        "modules": (_STRINGS, None), "axes": ("string", "BTN"), "calls": ("string", ""),
        "item": ("integer", 0),
    },
}  # fmt: skip
"""Table → key → (type, value where it is not given); None: the key must be given."""
_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,), "integer": (int,), "boolean": (bool,), "table": (dict,), _STRINGS: (list,),
    "string or integer": (str, int),
}  # fmt: skip
_FREE = ("arguments", "roles", "call", "encoding", "modules", "output", "neurons")


@dataclass(frozen=True)
class Spikes:
    """Neuron modules whose outputs are spikes."""

    modules: tuple[str, ...]
    axes: str
    """A letter an axis of what the module returns: S steps, B sentences, T tokens, any other neurons."""
    calls: str
    """The axis that several calls of the module are: ``S`` or ``T``; empty where it is called once."""
    item: int
    """Which one of a tuple the spikes are."""


@dataclass(frozen=True)
class MappingFile:
    """A mapping file, read and checked."""

    path: Path
    digest: str
    """SHA-256 (hex) of the file and, where it builds by a .py file, of that."""
    tables: Mapping[str, Mapping[str, Any]]
    """Table → key → value, with the usual value where none is given."""
    arguments: Mapping[str, Any]
    """Keywords of the function that builds the module."""
    roles: Mapping[str, tuple[str, ...]]
    """Role, or ``sign_only`` → patterns of tensor names."""
    spikes: tuple[Spikes, ...]

    def get(self, table: str, key: str) -> Any:
        """Return a value."""
        return self.tables[table][key]

    @property
    def family(self) -> str:
        """Name of the family: the file's own and the beginning of its hash."""
        return f"{self.get('', 'name')}@{self.digest[:12]}"

    @property
    def steps_argument(self) -> str | None:
        """The argument that is the number of time steps; None where that is fixed."""
        steps = self.get("", "timesteps")
        return steps if isinstance(steps, str) else None


def read_mapping(path: Path) -> MappingFile:
    """Read a mapping file; ModelError (or UsageError, where it cannot be read) names what is wrong."""
    where = f"mapping file {str(path)!r}"
    if not path.is_file():
        raise UsageError(f"{where} does not exist; give the path of the .toml file.")
    try:
        return _mapping(path, read_toml(path, "mapping file"))
    except (ModelError, SpecError) as error:
        raise ModelError(f"{where}: {error}") from None


def _mapping(path: Path, values: Mapping[str, Any]) -> MappingFile:
    known = (*_TABLES[""], *_FREE)
    for key in values:
        if key not in known:
            raise ModelError(f"key {key!r} is unknown.{did_you_mean(key, known)}")
    tables = {"": _table("", {k: v for k, v in values.items() if k not in _FREE})}
    neurons = _dict(values, "neurons")
    for name in ("call", "encoding", "modules", "output"):
        tables[name] = _table(name, _dict(values, name))
    tables["neurons"] = _table("neurons", {k: v for k, v in neurons.items() if k != "spikes"})
    checks.values(tables)
    arguments, roles = _dict(values, "arguments"), _roles(values)
    checks.arguments(arguments, tables[""])
    spikes = _all_spikes(neurons.get("spikes", []))
    return MappingFile(path, _digest(path, tables[""]["build"]), tables, arguments, roles, spikes)


def _dict(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = values.get(key, {})
    if not isinstance(value, dict):
        raise ModelError(f"{key!r} must be a table; write [{key}].")
    return value


def _table(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    known, found = _TABLES[name], {}
    for key in values:
        if key not in known:
            raise ModelError(f"key {_dotted(name, key)!r} is unknown.{did_you_mean(key, known)}")
    for key, (kind, usual) in known.items():
        value = values.get(key, usual)
        if value is None:
            raise ModelError(f"key {_dotted(name, key)!r} is missing; it is {_an(kind)}.")
        right = type(value) in _TYPES[kind]
        if right and kind == _STRINGS:
            right = all(type(v) is str for v in value)
        if not right:
            raise ModelError(f"key {_dotted(name, key)!r} is {value!r}; it must be {_an(kind)}.")
        if key in values:
            checks.value(_dotted(name, key), value)
        found[key] = value
    return found


def _an(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def _dotted(table: str, key: str) -> str:
    return f"{table}.{key}" if table else key


def _all_spikes(values: Any) -> tuple[Spikes, ...]:
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise ModelError("'neurons.spikes' must be a list of tables; write [[neurons.spikes]].")
    return tuple(map(_spikes, values))


def _spikes(value: Mapping[str, Any]) -> Spikes:
    found = _table("neurons.spikes", value)
    axes, calls = found["axes"], found["calls"]
    checks.spike_axes(axes, calls)
    return Spikes(tuple(found["modules"]), axes, calls, found["item"])


def _roles(values: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    known, found = (*get_args(Role), "sign_only"), {}
    for role, patterns in _dict(values, "roles").items():
        if role not in known:
            raise ModelError(f"role {role!r} is unknown.{did_you_mean(role, known)}")
        if not isinstance(patterns, list) or not all(type(p) is str for p in patterns):
            raise ModelError(f"roles.{role} must be a list of patterns of tensor names.")
        checks.value(f"roles.{role}", patterns)
        found[role] = tuple(patterns)
    return found


def _digest(path: Path, build: str) -> str:
    digest = sha256(path.read_bytes())
    source = source_file(path, build)
    if source is not None:
        try:
            digest.update(source.read_bytes())
        except OSError as error:
            raise ModelError(f"build {build!r}: {str(source)!r} cannot be read ({error.strerror}).") from None
    return digest.hexdigest()


def source_file(path: Path, build: str) -> Path | None:
    """Return the .py file that ``build`` names from the mapping file's folder; None where it is a module."""
    source = build.partition(":")[0]
    return path.parent / source if source.endswith(".py") else None
