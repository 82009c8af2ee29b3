"""From a model's name to its weights: config, float32 tensors, tokenizer and a hash that names them."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from qslm_opt.errors import ModelError
from qslm_opt.models.checkpoint import find_ties, read_checkpoint, to_float32
from qslm_opt.models.declared import (
    DEFAULTS,
    asked_keys,
    assumption_words,
    declared_keys,
    read_config,
)
from qslm_opt.models.locate import find_model, find_tokenizer
from qslm_opt.models.packed_file import is_packed
from qslm_opt.models.registry import family_names, family_of, find_family, is_mapped, open_family
from qslm_opt.models.words import read_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from qslm_opt.models.config import ModelConfig
    from qslm_opt.models.family import Family
    from qslm_opt.models.locate import ModelFiles
    from qslm_opt.models.packed import PackedModel

_NAMED = 3
"""So many tensors are named in a message, then counted."""


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory, unquantized."""

    config: ModelConfig
    tensors: dict[str, Tensor]
    """Canonical name → contiguous float32 tensor on the CPU; tied names share one tensor."""
    source: str
    """The model as the user named it."""
    weights_hash: str
    """SHA-256 (hex) over sorted names, shapes and little-endian float32 bytes."""
    tokenizer: Tokenizer | None
    """None when none lies beside the checkpoint; see ``need_tokenizer``."""
    ties: dict[str, str] = field(default_factory=dict)
    """Name → name of the tensor whose storage it shares."""
    packed: PackedModel | None = None
    """The codes that ``tensors`` stand for, where the model came packed."""
    assumed: dict[str, Any] = field(default_factory=dict)
    """Config keys that change numbers and that neither a file nor the caller told, with their defaults."""
    left_out: str = ""
    """What of the checkpoint was left out though it holds numbers of its own, in words."""

    @property
    def assumptions(self) -> str:
        """What was assumed, in words; empty where nothing was."""
        return assumption_words(self.assumed)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Tensor name → shape."""
        return {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}

    def without_tensors(self) -> LoadedModel:
        """Return the same model without its weights and codes, for what holds them in another form."""
        packed = None if self.packed is None else replace(self.packed, tensors={})
        return replace(self, tensors={}, packed=packed)

    def need_tokenizer(self) -> Tokenizer:
        """Return the tokenizer; raise ModelError when the model came without one."""
        if self.tokenizer is None:
            raise ModelError(
                f"model {self.source!r} has no tokenizer; put its tokenizer.json, or the vocab.txt of "
                "WordPiece, beside the weights, or give --tokenizer PATH."
            )
        return self.tokenizer


def load_model(
    source: str,
    *,
    embed_spike: str = "on",
    rescale_every: int = 0,
    overrides: Mapping[str, Any] | None = None,
    family: str | None = None,
    tokenizer: str | None = None,
) -> LoadedModel:
    """Load a spike-driven language model by name.

    The config is inferred from the tensors' names and shapes; keys of a ``config.json`` beside them win over
    that, ``embed_spike`` and ``rescale_every`` over those, and ``overrides`` (config keys) over everything.

    Args:
        source: ``demo``, a folder, a ``.pth`` or ``.safetensors`` file, or a hub id ``ORG/NAME[@REVISION]``.
        embed_spike: SpikeGPT: Heaviside on the embedding, ``on``, ``off`` or ``auto``.
        rescale_every: SpikeGPT: halve the residual after every so many blocks; 0 never.
        family: name of the model family; None finds it by the tensors' names.
        tokenizer: path of the tokenizer, where it does not lie beside the weights.

    Raises:
        UsageError: ``source`` names nothing.
        ModelError: the checkpoint cannot be read, or does not fit its family or the config.
        NumericsError: a weight is NaN or infinite.
    """
    files = find_model(source)
    if tokenizer is not None:
        files = replace(files, tokenizer=find_tokenizer(tokenizer))
    asked = {"embed_spike": embed_spike, "rescale_every": rescale_every}
    if any(is_packed(path) for path in files.weights):
        return _load_packed(source, files, asked, overrides or {}, family)
    stored = read_checkpoint(files.weights)
    kind = _family(source, stored, family)
    values = read_config(files.config) if files.config else {}
    declared = declared_keys(kind, files.config, values)
    semantics = asked_keys(kind, files.config, declared, asked)
    given = kind.config_class.own_keys(overrides or {})
    names = tuple(stored)
    try:
        stored = kind.without_prefix(stored)
        left_out = kind.left_out(stored)
        stored = kind.canonical(stored, values)
        config = _fit(source, kind, stored, {**declared, **semantics, **given})
    except ModelError as error:
        raise (error if family is None else _of_another(error, kind, names)) from None
    ordered = {name: stored[name] for name in config.tensor_shapes()}
    ties = find_ties(ordered)
    tensors: dict[str, Tensor] = {}
    for name, tensor in ordered.items():
        tensors[name] = tensors[ties[name]] if name in ties else to_float32(name, tensor)
    words = read_tokenizer(files.tokenizer, config.vocabulary) if files.tokenizer else None
    told = {*declared, *semantics, *given, *config.told_by_shapes, *config.told_by_family}
    assumed = {key: value for key, value in config.semantics().items() if key not in told}
    return LoadedModel(
        config, tensors, source, hash_weights(tensors), words, ties, assumed=assumed, left_out=left_out
    )


def _family(source: str, stored: Mapping[str, Tensor], wanted: str | None) -> Family:
    if wanted is not None:
        return open_family(wanted)
    found = find_family(stored)
    if found is None:
        some = ", ".join(list(stored)[:_NAMED])
        raise ModelError(
            f"model {source!r} is of no family that qslm-opt knows ({', '.join(family_names())}): its "
            f"tensors are called {some}, …; give a checkpoint with the authors' names, or name its --family."
        )
    return found


def _of_another(error: ModelError, given: Family, names: tuple[str, ...]) -> ModelError:
    """Return why a model is none of the given family, and of which one its names are."""
    found = find_family(names)
    if found is None or found.name == given.name:
        return error
    return ModelError(
        f"{error} Its names are those of a {found.config_class.title}: give --family {found.name}, or leave "
        "--family out."
    )


def _load_packed(
    source: str, files: ModelFiles, asked: Mapping[str, Any], overrides: Mapping[str, Any],
    family: str | None,
) -> LoadedModel:  # fmt: skip
    """Load a packed model; its family and semantics are part of it."""
    from qslm_opt.models.packed import read_packed

    given = None if family is None else open_family(family).name
    packed = read_packed(files.weights[0], files.config, files.tokenizer)
    config = packed.config
    packed.check_family(source, given)
    here = {k: v for k, v in asked.items() if k in config.key_names() or v != DEFAULTS[k]}
    other = {k: v for k, v in here.items() if v not in (DEFAULTS[k], getattr(config, k, None))}
    for key, value in {**other, **config.own_keys(overrides)}.items():
        if getattr(config, key, None) != value:
            raise ModelError(
                f"model {source!r} is packed with {key} {getattr(config, key, None)!r} and is taken as it "
                f"is, not with {value!r}; pack the original anew with it."
            )
    tensors = packed.weights()
    tokenizer = read_tokenizer(files.tokenizer, config.vocabulary) if files.tokenizer else None
    return LoadedModel(config, tensors, source, hash_weights(tensors), tokenizer, packed.ties, packed)


def save_model(
    folder: Path, config: ModelConfig, tensors: Mapping[str, Tensor], tokenizer: Tokenizer | None = None
) -> None:
    """Write the folder that ``load_model`` and ``from_pretrained`` read: config, safetensors, tokenizer."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(config_text(config), "utf-8")
    named = family_of(config).expanded(config, tensors)
    own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in named.items()}
    save_file(own, folder / "model.safetensors", metadata={"format": "pt"})
    if tokenizer is not None:
        tokenizer.save(str(folder / "tokenizer.json"))


def config_text(config: ModelConfig) -> str:
    """Return the ``config.json`` that ``load_model`` and ``from_pretrained`` read."""
    return json.dumps(family_of(config).config_json(config), indent=2) + "\n"


def hash_weights(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 (hex) over sorted names, shapes and little-endian float32 bytes."""
    digest = sha256()
    for name in sorted(tensors):
        values = tensors[name].detach().float().contiguous().numpy()
        digest.update(f"{name}{list(values.shape)}\0".encode())
        digest.update((values if sys.byteorder == "little" else values.byteswap()).data.cast("B"))
    return digest.hexdigest()


def _fit(
    source: str, family: Family, stored: Mapping[str, Tensor], keys: Mapping[str, Any]
) -> ModelConfig:
    """Return the config that names exactly the stored tensors; raise ModelError that names what differs."""
    kind = family.config_class
    kind.check_keys(keys)
    shapes = {name: tuple(tensor.shape) for name, tensor in stored.items()}
    try:
        config = kind.from_shapes(shapes, **keys)
    except (IndexError, ValueError, ZeroDivisionError):
        raise ModelError(
            f"model {source!r} is no {kind.title}: a block number or a shape in it cannot be; give another."
        ) from None
    if config.blocks > len(shapes):
        raise ModelError(
            f"model {source!r} would have {config.blocks} blocks but holds only {len(shapes)} tensors; "
            "give the complete checkpoint, or correct the number of blocks in config.json."
        )
    expected = config.tensor_shapes()
    different = [
        f"{name} {list(shapes[name])} instead of {list(shape)}"
        for name, shape in expected.items()
        if name in shapes and shapes[name] != shape
    ]
    problems = [
        _some("missing", [name for name in expected if name not in shapes]),
        _some("unknown", [name for name in shapes if name not in expected]),
        _some("of another shape", different),
    ]
    if any(problems):
        fix = (
            "Give the sizes that it was made with, --config KEY=VALUE, or its own mapping file."
            if is_mapped(family.name)
            else "Give a complete checkpoint with the authors' names, or correct config.json."
        )
        raise ModelError(
            f"model {source!r} does not fit {config.describe()}: {'; '.join(filter(None, problems))}. {fix}"
        )
    return config


def _some(what: str, names: list[str]) -> str:
    if not names:
        return ""
    more = ", …" if len(names) > _NAMED else ""
    plural = "tensor" if len(names) == 1 else "tensors"
    return f"{len(names)} {plural} {what} ({', '.join(names[:_NAMED])}{more})"
