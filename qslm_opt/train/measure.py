"""Validation and test numbers of a model in training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from qslm_opt.data.taskdata import Ids
from qslm_opt.models.spikegpt_config import SpikeGPTConfig
from qslm_opt.train.corpus import Sentences, pad_sentences
from qslm_opt.train.network import class_loss, lm_loss

if TYPE_CHECKING:
    from tokenizers import Tokenizer

ROWS = 64
"""Windows or sentences computed at once."""


@dataclass(frozen=True)
class Measured:
    """Losses are in nats: per predicted token, and per sentence (0 without sentences)."""

    loss: float
    class_loss: float
    accuracy: float | None
    firing_rate: float
    """Mean spikes per neuron and step on the windows."""

    @property
    def perplexity(self) -> float:
        """``exp(loss)``; infinite where float cannot hold it."""
        return exp(self.loss) if self.loss < 700 else float("inf")


def rounded(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors as a float16 file would give them back."""
    return {name: tensor.detach().half().float() for name, tensor in tensors.items()}


@torch.no_grad()
def measure(
    p: Mapping[str, Tensor], cfg: SpikeGPTConfig, windows: Ids, sentences: Sentences | None
) -> Measured:
    """Return the losses on full windows [N, W + 1] and, when there are any, sentences."""
    device = p["emb.weight"].device
    loss = spikes = 0.0
    for start in range(0, len(windows), ROWS):
        ids = torch.from_numpy(windows[start : start + ROWS]).to(device)
        mean, count = lm_loss(p, cfg, ids)
        loss += float(mean) * len(ids)
        spikes += float(count.sum())
    sites = 2 * cfg.n_layer * cfg.n_embd * (windows.shape[1] - 1) * len(windows)
    label_loss, accuracy = _classify(p, cfg, sentences, device) if sentences else (0.0, None)
    return Measured(loss / len(windows), label_loss, accuracy, spikes / sites)


def _classify(
    p: Mapping[str, Tensor], cfg: SpikeGPTConfig, sentences: Sentences, device: torch.device
) -> tuple[float, float]:
    loss, right, n = 0.0, 0, len(sentences.labels)
    for start in range(0, n, ROWS):
        ids, lengths, labels = (
            torch.from_numpy(array[start : start + ROWS]).to(device)
            for array in (sentences.ids, sentences.lengths, sentences.labels)
        )
        mean, logits = class_loss(p, cfg, ids, lengths, labels)
        loss += float(mean) * len(labels)
        right += int((logits.argmax(dim=1) == labels).sum())
    return loss / n, right / n


def test_set(tokenizer: Tokenizer) -> tuple[Ids, Sentences]:
    """Return what the tasks ``demo`` and ``demo-classify`` evaluate."""
    from qslm_opt.data.tasks import load_task

    windows, sentences = load_task("demo", tokenizer), load_task("demo-classify", tokenizer)
    assert sentences.labels is not None
    return np.stack(windows.sequences), pad_sentences(sentences.sequences, sentences.labels)
