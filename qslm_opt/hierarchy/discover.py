"""From a model's config and tensor shapes to its hierarchy. Needs no weights, hence no memory."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from qslm_opt.errors import ModelError
from qslm_opt.hierarchy.tree import Block, BlockKind, Hierarchy, Module, TensorInfo

if TYPE_CHECKING:
    from qslm_opt.models.config import ModelConfig

    Shapes = Mapping[str, tuple[int, ...]]
    Kind = Literal["classification", "lm"]

NO_TIES: Mapping[str, str] = MappingProxyType({})
_KINDS: Mapping[str, BlockKind] = {
    "input": "input", "attention": "attention", "output": "output", "aux": "aux"
}  # fmt: skip


def discover(
    config: ModelConfig, shapes: Shapes, kind: Kind, ties: Mapping[str, str] = NO_TIES
) -> Hierarchy:
    """Return the tree ``input``, ``attention.i``, ``output`` and, where something is stored that no task
    reads, ``aux``.

    Args:
        shapes: every tensor of the checkpoint, canonical name → shape.
        kind: the task's; a head that it never reads is not live.
        ties: name → name of the tensor whose storage it shares; counted once, where it is live.

    Raises:
        ModelError: a tensor has no place in the tree, or one that the tree needs is missing.
    """
    live = {name: config.is_live(name, kind) for name in shapes}
    owners = _owners(live, ties)
    modules = config.modules()
    placed = {name for names in modules.values() for name in names}
    _check_complete(config.title, placed, shapes)
    tensors = {
        name: TensorInfo(
            name=name,
            shape=tuple(shapes[name]),
            role=config.role(name),
            live=live[name],
            sign_only=config.reads_sign_only(name) and not _read_elsewhere(name, live, owners),
            tied_to=owners[name] if owners[name] != name else None,
        )
        for name in placed
    }
    found: dict[str, list[Module]] = {}
    for unit, names in modules.items():
        own = Module(unit, tuple(tensors[name] for name in names))
        found.setdefault(unit.partition("/")[0], []).append(own)
    blocks = (Block(unit, _kind(unit), tuple(inside)) for unit, inside in found.items())
    return Hierarchy(config.family, tuple(blocks))


def _kind(unit: str) -> BlockKind:
    return _KINDS[unit.partition(".")[0]]


def _read_elsewhere(name: str, live: Mapping[str, bool], owners: Mapping[str, str]) -> bool:
    """Return whether the same storage is read under another name, as more than signs."""
    return any(live[other] and owners[other] == owners[name] for other in live if other != name)


def _owners(live: Mapping[str, bool], ties: Mapping[str, str]) -> dict[str, str]:
    """Return name → the tensor that counts for it: the first live one of those that share a storage."""
    if not ties:
        return {name: name for name in live}
    groups: dict[str, list[str]] = {}
    for name in live:
        groups.setdefault(ties.get(name, name), []).append(name)
    owners: dict[str, str] = {}
    for names in groups.values():
        counted = next((name for name in names if live[name]), names[0])
        for name in names:
            owners[name] = counted
    return owners


def _check_complete(title: str, placed: set[str], shapes: Shapes) -> None:
    for name in shapes:
        if name not in placed:
            raise ModelError(f"tensor {name!r} has no place in {title}; load the model with its own config.")
    if len(placed) > len(shapes):
        name = min(placed.difference(shapes))
        raise ModelError(f"tensor {name!r} is missing; load the complete checkpoint.")
