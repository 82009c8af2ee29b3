"""``qslm-opt model train``: every field of TrainConfig as a flag."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from qslm_opt.cli.model_options import Device
from qslm_opt.cli.options import Json
from qslm_opt.cli.output import narrate, print_json, print_line
from qslm_opt.train.config import TrainConfig


def train(
    out: Annotated[Path, typer.Option("--out", help="Folder to write; new or empty.", show_default=False)],
    corpus: Annotated[
        str, typer.Option("--corpus", help="'demo', or a folder of .txt and .parquet files.")
    ] = TrainConfig.corpus,
    steps: Annotated[int | None, typer.Option("--steps", help="Stop after so many steps.")] = None,
    minutes: Annotated[float | None, typer.Option("--minutes", help="Stop after so many minutes.")] = None,
    n_layer: Annotated[int, typer.Option("--n-layer", help="Blocks.")] = TrainConfig.n_layer,
    n_embd: Annotated[int, typer.Option("--n-embd", help="Width.")] = TrainConfig.n_embd,
    vocab: Annotated[int, typer.Option("--vocab", help="Most tokens of the tokenizer.")] = TrainConfig.vocab,
    window: Annotated[
        int, typer.Option("--window", help="Predicted tokens per window.")
    ] = TrainConfig.window,
    batch: Annotated[int, typer.Option("--batch", help="Windows per step.")] = TrainConfig.batch,
    sentences: Annotated[
        int, typer.Option("--sentences", help="Labelled paragraphs per step (demo corpus).")
    ] = TrainConfig.sentences,
    learning_rate: Annotated[
        float, typer.Option("--learning-rate", help="Highest learning rate.")
    ] = TrainConfig.learning_rate,
    weight_decay: Annotated[
        float, typer.Option("--weight-decay", help="Of the matrices.")
    ] = TrainConfig.weight_decay,
    dropout: Annotated[float, typer.Option("--dropout", help="After every block.")] = TrainConfig.dropout,
    noise: Annotated[
        float, typer.Option("--noise", help="Share of the input tokens replaced by random ones.")
    ] = TrainConfig.noise,
    class_weight: Annotated[
        float, typer.Option("--class-weight", help="Weight of the classification loss.")
    ] = TrainConfig.class_weight,
    every: Annotated[int, typer.Option("--every", help="Steps between two validations.")] = TrainConfig.every,
    patience: Annotated[
        int, typer.Option("--patience", help="Stop after so many validations without a better one.")
    ] = TrainConfig.patience,
    seed: Annotated[int, typer.Option("--seed")] = TrainConfig.seed,
    device: Device = TrainConfig.device,
    graph: Annotated[
        bool, typer.Option(help="Record the step as a CUDA graph (GPU only).")
    ] = TrainConfig.graph,
    json: Json = False,
) -> None:
    """Train a small SpikeGPT from scratch: how the packaged demo model was made."""
    config = TrainConfig(
        corpus=corpus,
        steps=steps,
        minutes=minutes,
        n_layer=n_layer,
        n_embd=n_embd,
        vocab=vocab,
        window=window,
        batch=batch,
        sentences=sentences,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        dropout=dropout,
        noise=noise,
        class_weight=class_weight,
        every=every,
        patience=patience,
        seed=seed,
        device=device,
        graph=graph,
    )
    from qslm_opt.train import train as run

    report = run(config, out, narrate)
    if json:
        print_json({"out": str(out), **asdict(report)})
    else:
        print_line(str(out))
