"""The keys of a mapping file: strict, each with its type. No torch, and nothing of it is run here.

``docs/families.md`` says what they mean.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, get_args

from qslm_opt.errors import ModelError, SpecError, UsageError, did_you_mean
from qslm_opt.hierarchy.tree import Role
from qslm_opt.spec import read_toml

TENSORS_IN = ("ids", "mask", "lengths")
"""What a module can be called with."""
MASKS = ("bool", "int64", "float32")
REDUCTIONS = ("mean", "sum", "last")
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,40}")
_BUILD = re.compile(r"([A-Za-z0-9_./-]+\.py|[A-Za-z_][\w.]*):[A-Za-z_]\w*")
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
        return _mapping(path, read_toml(path))
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
    _check_values(tables)
    spikes = tuple(_spikes(value) for value in neurons.get("spikes", ()))
    arguments = _dict(values, "arguments")
    for key, value in arguments.items():
        if not isinstance(value, (str, int, float, bool, list, dict)):
            raise ModelError(f"argument {key!r} is a {type(value).__name__}; write a number, text or list.")
    for key in ("timesteps", "vocabulary"):
        named = tables[""][key]
        if isinstance(named, str) and named and type(arguments.get(named)) is not int:
            raise ModelError(f"{key} names argument {named!r}, which [arguments] has not as an integer.")
    return MappingFile(path, _digest(path, tables[""]["build"]), tables, arguments, _roles(values), spikes)


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
            raise ModelError(f"key {_dotted(name, key)!r} is missing; it is a {kind}.")
        strings = kind != _STRINGS or all(type(v) is str for v in value)
        if type(value) not in _TYPES[kind] or not strings:
            raise ModelError(f"key {_dotted(name, key)!r} is {value!r}; it must be a {kind}.")
        found[key] = value
    return found


def _dotted(table: str, key: str) -> str:
    return f"{table}.{key}" if table else key


def _check_values(tables: Mapping[str, Mapping[str, Any]]) -> None:
    top, call, output = tables[""], tables["call"], tables["output"]
    if not _NAME.fullmatch(top["name"]):
        raise ModelError(f"name {top['name']!r} must be lower-case letters, digits, - and _.")
    if not _BUILD.fullmatch(top["build"]):
        raise ModelError(f"build {top['build']!r} must be 'package.module:function' or 'file.py:function'.")
    for what in (*call["arguments"], *call["keywords"].values()):
        _one_of("call", what, TENSORS_IN)
    _one_of("call.mask", call["mask"], MASKS)
    _one_of("output.kind", output["kind"], ("classes", "tokens"))
    _one_of("output.reduce", output["reduce"], REDUCTIONS)
    told = {*call["arguments"], *call["keywords"].values()} & {"mask", "lengths"}
    if output["kind"] == "classes" and not told and not tables["encoding"]["pad_to"]:
        raise ModelError(
            "the module is told nothing of padding; hand it mask or lengths in [call], or give "
            "encoding.pad_to, where pads are tokens like others."
        )
    if output["kind"] == "tokens" and not output["head"]:
        raise ModelError("output.head is missing; name the weight of the last linear layer.")
    own = "BC" if output["kind"] == "classes" else "BTV"
    if sorted((output["axes"] or own).replace("S", "", 1)) != sorted(own):
        raise ModelError(f"output.axes {output['axes']!r} must be {own}, or those with S for time steps.")


def _one_of(key: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ModelError(f"{key} {value!r} is unknown; use one of {', '.join(known)}.")


def _spikes(value: Any) -> Spikes:
    found = _table("neurons.spikes", value if isinstance(value, dict) else {"modules": value})
    axes, calls = found["axes"], found["calls"]
    if calls not in ("", "S", "T"):
        raise ModelError(f"neurons.spikes.calls {calls!r} must be S (a call a step) or T (a call a token).")
    letters = calls + axes
    if len(set(letters)) != len(letters) or not {"B", "T"} < set(letters):
        raise ModelError(
            f"neurons.spikes.axes {axes!r} with calls {calls!r} must have B, T and an axis of neurons, once."
        )
    return Spikes(tuple(found["modules"]), axes, calls, found["item"])


def _roles(values: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    known, found = (*get_args(Role), "sign_only"), {}
    for role, patterns in _dict(values, "roles").items():
        if role not in known:
            raise ModelError(f"role {role!r} is unknown.{did_you_mean(role, known)}")
        if not isinstance(patterns, list) or not all(type(p) is str for p in patterns):
            raise ModelError(f"roles.{role} must be a list of patterns of tensor names.")
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
    """Return the .py file that ``build`` names, beside the mapping file; None where it names a module."""
    source = build.partition(":")[0]
    return path.parent / source if source.endswith(".py") else None
