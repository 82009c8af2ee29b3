"""The family of a mapping file: the arithmetic is the user's own module, called with our tensors."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from qslm_opt.errors import ModelError
from qslm_opt.models.family import Encoding, Family
from qslm_opt.models.mapping.calls import Caller, Enough, picked, reduced
from qslm_opt.models.mapping.config import MappedConfig, config_of
from qslm_opt.models.mapping.keys import MappingFile, read_mapping

if TYPE_CHECKING:
    from qslm_opt.kernels.ops import Ops
    from qslm_opt.models.config import ModelConfig
    from qslm_opt.models.family import Fired, Inputs, Tensors
    from qslm_opt.models.mapping.facts import Facts


def open_mapping(path: Path) -> MappedFamily:
    """Read a mapping file; the module is built when something of it is asked for.

    Raises:
        ModelError, UsageError, SpecError: the file cannot be read, or says something that cannot be.
    """
    return MappedFamily(read_mapping(path))


class MappedFamily(Family):
    """A family whose arithmetic a mapping file names."""

    tokens_anywhere: ClassVar[bool] = True

    def __init__(self, mapping: MappingFile) -> None:
        """Make the config class of ``mapping``."""
        self.mapping = mapping
        self.config_class: type[ModelConfig] = config_of(mapping)  # type: ignore[misc]

    def recognises(self, names: Collection[str]) -> bool:
        """See ``Family``: a checkpoint with every tensor that is read."""
        facts = self._usual().facts
        return {name for name, part in facts.parts.items() if part != "aux"} <= set(names)

    def _usual(self, **values: Any) -> MappedConfig:
        config = self.config_class(**values)
        assert isinstance(config, MappedConfig)
        return config

    def canonical(self, stored: Mapping[str, Tensor], values: Mapping[str, Any]) -> dict[str, Tensor]:
        """See ``Family``; a tie that is stored under one name has all, counters are checked and gone."""
        declared = self.declared(values)
        self.config_class.check_keys(declared)
        built = self._usual(**declared).built
        found = dict(stored)
        for name, tensor in built.others.items():
            own = found.pop(name, tensor)
            if own.shape != tensor.shape or not torch.equal(own.cpu(), tensor.cpu()):
                raise ModelError(
                    f"tensor {name!r} is no float and other than the module is built with; build it with "
                    "what the checkpoint has."
                )
        for name, tensor in built.state.items():
            twin = next((n for n, t in built.state.items() if t is tensor and n in found), None)
            if name not in found and twin is not None:
                found[name] = found[twin]
        return found

    def encoding(self, config: ModelConfig) -> Encoding:
        """See ``Family``."""
        said = self.mapping.tables["encoding"]
        return Encoding(said["special"], said["longest"] or said["pad_to"] or None, said["pad_to"] or None)

    # ------------------------------------------------------------------------------------- arithmetic
    def products(self, config: ModelConfig) -> dict[str, bool]:
        """See ``Family``: the weights of linear layers that nothing else reads."""
        shapes = config.tensor_shapes()
        return {name: head for name, head in _facts(config).products.items() if name in shapes}

    def read_by_row(self, config: ModelConfig) -> tuple[str, ...]:
        """See ``Family``: embeddings that nothing else reads."""
        return tuple(name for name in _facts(config).by_row if name in config.tensor_shapes())

    def reuses(self, config: ModelConfig) -> bool:
        """See ``Family``: where blocks are called one after the other, each on what the last returned."""
        return bool(_facts(config).calls)

    def embed(self, p: Tensors, config: ModelConfig, inputs: Inputs, ops: Ops, fired: Fired) -> Tensor:
        """See ``Family``: what block 0 is called with [calls, …]; anything where nothing is reused."""
        facts, caller = _facts(config), _caller(p, config, inputs, ops)
        if not facts.calls:
            return torch.zeros(inputs.ids.shape, device=inputs.ids.device)
        found: list[Tensor] = []

        def first(x: Tensor, *more: Any, **named: Any) -> Tensor:
            found.append(x)
            if len(found) == facts.calls:
                raise Enough
            return x

        patches: dict[str, Callable[..., Any]] = dict.fromkeys(facts.blocks[1:], _same)
        caller.whole(_sites(facts, None), fired, {**patches, facts.blocks[0]: first})
        return torch.stack(found)

    def run_block(
        self, p: Tensors, config: ModelConfig, i: int, x: Tensor, inputs: Inputs, ops: Ops, fired: Fired
    ) -> Tensor:
        """See ``Family``; where nothing is reused, the last block computes the whole module."""
        facts, caller = _facts(config), _caller(p, config, inputs, ops)
        if facts.calls:
            return caller.part(facts.blocks[i], x, facts.more[i], _sites(facts, i), fired)
        return x if i < config.blocks - 1 else self._result(caller, facts, facts.sites, fired, {})

    def finish(self, p: Tensors, config: ModelConfig, x: Tensor, inputs: Inputs, ops: Ops) -> Tensor:
        """See ``Family``: class logits [B, C], or what the head reads [B, T, D]."""
        facts, caller = _facts(config), _caller(p, config, inputs, ops)
        if not facts.calls:
            return x
        calls = iter(x)
        patches: dict[str, Callable[..., Any]] = dict.fromkeys(facts.blocks, _same)
        patches[facts.blocks[-1]] = lambda *_, **__: next(calls)
        return self._result(caller, facts, {}, None, patches)

    def _result(
        self, caller: Caller, facts: Facts, sites: Any, fired: Fired | None,
        patches: dict[str, Callable[..., Any]],
    ) -> Tensor:  # fmt: skip
        said = self.mapping.tables["output"]
        if said["kind"] == "tokens":
            return caller.before_head(said["head"], sites, fired, patches)
        out = picked(caller.whole(sites, fired, patches), said["item"])
        return reduced(out, said["axes"] or "BC", said["reduce"])

    def head(self, config: ModelConfig) -> str:
        """See ``Family``."""
        return str(self.mapping.get("output", "head"))

    def class_logits(
        self, p: Tensors, config: ModelConfig, h: Tensor, inputs: Inputs, ops: Ops
    ) -> Tensor:
        """See ``Family``: ``finish`` computed them."""
        return h


def _same(x: Tensor, *_: Any, **__: Any) -> Tensor:
    """Stand in for a block whose result is not needed."""
    return x


def _facts(config: ModelConfig) -> Facts:
    assert isinstance(config, MappedConfig)
    return config.facts


def _caller(p: Tensors, config: ModelConfig, inputs: Inputs, ops: Ops) -> Caller:
    assert isinstance(config, MappedConfig)
    return Caller(config.file, config.built, p, inputs, ops)


def _sites(facts: Facts, block: int | None) -> dict[str, Any]:
    """Return the sites of one block; None: of the input."""
    return {name: facts.sites[name] for name, site in facts.places.items() if site.block == block}
