"""A spiking text classifier in plain torch, as somebody who never heard of qslm-opt would write it."""

from __future__ import annotations

import torch
from torch import nn


class Spike(torch.autograd.Function):
    """A step, whose gradient is a triangle."""

    @staticmethod
    def forward(ctx, v):
        ctx.save_for_backward(v)
        return (v >= 0).to(v.dtype)

    @staticmethod
    def backward(ctx, gradient):
        (v,) = ctx.saved_tensors
        return gradient * (1 - v.abs()).clamp(min=0)


class Lif(nn.Module):
    """Leaky neurons that keep their membrane potential between calls, until ``reset``."""

    def __init__(self, decay: float = 0.5) -> None:
        super().__init__()
        self.decay = nn.Parameter(torch.tensor(decay))
        self.v = None

    def reset(self) -> None:
        self.v = None

    def forward(self, current):
        v = current if self.v is None else self.decay * self.v + current
        spikes = Spike.apply(v - 1)
        self.v = v * (1 - spikes)
        return spikes


class Block(nn.Module):
    """A residual block that mixes each token with the mean of those that are no padding."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.own = nn.Linear(width, width)
        self.all = nn.Linear(width, width, bias=False)
        self.lif = Lif()

    def forward(self, x, mask):
        h = self.norm(x)
        mean = (h * mask[..., None]).sum(1, keepdim=True) / mask.sum(1)[:, None, None]
        return x + self.lif(2 * self.own(h) + self.all(mean))


class PlainSnn(nn.Module):
    """Token embedding, spiking blocks called once a time step, mean over tokens, class logits a step."""

    def __init__(self, vocab_size: int, width: int, layers: int, steps: int, classes: int) -> None:
        super().__init__()
        self.steps = steps
        self.emb = nn.Embedding(vocab_size, width)
        self.layers = nn.ModuleList(Block(width) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, classes)
        self.teacher = nn.Linear(width, 3)

    def forward(self, ids, mask):
        x, out = self.emb(ids), []
        for _ in range(self.steps):
            h = x
            for layer in self.layers:
                h = layer(h, mask)
            pooled = (self.norm(h) * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
            out.append(self.classifier(pooled))
        return torch.stack(out)


def make(**sizes):
    return PlainSnn(**sizes)
