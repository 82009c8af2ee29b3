"""A classifier of snnTorch layers: two layers of leaky neurons over time steps, counted spikes read out."""

from __future__ import annotations

import snntorch
import torch
from torch import nn


class SnnTorchNet(nn.Module):
    """The loop over time stands in ``forward``; neurons keep their potentials (``init_hidden``)."""

    def __init__(self, vocab_size, width, steps):
        super().__init__()
        self.steps = steps
        self.emb = nn.Embedding(vocab_size, width)
        self.fc1 = nn.Linear(width, width)
        self.lif1 = snntorch.Leaky(beta=0.8, init_hidden=True)
        self.fc2 = nn.Linear(width, width)
        self.lif2 = snntorch.Leaky(beta=0.7, threshold=0.5, init_hidden=True)
        self.out = nn.Linear(width, 2)

    def forward(self, ids, lengths):
        mask = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
        current, total = self.emb(ids), 0
        for _ in range(self.steps):
            spikes = self.lif2(self.fc2(self.lif1(self.fc1(current))))
            total = total + (spikes * mask[..., None]).sum(1)
        return {"logits": self.out(total / lengths[:, None])}


def make(vocab_size, width, steps):
    return SnnTorchNet(vocab_size, width, steps)
