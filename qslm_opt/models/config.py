"""What a model is before any number of it is read: sizes, tensors, and their place in the tree. No torch.

A family's config is a frozen dataclass of JSON values. Everything that the search needs to know of a model's
structure is asked of it, so a model can be described, and its bytes counted, without its weights.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from qslm_opt.errors import ModelError, did_you_mean

if TYPE_CHECKING:
    from typing import Literal

    from qslm_opt.hierarchy.tree import Role

    Kind = Literal["classification", "lm"]
    Shapes = Mapping[str, tuple[int, ...]]

_TYPES: Mapping[str, tuple[type, ...]] = {
    "int": (int,), "str": (str,), "bool": (bool,), "float": (int, float), "int | None": (int, type(None)),
}  # fmt: skip
MOST_BLOCKS = 10_000
MOST_STEPS = 4096
"""Most time steps of a model."""
C = TypeVar("C", bound="ModelConfig")


@dataclass(frozen=True)
class Site:
    """Neurons that fire together: what the firing rate is counted by."""

    block: int | None
    """Attention block that computes it; None is the input, in front of block 0."""
    width: int
    """Neurons per token."""


@dataclass(frozen=True)
class ModelConfig(ABC):
    """Sizes and semantics of one model of a family; a subclass is a frozen dataclass of JSON values."""

    family: ClassVar[str]
    """Name that the registry knows, such as ``spikegpt``."""
    title: ClassVar[str]
    """Name of the family for people, such as ``SpikeGPT``."""
    told_by_shapes: ClassVar[tuple[str, ...]] = ()
    """Keys of ``semantics`` that ``from_shapes`` reads off the tensors, where it can."""

    # ------------------------------------------------------------------------------------------ sizes
    @property
    @abstractmethod
    def blocks(self) -> int:
        """Number of attention blocks."""

    @property
    @abstractmethod
    def vocabulary(self) -> int:
        """Rows of the embedding: token ids are below it."""

    @property
    def labels(self) -> int:
        """Classes of the classification head; 0 where there is none."""
        return 0

    @property
    def generates(self) -> bool:
        """Whether there is a language-model head."""
        return False

    @property
    def timesteps(self) -> int:
        """Steps over which every token is presented; 1 where time is the token index."""
        return 1

    @property
    @abstractmethod
    def longest(self) -> int | None:
        """Most tokens of a sequence; None where any number works."""

    @property
    @abstractmethod
    def stream_width(self) -> int:
        """Numbers per token that stand between two blocks, in units of float32 where they are smaller."""

    @property
    @abstractmethod
    def widest(self) -> int:
        """Numbers per token that exist at once inside a block: what the size of a batch follows from."""

    @abstractmethod
    def describe(self) -> str:
        """Return the model in a few words, for instance ``SpikeGPT RWKV, 6 blocks of width 512``."""

    # -------------------------------------------------------------------------------------- structure
    @abstractmethod
    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return every tensor under its canonical name with its shape, in a fixed order.

        Tensors that are stored and that no task reads are among them, unless the config is ``lean``.
        """

    @abstractmethod
    def modules(self) -> dict[str, list[str]]:
        """Return unit → names of its tensors, in the order in which the model computes.

        Units are ``input/…``, ``attention.N/…``, ``output/…`` and, for what no task reads, ``aux/…``. Every
        tensor of ``tensor_shapes`` stands in exactly one.
        """

    @abstractmethod
    def role(self, name: str) -> Role:
        """Return what the tensor is; embeddings, matrices and heads are searched."""

    @abstractmethod
    def is_live(self, name: str, kind: Kind) -> bool:
        """Return whether a task of ``kind`` reads the tensor."""

    def reads_sign_only(self, name: str) -> bool:
        """Return whether the model reads no more than the tensor's signs."""
        return False

    def lean(self: C, kind: Kind) -> C:
        """Return the config of the same model without the tensors that a task of ``kind`` never reads."""
        return self

    @abstractmethod
    def sites(self) -> dict[str, Site]:
        """Return every group of neurons that fire, by name, in the order in which they compute."""

    # ------------------------------------------------------------------------------- reading, writing
    @classmethod
    @abstractmethod
    def from_shapes(cls: type[C], shapes: Shapes, **given: Any) -> C:
        """Infer the config from canonical names and shapes; keys in ``given`` win.

        Raises:
            ModelError: the names are not this family's, or a key is unknown.
        """

    @abstractmethod
    def semantics(self) -> dict[str, Any]:
        """Return the keys that the shapes of the tensors do not tell and that change what is computed."""

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dict that ``from_dict`` reads back."""
        return asdict(self)

    @classmethod
    def from_dict(cls: type[C], values: Mapping[str, Any]) -> C:
        """Rebuild from ``to_dict``; keys that are not this config's are ignored."""
        known = {f.name for f in fields(cls)}
        return cls(**{k: v for k, v in values.items() if k in known})

    @classmethod
    def key_names(cls) -> tuple[str, ...]:
        """Return the names of the config's keys."""
        return tuple(f.name for f in fields(cls))

    @classmethod
    def check_keys(cls, values: Mapping[str, Any]) -> None:
        """Raise ModelError for a key that is unknown or has a value of another type than the config's own."""
        kinds = {f.name: _TYPES[str(f.type)] for f in fields(cls)}
        for key, value in values.items():
            if key not in kinds:
                raise ModelError(f"config key {key!r} is unknown.{did_you_mean(key, kinds)}")
            if type(value) not in kinds[key]:
                raise ModelError(
                    f"config key {key!r} is {value!r}; write a value of type {kinds[key][0].__name__}."
                )


def block_count(shapes: Shapes, prefix: str) -> int:
    """Return one more than the largest N of the names ``{prefix}N.…``; 0 where there is none."""
    places = (name[len(prefix) :].partition(".")[0] for name in shapes if name.startswith(prefix))
    found = [int(place) for place in places if place.isascii() and place.isdecimal() and len(place) < 6]
    return min(max(found, default=-1) + 1, MOST_BLOCKS)


def at_least(least: float, **sizes: float) -> None:
    """Raise ModelError for a size below ``least``."""
    for key, value in sizes.items():
        if not value >= least:
            raise ModelError(f"config key {key!r} is {value}; it must be at least {least:g}.")


def at_most(most: float, **sizes: float) -> None:
    """Raise ModelError for a size above ``most``."""
    for key, value in sizes.items():
        if value > most:
            raise ModelError(f"config key {key!r} is {value}; it must be at most {most:g}.")


def affine_shapes(name: str, out: int, width: int) -> Shapes:
    """Return the tensors of an affine map from ``width`` to ``out`` numbers."""
    return {f"{name}.weight": (out, width), f"{name}.bias": (out,)}


def norm_shapes(name: str, width: int) -> Shapes:
    """Return the tensors of a LayerNorm."""
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def pair(name: str) -> list[str]:
    """Return the names of a weight and its bias."""
    return [f"{name}.weight", f"{name}.bias"]
