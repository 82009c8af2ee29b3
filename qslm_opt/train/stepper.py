"""One optimiser step as a plain call, or as a CUDA graph that is recorded once and replayed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from qslm_opt.models.spikegpt_config import SpikeGPTConfig
from qslm_opt.train.config import TrainConfig
from qslm_opt.train.corpus import Corpus, Sentences
from qslm_opt.train.network import Regularisation, class_loss, lm_loss

BETAS = (0.9, 0.99)
CLIP = 1.0
"""Largest gradient norm."""
SMOOTHING = 0.1
"""Label smoothing of the classification loss."""
_WARM_UP = 3
"""Plain steps on a side stream before a graph is recorded."""


class Batches:
    """Random training batches in fixed tensors: the same shapes and places at every step."""

    def __init__(self, corpus: Corpus, config: TrainConfig, device: torch.device) -> None:
        self._generator = torch.Generator().manual_seed(config.seed)
        self._stream = torch.from_numpy(corpus.train).to(device)
        self._within = torch.arange(config.window + 1, device=device)
        self.windows = torch.zeros(config.batch, config.window + 1, dtype=torch.long, device=device)
        self.sentences = corpus.train_sentences
        if self.sentences is not None:
            self._all = on_device(self.sentences, device)
            labels = torch.from_numpy(self.sentences.labels)
            self._by_label = [torch.nonzero(labels == label).flatten() for label in labels.unique()]
            count = len(self._by_label) * (config.sentences // len(self._by_label))
            self.ids, self.lengths, self.labels = (
                values.new_zeros(count, *values.shape[1:]) for values in self._all
            )

    def draw(self) -> None:
        """Fill the fixed tensors: windows from anywhere in the stream, as many sentences of each class."""
        rows, span = self.windows.shape
        starts = torch.randint(self._stream.numel() - span + 1, (rows, 1), generator=self._generator)
        torch.take(self._stream, starts.to(self._stream.device) + self._within, out=self.windows)
        if self.sentences is None:
            return
        each = self.ids.shape[0] // len(self._by_label)
        drawn = [
            places[torch.randint(len(places), (each,), generator=self._generator)]
            for places in self._by_label
        ]
        chosen = torch.cat(drawn).to(self.ids.device)
        for fixed, values in zip((self.ids, self.lengths, self.labels), self._all, strict=True):
            fixed.copy_(values[chosen])


class Stepper:
    """The weights, their optimiser, and the step that improves them."""

    def __init__(
        self, tensors: dict[str, Tensor], cfg: SpikeGPTConfig, config: TrainConfig, batches: Batches
    ) -> None:
        self.cfg, self.config, self.batches = cfg, config, batches
        device = batches.windows.device
        self.tensors = {name: t.to(device).requires_grad_() for name, t in tensors.items()}
        self._rate = torch.tensor(config.learning_rate, device=device)
        self._optimizer = torch.optim.AdamW(
            _groups(self.tensors, config), lr=self._rate, betas=BETAS, fused=True,
            capturable=device.type == "cuda",
        )  # fmt: skip
        self._regular = Regularisation(config.dropout, config.noise, SMOOTHING)
        self.losses = torch.zeros(2, device=device)
        """Language-model and classification loss of the last step, in nats."""
        self._replay: Callable[[], None] = self._step

    def step(self, rate: float) -> None:
        """Draw a batch and take one step at this learning rate."""
        self.batches.draw()
        self._rate.fill_(rate)
        self._replay()

    def _step(self) -> None:
        config, batches = self.config, self.batches
        self._optimizer.zero_grad(set_to_none=True)
        lm, _ = lm_loss(self.tensors, self.cfg, batches.windows, self._regular)
        loss = lm
        if batches.sentences is not None:
            label, _ = class_loss(
                self.tensors, self.cfg, batches.ids, batches.lengths, batches.labels, self._regular
            )
            self.losses[1].copy_(label.detach())
            loss = lm + config.class_weight * label
        self.losses[0].copy_(lm.detach())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.tensors.values(), CLIP)
        self._optimizer.step()

    def record(self) -> None:
        """Record the step as a CUDA graph; afterwards ``step`` replays it.

        Raises:
            RuntimeError: something in the step cannot be recorded; the plain step stays in use.
        """
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            self._rate.fill_(0.0)
            for _ in range(_WARM_UP):
                self.batches.draw()
                self._step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        self._optimizer.zero_grad(set_to_none=True)
        with torch.cuda.graph(graph):
            self._step()
        self._replay = graph.replay


def on_device(sentences: Sentences, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return ids [N, T], lengths [N] and labels [N] as tensors."""
    ids, lengths, labels = (
        torch.from_numpy(array).to(device) for array in (sentences.ids, sentences.lengths, sentences.labels)
    )
    return ids, lengths, labels


def _groups(tensors: dict[str, Tensor], config: TrainConfig) -> list[dict[str, object]]:
    """Decay the matrices only: a vector, and an embedding of which the sign counts, must not shrink."""
    decayed = [t for name, t in tensors.items() if t.ndim == 2 and name != "emb.weight"]
    others = [t for name, t in tensors.items() if t.ndim != 2 or name == "emb.weight"]
    return [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
