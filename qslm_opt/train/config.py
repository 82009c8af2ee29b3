"""What to train, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass

from qslm_opt.errors import UsageError

DEMO_CORPUS = "demo"
_AT_LEAST = {
    "steps": 1, "n_layer": 2, "n_embd": 8, "vocab": 257, "batch": 1, "sentences": 2, "window": 2, "every": 1,
}  # fmt: skip


@dataclass(frozen=True)
class TrainConfig:
    """One training run. The README.md beside a trained model repeats the choices that made it."""

    corpus: str = DEMO_CORPUS
    """``demo``, or a folder of ``.txt`` files and ``.parquet`` files with a column ``text``."""
    steps: int | None = None
    """Stop after so many optimiser steps; None has no such end."""
    minutes: float | None = None
    """Stop after so many minutes of training; None has no such end."""
    n_layer: int = 4
    n_embd: int = 128
    vocab: int = 2048
    """Most tokens of the byte-level BPE that is trained on the corpus."""
    window: int = 128
    """Predicted tokens per training window."""
    batch: int = 64
    """Windows per step."""
    sentences: int = 64
    """Labelled paragraphs per step, half of them of each class; demo corpus only."""
    learning_rate: float = 2e-3
    """Highest learning rate: reached after a twentieth of the run, then falls along a cosine."""
    weight_decay: float = 0.1
    """Of the matrices inside the blocks and the heads."""
    dropout: float = 0.1
    """After every block."""
    noise: float = 0.05
    """Share of the input tokens that are replaced by random ones in training."""
    class_weight: float = 0.5
    """Weight of the classification loss beside the language-model loss."""
    every: int = 100
    """Steps between two validations."""
    patience: int = 20
    """Stop when so many validations in a row brought nothing better."""
    seed: int = 0
    device: str = "auto"
    graph: bool = True
    """On a GPU, record the step once as a CUDA graph and replay it."""

    def __post_init__(self) -> None:
        if self.steps is None and self.minutes is None:
            raise UsageError(
                "the training has no end; give --steps, --minutes, or both (the first one ends it)."
            )
        for name, least in _AT_LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(f"{name} {value} is out of range; it must be at least {least}.")
        for name in ("minutes", "learning_rate"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise UsageError(f"{name} {value} is out of range; it must be more than 0 and finite.")
        for name in ("weight_decay", "class_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise UsageError(
                    f"{name} {getattr(self, name)} is out of range; it must be 0 or more and finite."
                )
        for name in ("dropout", "noise"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise UsageError(
                    f"{name} {value} is out of range; it must be from 0 up to, not including, 1."
                )


@dataclass(frozen=True)
class TrainReport:
    """What a training run did. Validation text is neither trained nor tested on."""

    steps: int
    best_step: int
    """Step whose weights were saved."""
    seconds: float
    tokens: int
    """Predicted tokens seen in training, repeats counted."""
    parameters: int
    train_loss: float
    """Mean language-model loss in nats per token over the last steps before ``best_step``, dropout on."""
    valid_perplexity: float
    valid_accuracy: float | None
    """None when the corpus has no labels."""
    firing_rate: float
    """Mean spikes per neuron and step on the validation windows."""
    ended: str
    """Why: ``steps``, ``minutes`` or ``patience``."""
    device: str
    test_perplexity: float | None = None
    """On the task ``demo``; None for another corpus."""
    test_accuracy: float | None = None
    """On the task ``demo-classify``; None for another corpus."""
