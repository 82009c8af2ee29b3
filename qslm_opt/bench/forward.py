"""One forward pass as an evaluation does it: from token ids to the loss."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from qslm_opt.evaluate.plan import ROWS
from qslm_opt.kernels.products import float32_products
from qslm_opt.models import spikegpt

if TYPE_CHECKING:
    from qslm_opt.bench.shapes import Subject
    from qslm_opt.data import TaskKind
    from qslm_opt.kernels.ops import Ops

_SEED = 0


WHOLE = ("reference", "compiled")
"""Operations that get the whole batch at once, as their users would give it."""


@dataclass(frozen=True)
class Load:
    """Sequences of one length that are computed together."""

    kind: TaskKind
    batch: int
    """Windows or sentences."""
    window: int
    """Tokens of each; none is padding."""

    @property
    def tokens(self) -> int:
        """Tokens in all."""
        return self.batch * self.window


class Forward:
    """A forward pass of a subject with some operations over a load of random ids, the same every time."""

    def __init__(self, subject: Subject, load: Load, ops: Ops) -> None:
        """Make ids and targets; the weights are the subject's, shared with other passes."""
        g = torch.Generator().manual_seed(_SEED)
        cfg, device = subject.config, subject.device
        shape = (load.batch, load.window)
        self.config, self.load, self.ops, self.device = cfg, load, ops, device
        self.weights = subject.weights(load.kind, ops)
        self.loss: float | None = None
        """Mean loss of the last pass over all blocks; None before it."""
        rows = ROWS[load.kind][device.type]
        self.together = load.batch if ops.name in WHOLE else max(1, min(load.batch, rows // load.window))
        """Sequences computed at once: all, or as many as an evaluation takes on this device."""
        self.ids = torch.randint(cfg.vocab_size, shape, generator=g).to(device)
        if load.kind == "lm":
            self.targets = torch.randint(cfg.vocab_size, shape, generator=g).to(device)
            self.lengths = None
        else:
            self.targets = torch.randint(cfg.n_labels, shape[:1], generator=g).to(device)
            self.lengths = torch.full(shape[:1], load.window).to(device)

    def __call__(self, blocks: int | None = None) -> float:
        """Return the mean loss in nats, per token or per sentence; ``blocks`` runs only the first so many."""
        cfg, count = self.config, self.config.n_layer if blocks is None else blocks
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            if self.device.type == "cuda":
                stack.enter_context(float32_products(tf32=self.ops.precision == "tf32"))
            starts = range(0, self.load.batch, self.together)
            losses = torch.cat([self._losses(slice(s, s + self.together), count) for s in starts])
            loss = float(losses.mean(dtype=torch.float64))
        if count == cfg.n_layer:
            self.loss = loss
        return loss

    def _losses(self, part: slice, blocks: int) -> Tensor:
        """Return the loss of each token or sentence of a part of the batch, through so many blocks."""
        cfg, p = self.config, self.weights
        lengths = None if self.lengths is None else self.lengths[part]
        x = spikegpt.embed(p, cfg, self.ids[part], self.ops)
        for i in range(blocks):
            state = spikegpt.empty_state(x.shape[0], cfg.n_embd, x)
            x, _, _ = spikegpt.run_block(p, cfg, i, x, state, self.ops, lengths)
        h = spikegpt.finish(p, cfg, x)
        if lengths is None:
            return self.ops.nll(h.flatten(0, 1), p["head.weight"], self.targets[part].flatten())
        return cross_entropy(spikegpt.class_logits(p, h, lengths), self.targets[part], reduction="none")
