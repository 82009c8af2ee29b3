"""A language model of SpikingJelly layers in multi-step mode: every block computes all time steps at once."""

from __future__ import annotations

from spikingjelly.activation_based import layer, neuron
from torch import nn


class Block(nn.Module):
    """Each token reads itself and the token before it."""

    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.own = layer.Linear(width, width, step_mode="m")
        self.last = layer.Linear(width, width, bias=False, step_mode="m")
        self.lif = neuron.LIFNode(tau=1.5, step_mode="m")

    def forward(self, x):  # [S, B, T, D]
        h = self.norm(x)
        before = nn.functional.pad(h, (0, 0, 1, 0))[:, :, :-1]
        return x + self.lif(2 * self.own(h) + self.last(before))


class SpikingJellyNet(nn.Module):
    def __init__(self, vocab_size, width, layers, steps):
        super().__init__()
        self.steps = steps
        self.emb = nn.Embedding(vocab_size, width)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocab_size, bias=False)

    def forward(self, ids):
        x = self.emb(ids)
        x = self.blocks(x.expand(self.steps, *x.shape))
        return self.head(self.norm(x))


def make(**sizes):
    return SpikingJellyNet(**sizes)


