"""What a ``config.json`` says of a model: keys of its config, and a whole model without weights. No torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qslm_opt.errors import ModelError
from qslm_opt.models.config import MOST_BLOCKS, shown
from qslm_opt.models.family import bare
from qslm_opt.models.locate import find_tokenizer, weights_in
from qslm_opt.models.registry import family_names, family_of_type, open_family
from qslm_opt.models.words import read_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from qslm_opt.models.config import ModelConfig, Shapes
    from qslm_opt.models.family import Family

DEFAULTS = {"embed_spike": "on", "rescale_every": 0}
"""Config keys that have a flag of their own, with its default."""
CONFIG = "config.json"


class OpenConfigError(ModelError):
    """A config without weights does not say all that a model of its family needs."""

    def __init__(self, message: str, told_by_shapes: bool) -> None:
        """Note whether the shapes of the tensors would tell what is missing."""
        super().__init__(message)
        self.told_by_shapes = told_by_shapes


@dataclass(frozen=True)
class DescribedModel:
    """A model of which only the config is read."""

    config: ModelConfig
    source: str
    """The model as the user named it."""
    ties: dict[str, str] = field(default_factory=dict)
    """Name → name of the tensor whose storage it shares."""
    assumed: dict[str, Any] = field(default_factory=dict)
    """Config keys that change numbers and that neither the file nor the caller told, with their defaults."""
    tokenizer: Tokenizer | None = None
    """Only where the caller named one."""
    fetched: tuple[str, ...] = ()
    """What was fetched from the hub; empty for a local file."""

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Tensor name → shape."""
        return self.config.tensor_shapes()

    @property
    def assumptions(self) -> str:
        """What was assumed, in words; empty where nothing was."""
        return assumption_words(self.assumed)


def find_config(source: str) -> Path | None:
    """Return the config of a model without weights: a .json file, or that of a folder without weights."""
    path = Path(source).expanduser()
    if path.is_file():
        return path if path.suffix == ".json" else None
    config = path / CONFIG
    return config if config.is_file() and not weights_in(path) else None


def describe_model(
    source: str,
    path: Path,
    *,
    embed_spike: str = "on",
    rescale_every: int = 0,
    overrides: Mapping[str, Any] | None = None,
    family: str | None = None,
    tokenizer: str | None = None,
    shapes: Shapes | None = None,
) -> DescribedModel:
    """Return what the config at ``path`` says, without weights; the keywords are those of ``load_model``.

    Args:
        shapes: those of the checkpoint by stored name, where known: they tell what the file does not.

    Raises:
        ModelError: the file cannot be read, names no known family, or says what cannot be.
        OpenConfigError: it leaves keys open.
        UsageError: there is no such tokenizer.
    """
    values = read_config(path)
    kind = _family(path, values, family)
    declared = declared_keys(kind, path, values, alone=shapes is None)
    asked = {"embed_spike": embed_spike, "rescale_every": rescale_every}
    given = kind.config_class.own_keys(overrides or {})
    keys = {**declared, **asked_keys(kind, path, declared, asked), **given}
    kind.config_class.check_keys(keys)
    config = _whole(kind, path, keys) if shapes is None else _inferred(kind, shapes, keys)
    if config.blocks > MOST_BLOCKS:
        raise ModelError(
            f"config {str(path)!r} has {config.blocks:,} blocks; at most {MOST_BLOCKS:,} are described."
        )
    told = (*keys, *config.told_by_family, *(config.told_by_shapes if shapes is not None else ()))
    assumed = {key: value for key, value in config.semantics().items() if key not in told}
    words = read_tokenizer(find_tokenizer(tokenizer), config.vocabulary) if tokenizer else None
    return DescribedModel(config, source, kind.declared_ties(values), assumed, words)


def _whole(family: Family, path: Path, keys: Mapping[str, Any]) -> ModelConfig:
    """Return the config that the keys alone make; OpenConfigError, which names all that are missing."""
    made = family.config_class
    missing = [name for name in made.needed() if name not in keys]
    if missing:
        fix = " ".join(f"--config {name}=VALUE" for name in missing)
        named = ", ".join(map(made.all_words, missing))
        raise OpenConfigError(
            f"config {str(path)!r} does not say {named}, and there are no weights to tell; add "
            f"{'it' if len(missing) == 1 else 'them'}, or give {fix}.",
            told_by_shapes=not set(missing) & set(made.untold),
        )
    return made(**keys)


def _inferred(family: Family, shapes: Shapes, keys: Mapping[str, Any]) -> ModelConfig:
    """Return the config that names and shapes tell, and the keys, which win."""
    named = {bare(name, family.prefixes): tuple(shape) for name, shape in shapes.items()}
    try:
        return family.config_class.from_shapes(named, **keys)
    except (IndexError, ValueError, ZeroDivisionError):
        title = family.config_class.title
        raise ModelError(f"the checkpoint is no {title}; give another --family.") from None


def assumption_words(assumed: Mapping[str, Any]) -> str:
    """Return what was assumed, in words; empty where nothing was."""
    if not assumed:
        return ""
    said = ", ".join(f"{key} {'none' if value == '' else value}" for key, value in assumed.items())
    flag = "--timesteps T and --config KEY=VALUE say" if "timesteps" in assumed else "--config KEY=VALUE says"
    return f"assumed, as no file says it: {said}; {flag} otherwise"


def _family(path: Path, values: Mapping[str, Any], wanted: str | None) -> Family:
    if wanted is not None:
        return open_family(wanted)
    found = family_of_type(str(values.get("model_type")))
    if found is None:
        raise ModelError(
            f"config {str(path)!r} has model_type {shown(values.get('model_type'))}, by which no family is "
            f"known; give --family, one of {', '.join(family_names())}."
        )
    return found


def read_config(path: Path) -> dict[str, Any]:
    """Return a config.json as it stands; ModelError when it is no JSON object."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"config {str(path)!r} cannot be read: {error}.") from None
    if not isinstance(value, dict):
        raise ModelError(f"config {str(path)!r} is not a JSON object; write one, or remove the file.")
    return value


def declared_keys(
    family: Family, path: Path | None, values: Mapping[str, Any], *, alone: bool = False
) -> dict[str, Any]:
    """Return the config keys that the file says; ModelError, which names the file, where it cannot be.

    With ``alone`` there are no tensors to tell more, see ``Family.described``.
    """
    try:
        return family.described(values) if alone else family.declared(values)
    except ModelError as error:
        raise ModelError(f"config {str(path)!r}: {error}") from None


def asked_keys(
    family: Family, path: Path | None, declared: Mapping[str, Any], asked: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the keys with a flag as asked; refuse a config that differs from a default nobody chose."""
    own = family.config_class.key_names()
    for key, value in asked.items():
        default: Any = DEFAULTS[key]
        flag = f"--{key.replace('_', '-')}"
        if key not in own:
            if value != default:
                raise ModelError(f"{flag} {value} is SpikeGPT's, and this is a {family.name}; leave it out.")
            continue
        stated = declared.get(key, default)
        if value == default and stated != default:
            raise ModelError(
                f"config {str(path)!r} says {key} {shown(stated)} but {value!r} was asked; "
                f"give {flag} {str(stated)[:80]}, or change the key in the file."
            )
    return {key: value for key, value in asked.items() if key in own}
