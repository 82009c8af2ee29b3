"""Which part of a model a tensor or module belongs to, and what a tensor is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from torch import nn

from qslm_opt.errors import ModelError, did_you_mean
from qslm_opt.models.mapping.calls import names_under

if TYPE_CHECKING:
    from qslm_opt.models.mapping.built import Built
    from qslm_opt.models.mapping.keys import MappingFile

_NORMS = (
    nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
)  # fmt: skip


def blocks_of(mapping: MappingFile, names: list[str]) -> tuple[str, ...]:
    """Return the module of each block, in order; ModelError for a pattern that names none."""
    found = tuple(_blocks(mapping, names))
    each = [part for text in found for part in text.split("+")]
    twice = next((part for i, part in enumerate(each) if part in each[:i]), None)
    if twice is not None:
        raise ModelError(f"modules.blocks names {twice!r} twice; each module is of one block.")
    return found


def _blocks(mapping: MappingFile, names: list[str]) -> Iterator[str]:
    for pattern in mapping.get("modules", "blocks"):
        depth = pattern.count(".")
        found = [pattern] if "+" in pattern else [
            name for name in names if name.count(".") == depth and fnmatchcase(name, pattern)
        ]  # fmt: skip
        if not found or any(part not in names for text in found for part in text.split("+")):
            raise ModelError(f"modules.blocks names {pattern!r}, which the module has not.")
        yield from found


def check_names(mapping: MappingFile, built: Built, names: list[str]) -> None:
    """Raise ModelError for a name or pattern of the file that nothing of the module has."""
    there = {*names, *built.state, *built.others}
    for part in ("input", "output", "aux"):
        for name in mapping.get("modules", part):
            if name not in there:
                raise ModelError(
                    f"modules.{part} names {name!r}, which the module has not.{did_you_mean(name, there)}"
                )
    for role, patterns in mapping.roles.items():
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in built.state):
                raise ModelError(
                    f"roles.{role} names {pattern!r}, which no tensor is called."
                    f"{did_you_mean(pattern, built.state)}"
                )
    reset = mapping.get("neurons", "reset")
    parts = built.module.modules()
    if reset and ":" not in reset and not any(callable(getattr(m, reset, None)) for m in parts):
        raise ModelError(f"neurons.reset {reset!r} is a method of no part of the module; correct its name.")


def part_of(mapping: MappingFile, blocks: tuple[str, ...], name: str) -> str:
    """Return the part of a tensor or module: that with the longest name that it stands below."""
    known = {f"attention.{i}": text.split("+") for i, text in enumerate(blocks)}
    known |= {part: mapping.get("modules", part) for part in ("input", "output", "aux")}
    fits = [(len(p), part) for part, prefixes in known.items() for p in prefixes if names_under([name], p)]
    if not fits:
        raise ModelError(f"{name!r} stands in no part; name it, or its module, in [modules].")
    return max(fits)[1]


def owner_of(blocks: tuple[str, ...], part: str, name: str) -> str:
    """Return the module of a tensor, without the name of its block."""
    owner = name.rpartition(".")[0] or name
    if part.startswith("attention."):
        block = blocks[int(part.partition(".")[2])]
        if "+" not in block:
            owner = owner[len(block) :].removeprefix(".") or block.rpartition(".")[2]
    return owner


def role_of(mapping: MappingFile, module: nn.Module, name: str, part: str) -> str:
    """Return the role of a tensor: as the file says, else by its module and shape."""
    said = [
        role
        for role, patterns in mapping.roles.items()
        if role != "sign_only" and any(fnmatchcase(name, pattern) for pattern in patterns)
    ]
    if len(said) > 1:
        raise ModelError(f"tensor {name!r} has the roles {' and '.join(said)} by [roles]; give it one.")
    if said:
        return said[0]
    owner = module.get_submodule(name.rpartition(".")[0])
    last = name.rpartition(".")[2]
    if isinstance(owner, _NORMS):
        return "norm"
    tensor = getattr(owner, last)
    if tensor.dim() == 0 or last in owner._buffers:
        return "neuron"
    if tensor.dim() == 1:
        return "bias"
    if isinstance(owner, nn.Embedding):
        return "embedding"
    return "head" if part == "output" and isinstance(owner, nn.Linear) else "matrix"


def vocabulary_of(
    mapping: MappingFile, built: Built, parts: Mapping[str, str], roles: Mapping[str, str]
) -> int:
    """Return the number of token ids."""
    said = mapping.get("", "vocabulary")
    if isinstance(said, int):
        return said
    rows = (t.shape[0] for n, t in built.state.items() if parts[n] == "input" and roles[n] == "embedding")
    found = next(rows, 0)
    if not found:
        raise ModelError("the input has no embedding with rows; give vocabulary, the number of token ids.")
    return int(found)
