"""A model as it is to be held while it runs: a packed file's codes and no more, or float32 tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from qslm_opt.errors import ModelError
from qslm_opt.models.loading import load_model, read_tokenizer
from qslm_opt.models.locate import find_model
from qslm_opt.models.packed_file import is_packed

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from qslm_opt.kernels.packed.reference import Packed
    from qslm_opt.models.spikegpt import SpikeGPTConfig


@dataclass(frozen=True)
class StoredModel:
    """What was read of a model's files, to be laid out on a device."""

    config: SpikeGPTConfig
    tensors: Mapping[str, Packed | Tensor]
    """Name → codes, or a float16 or float32 tensor; tied names share one object."""
    tokenizer: Tokenizer | None
    """There wherever ``open_stored`` has read the model."""
    source: str
    packed: bool
    file_bytes: int
    """Of the file or files of the weights."""
    payload_bytes: int
    """Of the codes, scales, zero points and float tensors in it."""


def open_stored(source: str, *, embed_spike: str = "on", rescale_every: int = 0) -> StoredModel:
    """Read a language model for running it; a packed one without dequantizing anything.

    Raises:
        UsageError: ``source`` names nothing.
        ModelError: it cannot be read, or has no language-model head or no tokenizer.
    """
    files = find_model(source)
    size = sum(path.stat().st_size for path in files.weights)
    if not any(is_packed(path) for path in files.weights):
        model = load_model(source, embed_spike=embed_spike, rescale_every=rescale_every)
        tokenizer = model.need_tokenizer()
        _check_head(source, model.config)
        unique = {id(t): t.numel() * t.element_size() for t in model.tensors.values()}
        tensors = {name: model.tensors[model.ties.get(name, name)] for name in model.tensors}
        return StoredModel(model.config, tensors, tokenizer, source, False, size, sum(unique.values()))
    from qslm_opt.models.packed import read_packed

    packed = read_packed(files.weights[0], files.config, files.tokenizer)
    _check_semantics(source, packed.config, embed_spike, rescale_every)
    _check_head(source, packed.config)
    if files.tokenizer is None:
        raise ModelError(f"model {source!r} has no tokenizer; put its tokenizer.json beside the weights.")
    tokenizer = read_tokenizer(files.tokenizer, packed.config.vocab_size)
    return StoredModel(
        packed.config, packed.tensors, tokenizer, source, True, packed.file_bytes, packed.payload_bytes
    )


def _check_head(source: str, config: SpikeGPTConfig) -> None:
    if not config.has_head:
        raise ModelError(
            f"model {source!r} has no language-model head, so it cannot generate text; "
            "give a model that was made or packed for language modelling."
        )


def _check_semantics(source: str, config: Any, embed_spike: str, rescale_every: int) -> None:
    asked = {"embed_spike": (embed_spike, "on"), "rescale_every": (rescale_every, 0)}
    for key, (value, default) in asked.items():
        if value not in (default, getattr(config, key)):
            raise ModelError(
                f"model {source!r} is packed with {key} {getattr(config, key)!r} and is taken as it is, "
                f"not with {value!r}; pack the original anew with it."
            )
