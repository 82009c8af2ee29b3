"""The config of a mapped model: the arguments of the function that builds its module."""

from __future__ import annotations

from abc import ABC
from dataclasses import asdict, dataclass, field, make_dataclass, replace
from functools import cached_property, lru_cache
from math import isfinite
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from qslm_opt.errors import ModelError, did_you_mean
from qslm_opt.models.config import MOST_STEPS, ModelConfig, at_least, at_most

if TYPE_CHECKING:
    from qslm_opt.models.config import Kind, Shapes, Site
    from qslm_opt.models.mapping.built import Built
    from qslm_opt.models.mapping.facts import Facts
    from qslm_opt.models.mapping.keys import MappingFile

LARGER = 16
"""An integer may be so many times what the mapping file says: another value may come from a damaged file."""
_KINDS = {bool: "bool", int: "int", float: "float", str: "str"}
M = TypeVar("M", bound="MappedConfig")


@dataclass(frozen=True)
class MappedConfig(ModelConfig, ABC):
    """What all mapped models share; ``config_of`` makes the class of one mapping file."""

    file: ClassVar[MappingFile]

    mapping: str
    """SHA-256 (hex) of the mapping file."""
    lean_model: bool
    """Whether it is without the tensors that no task reads."""

    def __post_init__(self) -> None:
        if self.mapping != self.file.digest:
            raise ModelError(
                f"the model was made with mapping file {self.mapping[:12]}…, and {str(self.file.path)!r} is "
                f"{self.file.digest[:12]}…; give the file it was made with."
            )
        at_least(1, timesteps=self.timesteps)
        at_most(MOST_STEPS, timesteps=self.timesteps)
        fixed = self.file.get("", "timesteps")
        if isinstance(fixed, int) and self.timesteps != fixed:
            raise ModelError(
                f"config key 'timesteps' is {self.timesteps}, but the mapping file fixes it at {fixed}; name "
                "the argument that it is there."
            )
        for key, usual in self.file.arguments.items():
            if key in self.key_names():
                _check_argument(key, getattr(self, key), usual)

    # ---------------------------------------------------------------------------------------- the module
    def arguments(self) -> dict[str, Any]:
        """Return the keywords of the function that builds the module."""
        own = self.key_names()
        found = {k: getattr(self, k) if k in own else v for k, v in self.file.arguments.items()}
        steps = self.file.steps_argument
        return found if steps is None else {**found, steps: self.timesteps}

    @property
    def built(self) -> Built:
        """The module; building it runs the user's code."""
        return _built(self._whole)[0]

    @property
    def facts(self) -> Facts:
        """What the module is."""
        return _built(self._whole)[1]

    @cached_property
    def _whole(self) -> MappedConfig:
        return replace(self, lean_model=False) if self.lean_model else self

    # --------------------------------------------------------------------------------------------- sizes
    @property
    def blocks(self) -> int:
        """See ``ModelConfig``."""
        return len(self.facts.blocks)

    @property
    def vocabulary(self) -> int:
        """See ``ModelConfig``."""
        said = self.file.get("", "vocabulary")
        return int(getattr(self, said)) if isinstance(said, str) and said else self.facts.vocabulary

    @property
    def labels(self) -> int:
        """See ``ModelConfig``."""
        return self.facts.labels

    @property
    def generates(self) -> bool:
        """See ``ModelConfig``."""
        return bool(self.file.get("output", "kind") == "tokens")

    @property
    def longest(self) -> int | None:
        """See ``ModelConfig``."""
        return self.file.get("encoding", "pad_to") or self.file.get("encoding", "longest") or None

    @property
    def stream_width(self) -> int:
        """See ``ModelConfig``."""
        return self.facts.stream_width

    @property
    def widest(self) -> int:
        """See ``ModelConfig``."""
        return self.facts.widest

    def describe(self) -> str:
        """See ``ModelConfig``."""
        steps = "1 step" if self.timesteps == 1 else f"{self.timesteps} steps"
        return f"{self.title} by {self.file.path.name}, {self.blocks} blocks, {steps}"

    # ----------------------------------------------------------------------------------------- structure
    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """See ``ModelConfig``."""
        parts, state = self.facts.parts, self.built.state
        return {
            name: tuple(tensor.shape)
            for name, tensor in state.items()
            if not (self.lean_model and parts[name] == "aux")
        }

    def modules(self) -> dict[str, list[str]]:
        """See ``ModelConfig``."""
        order = ("input", *(f"attention.{i}" for i in range(self.blocks)), "output", "aux")
        found: dict[str, list[str]] = {}
        names = list(self.tensor_shapes())
        for part in order:
            for name in (name for name in names if self.facts.parts[name] == part):
                found.setdefault(f"{part}/{self.facts.owners[name]}", []).append(name)
        return found

    def role(self, name: str) -> Any:
        """See ``ModelConfig``."""
        return self.facts.roles[name]

    def is_live(self, name: str, kind: Kind) -> bool:
        """See ``ModelConfig``."""
        return self.facts.parts[name] != "aux"

    def reads_sign_only(self, name: str) -> bool:
        """See ``ModelConfig``."""
        from fnmatch import fnmatchcase

        return any(fnmatchcase(name, pattern) for pattern in self.file.roles.get("sign_only", ()))

    def lean(self: M, kind: Kind) -> M:
        """See ``ModelConfig``: without aux."""
        has_aux = "aux" in self.facts.parts.values()
        return replace(self, lean_model=True) if has_aux else self

    def sites(self) -> dict[str, Site]:
        """See ``ModelConfig``."""
        return dict(self.facts.places)

    @classmethod
    def from_shapes(cls: type[M], shapes: Shapes, **given: Any) -> M:
        """See ``ModelConfig``: sizes are what the mapping file, or a key, says."""
        known = cls.key_names()
        for key in given:
            if key not in known:
                raise ModelError(f"config key {key!r} is unknown.{did_you_mean(key, known)}")
        config = cls(**{"lean_model": False, **given})
        names = set(config.tensor_shapes())
        if config.facts.parts and not names & set(shapes):
            raise ModelError(
                f"the checkpoint is none of {cls.title}: it has no {next(iter(config.tensor_shapes()))!r}."
            )
        aux = {name for name, part in config.facts.parts.items() if part == "aux"}
        lean = bool(aux) and not aux & set(shapes)
        return replace(config, lean_model=given.get("lean_model", lean))

    def semantics(self) -> dict[str, Any]:
        """See ``ModelConfig``: every argument, for the shapes of tensors need not tell it."""
        return {key: value for key, value in asdict(self).items() if key != "lean_model"}


@lru_cache(maxsize=8)
def _built(config: MappedConfig) -> tuple[Built, Facts]:
    from qslm_opt.models.mapping.built import build
    from qslm_opt.models.mapping.facts import look

    built = build(config.file, config.arguments())
    return built, look(config.file, built, config.timesteps)


def config_of(mapping: MappingFile) -> type[MappedConfig]:
    """Return the config class of a mapping file: a key for each argument that is a number, text or bool.

    Raises:
        ModelError: an argument has a name that configs use otherwise.
    """
    steps, arguments = mapping.steps_argument, mapping.arguments
    for key in arguments:
        if key != steps and (hasattr(MappedConfig, key) or key in _declared()):
            raise ModelError(
                f"mapping file {str(mapping.path)!r}: argument {key!r} has a name that configs use "
                "otherwise; build by a function of your own that calls it by another."
            )
    keys: list[tuple[str, Any, Any]] = [
        (key, _KINDS[type(value)], field(default=value))
        for key, value in arguments.items()
        if type(value) in _KINDS and key != steps
    ]
    usual = int(arguments[steps]) if steps is not None else int(mapping.get("", "timesteps"))
    keys += [
        ("mapping", "str", field(default=mapping.digest)), ("timesteps", "int", field(default=usual)),
        ("lean_model", "bool", field(default=False)),
    ]  # fmt: skip
    own = {"family": mapping.family, "title": mapping.get("", "title") or mapping.get("", "name"),
           "file": mapping, "__module__": __name__,
           "told_by_family": tuple(name for name, *_ in keys)}  # fmt: skip
    made: type[MappedConfig] = make_dataclass("Mapped", keys, bases=(MappedConfig,), frozen=True,
                                              namespace=own)  # fmt: skip
    return made


def _declared() -> set[str]:
    """Return the names that configs declare, with or without a value of the class itself."""
    return {name for base in MappedConfig.__mro__ for name in vars(base).get("__annotations__", {})}


def _check_argument(key: str, value: Any, usual: Any) -> None:
    if type(usual) is int and value != usual:
        at_least(0, **{key: value})
        at_most(LARGER * max(1, abs(usual)), **{key: value})
    if type(usual) is float and not isfinite(value):
        raise ModelError(f"config key {key!r} is {value}; it must be finite.")

