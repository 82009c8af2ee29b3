"""From a model's config and tensor shapes to its hierarchy. Needs no weights, hence no memory."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from qslm_opt.errors import ModelError
from qslm_opt.hierarchy.tree import Block, BlockKind, Hierarchy, Module, Role, TensorInfo

if TYPE_CHECKING:
    from qslm_opt.models.spikegpt import SpikeGPTConfig

    Shapes = Mapping[str, tuple[int, ...]]
    Kind = Literal["classification", "lm"]

NO_TIES: Mapping[str, str] = MappingProxyType({})
_EMB, _HEAD, _CLASSIFIER = "emb.weight", "head.weight", "classifier.weight"
_MATRICES = {"att": ("key", "value", "receptance", "output"), "ffn": ("key", "receptance", "value")}
_MIXES = {"att": "kvr", "ffn": "kr"}


def discover(
    config: SpikeGPTConfig, shapes: Shapes, kind: Kind, ties: Mapping[str, str] = NO_TIES
) -> Hierarchy:
    """Return the tree ``input``, ``attention.i``, ``output`` of a SpikeGPT.

    Args:
        shapes: every tensor of the checkpoint, authors' name → shape.
        kind: the task's; a head that it never reads is not live.
        ties: name → name of the tensor whose storage it shares; counted once, where it is live.

    Raises:
        ModelError: a tensor has no place in the tree, or one that the tree needs is missing.
    """
    has_classifier = bool(config.n_labels)
    live = {name: _is_live(name, kind, has_classifier) for name in shapes}
    owners = _owners(live, ties)
    modules = _modules(config)
    placed = {name for names in modules.values() for name in names}
    _check_complete(placed, shapes)
    read_whole = any(live[n] and owners[n] == owners[_EMB] for n in shapes if n != _EMB)
    sign_only = config.embedding_spikes and not read_whole
    tensors = {
        name: TensorInfo(
            name=name,
            shape=tuple(shapes[name]),
            role=_role(name),
            live=live[name],
            sign_only=sign_only and name == _EMB,
            tied_to=owners[name] if owners[name] != name else None,
        )
        for name in placed
    }
    found = [Module(unit, tuple(tensors[n] for n in names)) for unit, names in modules.items()]
    units = dict.fromkeys(unit.partition("/")[0] for unit in modules)
    blocks = (Block(u, _kind(u), tuple(m for m in found if m.unit.startswith(f"{u}/"))) for u in units)
    return Hierarchy("spikegpt", tuple(blocks))


def _modules(config: SpikeGPTConfig) -> dict[str, list[str]]:
    """Return module unit → its tensors' names, in the order in which the model computes."""
    modules = {"input/emb": [_EMB], "input/ln0": _norm("blocks.0.ln0")}
    for i in range(config.n_layer):
        unit, name, first = f"attention.{i}", f"blocks.{i}", config.att_name(i)
        modules[f"{unit}/ln1"] = _norm(f"{name}.ln1")
        modules |= _mixer(f"{unit}/{first}", f"{name}.{first}", "att" if first == "att" else "ffn")
        modules[f"{unit}/ln2"] = _norm(f"{name}.ln2")
        modules |= _mixer(f"{unit}/ffn", f"{name}.ffn", "ffn")
    modules["output/ln_out"] = _norm("ln_out")
    if config.has_head:
        modules["output/head"] = [_HEAD]
    if config.n_labels:
        modules["output/classifier"] = [_CLASSIFIER]
    return modules


def _norm(name: str) -> list[str]:
    return [f"{name}.weight", f"{name}.bias"]


def _mixer(unit: str, name: str, kind: str) -> dict[str, list[str]]:
    modules = {f"{unit}.{m}": [f"{name}.{m}.weight"] for m in _MATRICES[kind]}
    vectors = ["time_decay", "time_first"] if kind == "att" else []
    vectors += [f"time_mix_{z}" for z in _MIXES[kind]]
    return modules | {f"{unit}.time": [f"{name}.{v}" for v in vectors]}


def _kind(unit: str) -> BlockKind:
    if unit == "input":
        return "input"
    return "output" if unit == "output" else "attention"


def _role(name: str) -> Role:
    if name == _EMB:
        return "embedding"
    if name in (_HEAD, _CLASSIFIER):
        return "head"
    part = name.split(".")[-2 if name.endswith((".weight", ".bias")) else -1]
    if part.startswith("ln"):
        return "norm"
    if part.startswith("time_mix"):
        return "mix"
    return "decay" if part.startswith("time_") else "matrix"


def _is_live(name: str, kind: Kind, has_classifier: bool) -> bool:
    if name == _CLASSIFIER:
        return kind == "classification"
    return name != _HEAD or kind == "lm" or not has_classifier


def _owners(live: Mapping[str, bool], ties: Mapping[str, str]) -> dict[str, str]:
    """Return name → the tensor that counts for it: the first live one of those that share a storage."""
    groups: dict[str, list[str]] = {}
    for name in live:
        groups.setdefault(ties.get(name, name), []).append(name)
    owners: dict[str, str] = {}
    for names in groups.values():
        counted = next((name for name in names if live[name]), names[0])
        owners |= dict.fromkeys(names, counted)
    return owners


def _check_complete(placed: set[str], shapes: Shapes) -> None:
    for name in shapes:
        if name not in placed:
            raise ModelError(f"tensor {name!r} has no place in SpikeGPT; load the model with its own config.")
    for name in sorted(placed):
        if name not in shapes:
            raise ModelError(f"tensor {name!r} is missing; load the complete checkpoint.")
