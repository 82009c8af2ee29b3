"""What a model is before any number of it is read: sizes, tensors, and their place in the tree. No torch.

A family's config is a frozen dataclass of JSON values. Everything that the search needs to know of a model's
structure is asked of it, so a model can be described, and its bytes counted, without its weights.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from math import inf
from types import NoneType
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, get_args

from qslm_opt.errors import ModelError, did_you_mean

if TYPE_CHECKING:
    from typing import Literal

    from qslm_opt.hierarchy.tree import Role
    from qslm_opt.models.packed import PackedModel

    Kind = Literal["classification", "lm"]
    Shapes = Mapping[str, tuple[int, ...]]

_TYPES: Mapping[str, tuple[tuple[type, ...], str]] = {
    "int": ((int,), "a whole number"), "str": ((str,), "a text"), "bool": ((bool,), "true or false"),
    "float": ((int, float), "a finite number"), "int | None": ((int, type(None)), "a whole number"),
}  # fmt: skip
MOST_BLOCKS = 10_000
MOST_STEPS = 4096
"""Most time steps of a model."""
STEPS = ("timesteps", "T")
"""The config key of the number of time steps, which ``--timesteps`` sets, and the other word for it."""
MOST_SIZE = 2**24
"""Most rows or columns of a tensor."""
_LONGEST = 80
"""So many characters of a wrong value are shown."""
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
    """Sizes and semantics of one model of a family; a subclass is a frozen dataclass of JSON values.

    Its fields are ``int``, ``float``, ``bool``, ``str`` or ``int | None``.
    """

    family: ClassVar[str]
    """Name that the registry knows, such as ``spikegpt``."""
    title: ClassVar[str]
    """Name of the family for people, such as ``SpikeGPT``."""
    told_by_shapes: ClassVar[tuple[str, ...]] = ()
    """Keys of ``semantics`` that ``from_shapes`` reads off the tensors, where it can."""
    told_by_family: ClassVar[tuple[str, ...]] = ()
    """Keys of ``semantics`` that the family itself says: the arguments of a mapping file."""
    words: ClassVar[Mapping[str, str]] = {}
    """Another word for a key, as files of the originals and of Hugging Face's library have it → the key."""
    bounds: ClassVar[Mapping[str, tuple[float, float]]] = {}
    """Key of a number → its least and its most value."""
    untold: ClassVar[tuple[str, ...]] = ()
    """Keys that a model needs and no shape tells, without a default or with one that means: not given."""

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
    def key_types(cls) -> dict[str, str]:
        """Return key → its type: ``int``, ``float``, ``bool``, ``str`` or ``int | None``.

        A type may be annotated as a class or as text, that is with and without deferred annotations.

        Raises:
            ModelError: a field of the class has another type.
        """
        found = {f.name: _type_name(f.type) for f in fields(cls)}
        for key, kind in found.items():
            if kind not in _TYPES:
                raise ModelError(
                    f"field {key!r} of config class {cls.__name__} is of type {kind!r}; it must be one of "
                    f"{', '.join(_TYPES)}: change its annotation."
                )
        return found

    @classmethod
    def needed(cls) -> tuple[str, ...]:
        """Return the keys that must be told by tensors, by files or by the user."""
        bare = (f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING)
        return tuple(dict.fromkeys((*bare, *cls.untold)))

    @classmethod
    def all_words(cls, key: str) -> str:
        """Return a key with its other words in brackets."""
        others = [word for word, meant in cls.words.items() if meant == key]
        return f"{key} (or {', '.join(others)})" if others else key

    @classmethod
    def own_keys(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a user gave, in this config's own words.

        Raises:
            ModelError: a key is unknown, its value cannot be, or two words of one key have different values.
        """
        cls.check_keys(values)
        said: dict[str, str] = {}
        for word, value in values.items():
            other = said.setdefault(cls.words.get(word, word), word)
            if values[other] != value:
                raise ModelError(
                    f"config key {word!r} is {value!r} and {other!r}, which is another word for it, is "
                    f"{values[other]!r}; give one of them."
                )
        return {key: values[word] for key, word in said.items()}

    @classmethod
    def check_keys(cls, values: Mapping[str, Any]) -> None:
        """Raise ModelError for a key that is unknown, or a value of another type or out of its bounds."""
        kinds = cls.key_types()
        for word, value in values.items():
            key = cls.words.get(word, word)
            if key not in kinds:
                raise ModelError(cls._unknown(word))
            types, article = _TYPES[kinds[key]]
            if type(value) not in types:
                raise ModelError(
                    f"config key {word!r} is {shown(value)}; it must be {article}: {_correct(word)}."
                )
            if key in cls.bounds and value is not None:
                _check_bounds(word, value, cls.bounds[key])

    @classmethod
    def _unknown(cls, word: str) -> str:
        if word in STEPS and STEPS[0] not in cls.key_names():
            return f"a {cls.title} has no time steps; leave --timesteps, or config key {word!r}, out."
        known = (*cls.key_names(), *cls.words)
        more = f" (or, by other words, {', '.join(cls.words)})" if cls.words else ""
        return (
            f"config key {shown(word)} is unknown; a model of family {cls.family} has "
            f"{', '.join(cls.key_names())}{more}.{did_you_mean(word, known)}"
        )

    def check_bounds(self) -> None:
        """Raise ModelError for a number out of its ``bounds``; what nobody gave is left to the caller."""
        unset = {f.name: f.default for f in fields(self) if f.name in self.untold}
        for key, bounds in self.bounds.items():
            value = getattr(self, key)
            if key not in unset or value != unset[key]:
                _check_bounds(key, value, bounds)


def _type_name(kind: Any) -> str:
    """Return an annotation of a field as it is written, None last."""
    args = [part for part in get_args(kind) if part is not NoneType]
    if len(args) == 1 and NoneType in get_args(kind):
        kind = f"{_type_name(args[0])} | None"
    text = kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind)
    text = re.sub(r"^(?:typing\.)?Optional\[(.*)\]$", r"\1 | None", text.strip("'\" "))
    parts = [part.strip() for part in text.split("|")]
    return " | ".join(sorted(parts, key="None".__eq__))


def block_count(shapes: Shapes, prefix: str) -> int:
    """Return one more than the largest N of the names ``{prefix}N.…``; 0 where there is none."""
    places = (name[len(prefix) :].partition(".")[0] for name in shapes if name.startswith(prefix))
    found = [int(place) for place in places if place.isascii() and place.isdecimal() and len(place) < 6]
    return min(max(found, default=-1) + 1, MOST_BLOCKS)


def at_least(least: float, **sizes: float) -> None:
    """Raise ModelError for a size below ``least``."""
    for key, value in sizes.items():
        _check_bounds(key, value, (least, inf))


def at_most(most: float, **sizes: float) -> None:
    """Raise ModelError for a size above ``most``."""
    for key, value in sizes.items():
        if value > most:
            _check_bounds(key, value, (-inf, most))


def _check_bounds(word: str, value: float, bounds: tuple[float, float]) -> None:
    least, most = bounds
    if not value >= least:
        raise ModelError(
            f"config key {word!r} is {shown(value)}; it must be at least {_number(least)}: {_correct(word)}."
        )
    if value > most:
        raise ModelError(
            f"config key {word!r} is {shown(value)}; it must be at most {_number(most)}: {_correct(word)}."
        )


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def shown(value: Any) -> str:
    """Return a value as it stands, cut where it is long."""
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _correct(word: str) -> str:
    return f"correct it in config.json, or give --config {word}=VALUE"


def need_head(
    config: ModelConfig, source: str, task: str, kind: Kind, packed: PackedModel | None = None
) -> None:
    """Raise ModelError where a model, packed or not, has no head for the task."""
    if packed is not None and packed.kind != kind:
        raise ModelError(
            f"model {source!r} is packed for {packed.kind} and has no head for task {task!r}; "
            "pack the original for that task."
        )
    if kind == "classification" and not config.labels:
        raise ModelError(
            f"task {task!r} needs a classification head, but {source!r} has none; "
            "fine-tune the model for the task first."
        )
    if kind == "lm" and not config.generates:
        raise ModelError(
            f"task {task!r} needs a language-model head, but {source!r} has none; "
            "use the checkpoint that still has it."
        )


def affine_shapes(name: str, out: int, width: int) -> Shapes:
    """Return the tensors of an affine map from ``width`` to ``out`` numbers."""
    return {f"{name}.weight": (out, width), f"{name}.bias": (out,)}


def norm_shapes(name: str, width: int) -> Shapes:
    """Return the tensors of a LayerNorm."""
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def pair(name: str) -> list[str]:
    """Return the names of a weight and its bias."""
    return [f"{name}.weight", f"{name}.bias"]
