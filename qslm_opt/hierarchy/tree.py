"""The hierarchy of a model: network → blocks → modules → tensors. No torch here.

A unit is what a setting can name: ``network``, a block (``input``, ``attention.7``, ``output``) or a
module (``attention.7/att.key``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from math import prod
from typing import Any, Literal

from qslm_opt.errors import SettingError, did_you_mean

Role = Literal["embedding", "matrix", "head", "norm", "bias", "mix", "decay", "neuron"]
"""``neuron`` is a number that neurons compute with, such as the amplitude of spikes: always float32."""
BlockKind = Literal["input", "attention", "output", "aux"]
"""``aux`` holds what is stored and no task reads."""

NETWORK = "network"
SEARCHED_ROLES: frozenset[str] = frozenset({"embedding", "matrix", "head"})


@dataclass(frozen=True)
class TensorInfo:
    """One stored tensor."""

    name: str
    """Name in the checkpoint, for instance ``blocks.7.att.key.weight``."""
    shape: tuple[int, ...]
    role: Role
    live: bool = True
    """False when the task never reads it (the LM head in classification)."""
    sign_only: bool = False
    """True when the model reads only the sign (an embedding under Heaviside)."""
    tied_to: str | None = None
    """Name of the tensor whose storage this one shares; tied tensors count once."""

    @property
    def numel(self) -> int:
        """Number of weights."""
        return prod(self.shape)

    @property
    def searched(self) -> bool:
        """Whether its bits are searched; the others stay at the setting's fixed format."""
        return self.live and self.tied_to is None and self.role in SEARCHED_ROLES

    @property
    def exact(self) -> bool:
        """Whether it is float32 in every setting, and does not learn when one is tuned."""
        return self.role == "neuron"

    @property
    def counted(self) -> bool:
        """Whether its bytes count: live for the task and not a tie."""
        return self.live and self.tied_to is None


@dataclass(frozen=True)
class Module:
    """A named group of tensors inside a block."""

    unit: str
    tensors: tuple[TensorInfo, ...]

    @property
    def searched(self) -> bool:
        """Whether any of its tensors is searched."""
        return any(t.searched for t in self.tensors)


@dataclass(frozen=True)
class Block:
    """One block: the input, an attention block, the output, or what no task reads."""

    unit: str
    kind: BlockKind
    modules: tuple[Module, ...]

    def tensors(self) -> Iterator[TensorInfo]:
        """Yield the block's tensors in order."""
        for module in self.modules:
            yield from module.tensors


@dataclass(frozen=True)
class Hierarchy:
    """The whole tree, in the order in which the model computes."""

    family: str
    """Model family, for instance ``spikegpt``."""
    blocks: tuple[Block, ...]

    def tensors(self) -> Iterator[TensorInfo]:
        """Yield every stored tensor, in block order."""
        for block in self.blocks:
            yield from block.tensors()

    def modules(self) -> Iterator[Module]:
        """Yield every module, in block order."""
        for block in self.blocks:
            yield from block.modules

    def units(self) -> tuple[str, ...]:
        """Return every unit name: the network, then blocks and modules in order."""
        return self._units

    @cached_property
    def _units(self) -> tuple[str, ...]:
        names = [NETWORK]
        for block in self.blocks:
            names += [block.unit, *(m.unit for m in block.modules)]
        return tuple(names)

    def check_unit(self, unit: str) -> None:
        """Raise SettingError with the nearest unit unless ``unit`` is one of this hierarchy."""
        known = self.units()
        if unit not in known:
            raise SettingError(f"unit {unit!r} is not in this model.{did_you_mean(unit, known)}")

    def fp32_bytes(self) -> int:
        """Return the bytes of the counted tensors in float32: the unquantized memory m_o."""
        return sum(4 * t.numel for t in self.tensors() if t.counted)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready value that ``from_json`` reads back."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Hierarchy:
        """Rebuild a hierarchy from ``to_json``."""
        blocks = tuple(
            Block(b["unit"], b["kind"], tuple(_module(m) for m in b["modules"]))
            for b in value["blocks"]
        )
        return cls(value["family"], blocks)


def names_module(pattern: str, module: str) -> bool:
    """Return whether ``pattern`` names a module: itself or, without a ``/``, its block.

    Each side of the ``/`` is matched on its own, so ``*`` never crosses it.
    """
    block, slash, inside = pattern.strip().partition("/")
    name, _, rest = module.partition("/")
    return fnmatchcase(name, block) and (not slash or fnmatchcase(rest, inside))


def _module(value: Mapping[str, Any]) -> Module:
    tensors = (TensorInfo(**{**t, "shape": tuple(t["shape"])}) for t in value["tensors"])
    return Module(value["unit"], tuple(tensors))
