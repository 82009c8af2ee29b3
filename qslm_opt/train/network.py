"""SpikeGPT in training: initial weights, the body with surrogate gradients and dropout, and both losses.

The forward pass is ``models.spikegpt`` itself, run with the training version of the scans.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import log

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, dropout
from torch.nn.init import normal_, orthogonal_

from qslm_opt.models.spikegpt import (
    class_logits,
    embed,
    empty_state,
    finish,
    lm_logits,
    run_block,
)
from qslm_opt.models.spikegpt_config import SpikeGPTConfig
from qslm_opt.train.surrogate import TRAINING

Tensors = Mapping[str, Tensor]
_EMBEDDING_STD = 0.1
_HEAD_STD = 0.02
_GAINS = {"att.output.weight": 4.0, "ffn.key.weight": 2.0, "ffn.value.weight": 3.0}
"""Chosen so that some 5 to 10 % of the neurons fire at the start; neurons that never fire learn slowly."""


def initial_tensors(cfg: SpikeGPTConfig, seed: int) -> dict[str, Tensor]:
    """Return random float32 tensors by the authors' names; the same for the same seed.

    Decays and token mixes are spread over channels and blocks as in RWKV (Peng et al. 2023, appendix E).
    """
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in cfg.tensor_shapes().items():
        tensors[name] = _initial(name, torch.empty(shape), cfg, generator)
    return tensors


def _initial(name: str, tensor: Tensor, cfg: SpikeGPTConfig, generator: torch.Generator) -> Tensor:
    if "time_" in name:
        block = int(name.split(".")[1])
        return _initial_time(name, block, cfg).view(tensor.shape)
    if name.endswith(".bias"):
        return tensor.zero_()
    if tensor.ndim == 1:  # a LayerNorm's gain
        return tensor.fill_(1.0)
    if name == "emb.weight":
        return normal_(tensor, std=_EMBEDDING_STD, generator=generator)
    if name.startswith(("head.", "classifier.")):
        return normal_(tensor, std=_HEAD_STD, generator=generator)
    gain = next((gain for part, gain in _GAINS.items() if name.endswith(part)), 1.0)
    return orthogonal_(tensor, gain, generator=generator)


def _initial_time(name: str, block: int, cfg: SpikeGPTConfig) -> Tensor:
    channel = torch.arange(cfg.n_embd) / max(1, cfg.n_embd - 1)  # 0 … 1
    depth = block / (cfg.n_layer - 1)  # 0 … 1
    if name.endswith("time_decay"):
        return -5 + 8 * channel ** (0.7 + 1.3 * depth)
    if name.endswith("time_first"):
        return log(0.3) + 0.5 * (torch.arange(1, cfg.n_embd + 1) % 3 - 1)
    mix = channel ** (1 - block / cfg.n_layer)
    if name.endswith("att.time_mix_v"):
        return mix + 0.3 * depth
    return mix.sqrt() if name.endswith("att.time_mix_r") else mix


@dataclass(frozen=True)
class Regularisation:
    """What makes training harder than evaluation; the default is evaluation."""

    dropout: float = 0.0
    """After every block."""
    noise: float = 0.0
    """Share of the input tokens that are replaced by random ones."""
    smoothing: float = 0.0
    """Label smoothing of the classification loss."""


NONE = Regularisation()


def body(
    p: Tensors, cfg: SpikeGPTConfig, ids: Tensor, regular: Regularisation = NONE
) -> tuple[Tensor, Tensor]:
    """Run whole windows [B, T] from rest: ``ln_out``'s output [B, T, D] and spikes per window [B]."""
    if regular.noise:
        other = (torch.rand(ids.shape, device=ids.device) * cfg.vocab_size).long()
        ids = torch.where(torch.rand(ids.shape, device=ids.device) < regular.noise, other, ids)
    x = embed(p, cfg, ids, TRAINING)  # (B, T, D)
    state = empty_state(x.shape[0], cfg.n_embd, x)
    spikes = x.new_zeros(x.shape[0])
    for i in range(cfg.n_layer):
        x, _, (first, second) = run_block(p, cfg, i, x, state, TRAINING)
        x = dropout(x, regular.dropout, training=regular.dropout > 0)
        spikes = spikes + (first + second)
    return finish(p, cfg, x), spikes


def lm_loss(
    p: Tensors, cfg: SpikeGPTConfig, windows: Tensor, regular: Regularisation = NONE
) -> tuple[Tensor, Tensor]:
    """Return the mean loss in nats per predicted token of windows [B, T + 1], and spikes per window [B]."""
    h, spikes = body(p, cfg, windows[:, :-1], regular)
    logits = lm_logits(p, h)  # (B, T, V)
    return cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten()), spikes


def class_loss(
    p: Tensors,
    cfg: SpikeGPTConfig,
    ids: Tensor,
    lengths: Tensor,
    labels: Tensor,
    regular: Regularisation = NONE,
) -> tuple[Tensor, Tensor]:
    """Return the mean classification loss in nats of padded sentences [C, T], and their logits."""
    h, _ = body(p, cfg, ids, regular)
    logits = class_logits(p, h, lengths)  # (C, labels)
    return cross_entropy(logits, labels, label_smoothing=regular.smoothing), logits
