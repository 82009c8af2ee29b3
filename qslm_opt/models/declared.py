"""What a ``config.json`` says of a model: keys of its config, and a whole model without weights. No torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qslm_opt.errors import ModelError
from qslm_opt.models.config import MOST_BLOCKS
from qslm_opt.models.locate import weights_in
from qslm_opt.models.registry import family_names, family_of_type, open_family

if TYPE_CHECKING:
    from qslm_opt.models.config import ModelConfig
    from qslm_opt.models.family import Family

DEFAULTS = {"embed_spike": "on", "rescale_every": 0}
"""Config keys that have a flag of their own, with its default."""
CONFIG = "config.json"


@dataclass(frozen=True)
class DescribedModel:
    """A model of which only the config is there."""

    config: ModelConfig
    source: str
    """The model as the user named it."""
    ties: dict[str, str] = field(default_factory=dict)
    """Name → name of the tensor whose storage it shares."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Tensor name → shape."""
        return self.config.tensor_shapes()


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
) -> DescribedModel:
    """Return what the config at ``path`` says, without weights; the keywords are those of ``load_model``.

    Raises:
        ModelError: the file cannot be read, names no known family, or leaves a size open.
    """
    values = read_config(path)
    kind = _family(path, values, family)
    declared = declared_keys(kind, path, values)
    asked = {"embed_spike": embed_spike, "rescale_every": rescale_every}
    keys = {**declared, **asked_keys(kind, path, declared, asked), **(overrides or {})}
    made = kind.config_class
    made.check_keys(keys)
    needed = (f.name for f in fields(made) if f.default is MISSING and f.default_factory is MISSING)
    missing = [name for name in needed if name not in keys]
    if missing:
        raise ModelError(
            f"config {str(path)!r} does not say {', '.join(missing)}, and there are no weights to tell; add "
            f"{'it' if len(missing) == 1 else 'them'}, or give --config {missing[0]}=VALUE."
        )
    config = made(**keys)
    if config.blocks > MOST_BLOCKS:
        raise ModelError(
            f"config {str(path)!r} has {config.blocks:,} blocks; at most {MOST_BLOCKS:,} are described."
        )
    return DescribedModel(config, source, kind.declared_ties(values))


def _family(path: Path, values: Mapping[str, Any], wanted: str | None) -> Family:
    if wanted is not None:
        return open_family(wanted)
    found = family_of_type(str(values.get("model_type")))
    if found is None:
        raise ModelError(
            f"config {str(path)!r} has model_type {values.get('model_type')!r}, by which no family is known; "
            f"give --family, one of {', '.join(family_names())}."
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


def declared_keys(family: Family, path: Path | None, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config keys that the file says; ModelError, which names the file, where it cannot be."""
    try:
        return family.declared(values)
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
                f"config {str(path)!r} says {key} {stated!r} but {value!r} was asked; "
                f"give {flag} {stated}, or change the key in the file."
            )
    return {key: value for key, value in asked.items() if key in own}
