"""From a model's name to its weights: config, float32 tensors, tokenizer and a hash that names them."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from qslm_opt.errors import ModelError
from qslm_opt.models.checkpoint import find_ties, read_checkpoint, to_float32
from qslm_opt.models.locate import find_model
from qslm_opt.models.packed_file import is_packed
from qslm_opt.models.spikegpt import MODEL_TYPES, SpikeGPTConfig

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from qslm_opt.models.locate import ModelFiles
    from qslm_opt.models.packed import PackedModel

FAMILY = "spikegpt"
_DEFAULTS = {"embed_spike": "on", "rescale_every": 0}
AUTHORS_TYPE = "rwkv_type"
"""Key of the authors' ``model_type`` in a config.json, where ``model_type`` has to be the family."""
_NAMED = 3
"""So many tensors are named in a message, then counted."""


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory, unquantized."""

    config: SpikeGPTConfig
    tensors: dict[str, Tensor]
    """Authors' name → contiguous float32 tensor on the CPU; tied names share one tensor."""
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
                f"model {self.source!r} has no tokenizer; put its tokenizer.json (or 20B_tokenizer.json) "
                "beside the weights."
            )
        return self.tokenizer


def load_model(
    source: str,
    *,
    embed_spike: str = "on",
    rescale_every: int = 0,
    overrides: Mapping[str, Any] | None = None,
) -> LoadedModel:
    """Load a SpikeGPT by name.

    The config is inferred from the tensors' names and shapes; keys of a ``config.json`` beside them win over
    that, ``embed_spike`` and ``rescale_every`` over those, and ``overrides`` (config keys) over everything.

    Args:
        source: ``demo``, a folder, a ``.pth`` or ``.safetensors`` file, or a hub id ``ORG/NAME[@REVISION]``.
        embed_spike: Heaviside on the embedding: ``on``, ``off`` or ``auto``.
        rescale_every: halve the residual after every so many blocks; 0 never.

    Raises:
        UsageError: ``source`` names nothing.
        ModelError: the checkpoint cannot be read, or does not fit SpikeGPT or the config.
        NumericsError: a weight is NaN or infinite.
    """
    files = find_model(source)
    if any(is_packed(path) for path in files.weights):
        return _load_packed(source, files, embed_spike, rescale_every, overrides or {})
    stored = read_checkpoint(files.weights)
    declared = _read_config(files.config) if files.config else {}
    if declared.pop("tie_word_embeddings", False) and "head.weight" not in stored and "emb.weight" in stored:
        stored["head.weight"] = stored["emb.weight"]
    semantics = _semantics(files.config, declared, embed_spike, rescale_every)
    config = _fit(source, stored, {**declared, **semantics, **(overrides or {})})
    ordered = {name: stored[name] for name in config.tensor_shapes()}
    ties = find_ties(ordered)
    tensors: dict[str, Tensor] = {}
    for name, tensor in ordered.items():
        tensors[name] = tensors[ties[name]] if name in ties else to_float32(name, tensor)
    tokenizer = read_tokenizer(files.tokenizer, config.vocab_size) if files.tokenizer else None
    return LoadedModel(config, tensors, source, hash_weights(tensors), tokenizer, ties)


def _load_packed(
    source: str, files: ModelFiles, embed_spike: str, rescale_every: int, overrides: Mapping[str, Any]
) -> LoadedModel:
    """Load a packed model; its semantics are part of it."""
    from qslm_opt.models.packed import read_packed

    packed = read_packed(files.weights[0], files.config, files.tokenizer)
    config = packed.config
    asked = {"embed_spike": embed_spike, "rescale_every": rescale_every}
    other = {k: value for k, value in asked.items() if value not in (_DEFAULTS[k], getattr(config, k))}
    for key, value in {**other, **overrides}.items():
        raise ModelError(
            f"model {source!r} is packed with {key} {getattr(config, key, None)!r} and is taken as it is, "
            f"not with {value!r}; pack the original anew with it."
        )
    tensors = packed.weights()
    tokenizer = read_tokenizer(files.tokenizer, config.vocab_size) if files.tokenizer else None
    return LoadedModel(config, tensors, source, hash_weights(tensors), tokenizer, packed.ties, packed)


def save_model(
    folder: Path, config: SpikeGPTConfig, tensors: Mapping[str, Tensor], tokenizer: Tokenizer | None = None
) -> None:
    """Write the folder that ``load_model`` and ``from_pretrained`` read: config, safetensors, tokenizer."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(config_text(config), "utf-8")
    own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    save_file(own, folder / "model.safetensors", metadata={"format": "pt"})
    if tokenizer is not None:
        tokenizer.save(str(folder / "tokenizer.json"))


def config_text(config: SpikeGPTConfig) -> str:
    """Return the ``config.json`` that ``load_model`` and ``from_pretrained`` read."""
    kind = "SpikeGPTForSequenceClassification" if config.n_labels else "SpikeGPTForCausalLM"
    family = {"model_type": FAMILY, AUTHORS_TYPE: config.model_type}
    value = {"architectures": [kind], **config.to_dict(), **family}
    return json.dumps(value, indent=2) + "\n"


def hash_weights(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 (hex) over sorted names, shapes and little-endian float32 bytes."""
    digest = sha256()
    for name in sorted(tensors):
        values = tensors[name].detach().float().contiguous().numpy()
        digest.update(f"{name}{list(values.shape)}\0".encode())
        digest.update((values if sys.byteorder == "little" else values.byteswap()).data.cast("B"))
    return digest.hexdigest()


def read_tokenizer(path: Path, vocab_size: int) -> Tokenizer:
    """Read a ``tokenizer.json`` whose ids fit an embedding of ``vocab_size`` rows."""
    from tokenizers import Tokenizer

    try:
        tokenizer: Tokenizer = Tokenizer.from_file(str(path))
        largest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001 - plain ones, or a panic of its Rust code
        raise ModelError(
            f"tokenizer {str(path)!r} cannot be read ({error}); put the model's own tokenizer.json there."
        ) from None
    if largest >= vocab_size:
        raise ModelError(
            f"tokenizer {str(path)!r} has {largest + 1} tokens but the embedding has {vocab_size} rows: "
            "it is the tokenizer of another model; put this model's own there."
        )
    return tokenizer


def _read_config(path: Path) -> dict[str, Any]:
    """Return a config.json's keys that are SpikeGPT's own, the authors' ``model_type`` among them."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"config {str(path)!r} cannot be read: {error}.") from None
    if not isinstance(value, dict):
        raise ModelError(f"config {str(path)!r} is not a JSON object; write one, or remove the file.")
    family = value.get("model_type", FAMILY)
    if family not in (FAMILY, *MODEL_TYPES):
        raise ModelError(f"config {str(path)!r} is of model_type {family!r}; qslm-opt reads {FAMILY!r}.")
    if family == FAMILY:
        value["model_type"] = value.get(AUTHORS_TYPE, MODEL_TYPES[0])
        if AUTHORS_TYPE not in value:
            del value["model_type"]
    known = {f.name for f in fields(SpikeGPTConfig)} | {"tie_word_embeddings"}
    return {key: item for key, item in value.items() if key in known}


def _semantics(
    path: Path | None, declared: Mapping[str, Any], embed_spike: str, rescale_every: int
) -> dict[str, Any]:
    """Return both semantic keys as asked; refuse a config that differs from a default nobody chose."""
    for key, asked in (("embed_spike", embed_spike), ("rescale_every", rescale_every)):
        default: Any = _DEFAULTS[key]
        stated = declared.get(key, default)
        if asked == default and stated != default:
            flag = key.replace("_", "-")
            raise ModelError(
                f"config {str(path)!r} says {key} {stated!r} but {asked!r} was asked; "
                f"give --{flag} {stated}, or change the key in the file."
            )
    return {"embed_spike": embed_spike, "rescale_every": rescale_every}


def _fit(source: str, stored: Mapping[str, Tensor], keys: Mapping[str, Any]) -> SpikeGPTConfig:
    """Return the config that names exactly the stored tensors; raise ModelError that names what differs."""
    for key, value in keys.items():
        _check_type(key, value)
    shapes = {name: tuple(tensor.shape) for name, tensor in stored.items()}
    try:
        config = SpikeGPTConfig.from_shapes(shapes, **keys)
    except (IndexError, ValueError):
        raise ModelError(
            f"model {source!r} is no SpikeGPT: a block number or a shape in it cannot be; give another."
        ) from None
    if config.n_layer > len(shapes):
        raise ModelError(
            f"model {source!r} would have {config.n_layer} blocks but holds only {len(shapes)} tensors; "
            "give the complete checkpoint, or correct n_layer in config.json."
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
        raise ModelError(
            f"model {source!r} does not fit SpikeGPT {config.model_type} with {config.n_layer} blocks of "
            f"width {config.n_embd}: {'; '.join(filter(None, problems))}. Give a complete checkpoint with "
            "the authors' names, or correct config.json."
        )
    return config


def _check_type(key: str, value: Any) -> None:
    """Raise ModelError when a config key's value has another type than the config's own."""
    defaults = {f.name: f.default for f in fields(SpikeGPTConfig)}
    wanted = type(defaults[key]) if isinstance(defaults.get(key), (str, bool)) else int
    if key in defaults and type(value) is not wanted:
        raise ModelError(f"config key {key!r} is {value!r}; write a value of type {wanted.__name__}.")


def _some(what: str, names: list[str]) -> str:
    if not names:
        return ""
    more = ", …" if len(names) > _NAMED else ""
    plural = "tensor" if len(names) == 1 else "tensors"
    return f"{len(names)} {plural} {what} ({', '.join(names[:_NAMED])}{more})"
