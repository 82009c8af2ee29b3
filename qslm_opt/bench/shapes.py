"""What is measured: a model of a name, a shape with random weights, and the settings' weights of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from qslm_opt.errors import ModelError, UsageError, did_you_mean
from qslm_opt.formats import Layout
from qslm_opt.hierarchy.discover import discover
from qslm_opt.models import spikegpt
from qslm_opt.models.loading import LoadedModel, load_model
from qslm_opt.models.spikegpt_config import SpikeGPTConfig
from qslm_opt.quant.apply import QuantizedView, held_bytes
from qslm_opt.setting import UNQUANTIZED, QuantSetting

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qslm_opt.data import TaskKind
    from qslm_opt.kernels.ops import Ops, Weight

SHAPES = {
    "14m": SpikeGPTConfig(vocab_size=8192, n_layer=12, n_embd=256, n_labels=2),
    "216m": SpikeGPTConfig(vocab_size=50277, n_layer=18, n_embd=768, n_labels=2),
}
"""Shapes that ``random_model`` fills; 216m is SpikeGPT-216M."""
FULL_BITS = 32
_CACHE_BYTES = 2**40


def shape_of(name: str) -> SpikeGPTConfig:
    """Return the config of a shape; UsageError for one that is unknown."""
    if name not in SHAPES:
        known = ", ".join(SHAPES)
        raise UsageError(f"shape {name!r} is unknown; use {known}.{did_you_mean(name, SHAPES)}")
    return SHAPES[name]


def random_model(config: SpikeGPTConfig, name: str = "random", seed: int = 0) -> LoadedModel:
    """Return a model of ``config`` with random weights at which neurons both fire and stay silent.

    Matrices are normal with standard deviation 2/√columns, LayerNorm near the identity, mixes in 0..1; the
    same numbers for the same seed.
    """
    g = torch.Generator().manual_seed(seed)
    tensors = {}
    for key, shape in config.tensor_shapes().items():
        noise = torch.randn(shape, generator=g)
        if ".ln" in key or key.startswith("ln"):
            noise = noise * 0.1 + (1.0 if key.endswith("weight") else 0.0)
        elif "time_mix" in key:
            noise = noise.sigmoid()
        elif len(shape) == 2:
            noise = noise * 2.0 / shape[1] ** 0.5
        tensors[key] = noise
    return LoadedModel(config, tensors, name, f"random, seed {seed}", None)


@dataclass
class Subject:
    """A model on a device, with the weights that a study's trial computes with."""

    model: LoadedModel
    device: torch.device
    bits: int
    """Of every searched tensor, channel/affine; 32 leaves the model unquantized."""
    _weights: dict[tuple[str, str], dict[str, Weight]] = field(default_factory=dict)

    @classmethod
    def of(cls, model: str, shape: str | None, device: torch.device, bits: int) -> Subject:
        """Load ``model``, or fill a shape; the errors are those of ``load_model`` and ``shape_of``."""
        found = load_model(model) if shape is None else random_model(shape_of(shape), shape)
        return cls(found, device, bits)

    @property
    def config(self) -> SpikeGPTConfig:
        """Sizes of the model."""
        assert isinstance(self.model.config, SpikeGPTConfig)
        return self.model.config

    def __post_init__(self) -> None:
        if not isinstance(self.model.config, SpikeGPTConfig):
            raise ModelError(
                f"model {self.model.source!r} is a {self.model.config.title}, and bench measures SpikeGPT's "
                "kernels; give a SpikeGPT, or --shape 14m."
            )

    def has(self, kind: TaskKind) -> bool:
        """Return whether the model has the head that ``kind`` reads."""
        return self.config.has_head if kind == "lm" else bool(self.config.n_labels)

    def weights(self, kind: TaskKind, ops: Ops) -> Mapping[str, Weight]:
        """Return every tensor by name as ``ops`` takes it, made once for all that take the same form."""
        key = kind, "plain" if ops.weight is None else ops.precision
        if key not in self._weights:
            on_device = {name: tensor.to(self.device) for name, tensor in self.model.tensors.items()}
            tree = discover(self.config, self.model.shapes, kind, self.model.ties)
            view = QuantizedView(on_device, tree, _CACHE_BYTES, ops.weight, spikegpt.products(self.config))
            self._weights[key] = view.apply(self._setting())
        return self._weights[key]

    def weight_bytes(self, kind: TaskKind, ops: Ops) -> int:
        """Return the bytes that ``weights`` holds, each tensor once."""
        found = {id(value): value for value in self.weights(kind, ops).values()}
        return sum(held_bytes(value) for value in found.values())

    def _setting(self) -> QuantSetting:
        if self.bits == FULL_BITS:
            return UNQUANTIZED
        return QuantSetting({"network": Layout().with_bits(self.bits)})
