"""The README.md beside trained weights: what the model is and how it was made."""

from __future__ import annotations

import platform
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from qslm_opt import __version__
from qslm_opt.train.config import DEMO_CORPUS, TrainConfig, TrainReport

if TYPE_CHECKING:
    from qslm_opt.models.spikegpt_config import SpikeGPTConfig
    from qslm_opt.train.corpus import Corpus

_DEMO_TEXT = """\
The text is what Python itself brings along: docstrings and comments of standard-library modules and the
language reference (`pydoc_data.topics`). Modules are split into training, validation and test by a hash of
their name, so no Python version tests what another was trained on. `classifier.weight` says whether the
first paragraph of a docstring documents a function (0) or a class (1); both heads share one body and were
trained together."""


def command(config: TrainConfig) -> str:
    """Return the command line that repeats a run, without ``--out``."""
    words = ["qslm-opt model train"]
    defaults = {f.name: f.default for f in fields(TrainConfig)}
    for name, default in defaults.items():
        value = getattr(config, name)
        if value == default:
            continue
        words.append("--no-graph" if name == "graph" else f"--{name.replace('_', '-')} {value}")
    return " ".join(words)


def write_card(
    out: Path, config: TrainConfig, cfg: SpikeGPTConfig, corpus: Corpus, report: TrainReport
) -> None:
    """Write ``out/README.md``."""
    rows = [
        ("made by", f"`{command(config)}`, qslm-opt {__version__}, torch {torch.__version__}, "
                    f"Python {platform.python_version()}, {report.device}"),
        ("size", f"{report.parameters:,} parameters: {cfg.n_layer} blocks, width {cfg.n_embd}, "
                 f"{cfg.vocab_size} tokens in the vocabulary; stored as float16"),
        ("text", f"{corpus.source}: {corpus.train.size:,} training tokens"),
        ("training", f"{report.steps:,} steps, {report.tokens:,} tokens, {report.seconds / 60:.1f} minutes, "
                     f"ended by {report.ended}; the saved weights are those of step {report.best_step:,}"),
        ("training loss", f"{report.train_loss:.3f} nats per token (with dropout)"),
        ("validation", _numbers(report.valid_perplexity, report.valid_accuracy)
                       + f", {report.firing_rate:.1%} of the neurons fire at a step"),
    ]  # fmt: skip
    if report.test_perplexity is not None:
        rows.append(
            ("test (`demo`, `demo-classify`)", _numbers(report.test_perplexity, report.test_accuracy))
        )
    lines = [f"# A SpikeGPT of {report.parameters / 1e6:.1f} million parameters", ""]
    lines.append(
        "A small spiking language model, trained from scratch by qslm-opt. Good for trying qslm-opt out."
    )
    lines += ["", *([_DEMO_TEXT, ""] if config.corpus == DEMO_CORPUS else []), "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in rows]
    (out / "README.md").write_text("\n".join(lines) + "\n", "utf-8")


def _numbers(perplexity: float, accuracy: float | None) -> str:
    return f"perplexity {perplexity:.2f}" + ("" if accuracy is None else f", accuracy {accuracy:.1%}")
