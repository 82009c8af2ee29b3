"""What ``model info`` shows: a model's blocks, modules and tensors with their sizes and shares."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

from qslm_opt.cli.output import table

if TYPE_CHECKING:
    from rich.table import Table

    from qslm_opt.hierarchy.tree import Block, Hierarchy, Module, TensorInfo
    from qslm_opt.models.declared import DescribedModel
    from qslm_opt.models.loading import LoadedModel

LEGEND = "dead: the task never reads it; signs: it reads only the signs; blocks that are alike are added up"


@dataclass(frozen=True)
class Row:
    """One line of the tree: a block, or a module in it. Sizes are sums over all blocks that it stands for."""

    unit: str
    depth: int
    shape: str
    """Shape of each tensor; empty for a block."""
    params: int
    roles: str
    notes: str


def headlines(model: LoadedModel | DescribedModel) -> Iterator[str]:
    """Yield what a model is."""
    config = model.config
    yield (
        f"{model.source}: {config.describe()}, vocabulary {config.vocabulary:,}, "
        f"{config.labels or 'no'} labels"
    )
    hash_, tokenizer = _loaded(model)
    tokens = "none beside it" if tokenizer is None else f"{tokenizer:,} tokens"
    if hash_ is not None:
        yield f"{len(model.shapes)} tensors, tokenizer: {tokens}, weights {hash_[:16]}"
    else:
        fetched = getattr(model, "fetched", ())
        by = f"{' and '.join(fetched)} alone: no weights were fetched" if fetched else (
            "its config alone: there are no weights"
        )  # fmt: skip
        yield f"{len(model.shapes)} tensors by {by}{'' if tokenizer is None else f'; tokenizer: {tokens}'}"
    if model.assumptions:
        yield model.assumptions
    if left_out := getattr(model, "left_out", ""):
        yield left_out


def _loaded(model: LoadedModel | DescribedModel) -> tuple[str | None, int | None]:
    """Return the hash of the weights and the size of the tokenizer; None where there is none."""
    words = getattr(model, "tokenizer", None)
    return getattr(model, "weights_hash", None), words.get_vocab_size() if words else None


def model_json(model: LoadedModel | DescribedModel, hierarchy: Hierarchy, kind: str) -> dict[str, Any]:
    """Return the JSON object of ``model info --json``; the hash is null where there are no weights."""
    hash_, tokenizer = _loaded(model)
    stored, live = totals(hierarchy)
    return {
        "model": model.source,
        "family": hierarchy.family,
        "kind": kind,
        "config": model.config.to_dict(),
        "assumed": model.assumed,
        "left_out": getattr(model, "left_out", "") or None,
        "weights_hash": hash_,
        "fetched": list(getattr(model, "fetched", ())),
        "tokenizer": tokenizer,
        "tensors": len(model.shapes),
        "params": {"all": stored, "live": live},
        "bytes": {"all": 4 * stored, "live": 4 * live},
        "ties": model.ties,
        "blocks": [_block_json(block, stored) for block in hierarchy.blocks],
    }


def totals(hierarchy: Hierarchy) -> tuple[int, int]:
    """Return (stored, live) parameters; tied tensors count once."""
    tensors = list(hierarchy.tensors())
    return _stored(tensors), sum(t.numel for t in tensors if t.counted)


def model_table(hierarchy: Hierarchy, kind: str, every: bool, shapes: bool = True) -> Table:
    """Return the tree as a table, without ``shapes`` for a narrow terminal.

    Blocks that are alike share one line each unless ``every``.
    """
    stored, live = totals(hierarchy)
    texts = ("unit", "shape", "role", "") if shapes else ("unit", "role", "")
    found = table(*texts, "params", "MB fp32", "share", left=len(texts))
    found.collapse_padding = True
    for row in rows(hierarchy, every):
        style = "bold" if row.depth == 0 else "dim" if "dead" in row.notes else None
        found.add_row(*_cells(row, stored, shapes), style=style)
    found.add_section()
    for name, params in ((f"live for {kind}", live), ("all", stored)):
        found.add_row(*_cells(Row(name, 0, "", params, "", ""), stored, shapes), style="bold")
    return found


def rows(hierarchy: Hierarchy, every: bool) -> Iterator[Row]:
    """Yield the lines of the table: each block, then its modules."""
    for _, group in groupby(hierarchy.blocks, lambda block: block.unit if every else _likeness(block)):
        blocks = list(group)
        first, count = blocks[0], len(blocks)
        name = f"{first.unit}…{blocks[-1].unit.partition('.')[2]} ({count})" if count > 1 else first.unit
        yield Row(name, 0, "", sum(_stored(b.tensors()) for b in blocks), "", "")
        for module in first.modules:
            row = _module_row(module)
            yield replace(row, params=count * row.params)


def _likeness(block: Block) -> tuple[Any, ...]:
    """Return what two blocks have in common when one line can stand for both."""
    return block.kind, tuple((_name(m), tuple(_traits(t) for t in m.tensors)) for m in block.modules)


def _traits(tensor: TensorInfo) -> tuple[Any, ...]:
    return tensor.shape, tensor.role, tensor.live, tensor.sign_only, tensor.tied_to


def _name(module: Module) -> str:
    return module.unit.partition("/")[2]


def _module_row(module: Module) -> Row:
    tensors = module.tensors
    shapes = dict.fromkeys("×".join(map(str, t.shape)) or "scalar" for t in tensors)
    roles = dict.fromkeys(t.role for t in tensors)
    notes = {
        "dead": any(not t.live for t in tensors),
        "signs": any(t.sign_only for t in tensors),
        **{f"tied to {t.tied_to}": True for t in tensors if t.tied_to},
    }
    told = [note for note, holds in notes.items() if holds]
    return Row(_name(module), 1, ", ".join(shapes), _stored(tensors), ", ".join(roles), ", ".join(told))


def _stored(tensors: Iterable[TensorInfo]) -> int:
    return sum(t.numel for t in tensors if t.tied_to is None)


def _cells(row: Row, stored: int, shapes: bool) -> tuple[str, ...]:
    texts = ("  " * row.depth + row.unit, *([row.shape] if shapes else []), row.roles, row.notes)
    share = f"{100 * row.params / stored:.3f} %"
    return *texts, f"{row.params:,}", f"{4 * row.params / 1e6:,.3f}", share


def _block_json(block: Block, stored: int) -> dict[str, Any]:
    modules = [
        {
            "unit": module.unit,
            **_sizes(module.tensors, stored),
            "searched": module.searched,
            "tensors": [_tensor_json(tensor) for tensor in module.tensors],
        }
        for module in block.modules
    ]
    return {"unit": block.unit, "kind": block.kind, **_sizes(block.tensors(), stored), "modules": modules}


def _sizes(tensors: Iterable[TensorInfo], stored: int) -> dict[str, Any]:
    params = _stored(tensors)
    return {"params": params, "bytes": 4 * params, "share": params / stored}


def _tensor_json(tensor: TensorInfo) -> dict[str, Any]:
    own = vars(tensor)  # a copy by asdict takes ten times as long, and a model may have 500,000 tensors
    return {**own, "shape": list(tensor.shape), "params": tensor.numel, "bytes": 4 * tensor.numel}
