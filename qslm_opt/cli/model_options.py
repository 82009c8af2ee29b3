"""Arguments and options that the ``model`` commands share."""

from __future__ import annotations

from typing import Annotated

import typer

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="'demo', a folder (packed ones too), a .pth file, or a Hugging Face id.",
        show_default=False,
    ),
]
Task = Annotated[
    str, typer.Option("--task", help="demo, demo-classify, sst2 or wikitext2.", show_default=False)
]
Data = Annotated[
    str | None, typer.Option("--data", metavar="DIR", help="Folder with the task's parquet files.")
]
Split = Annotated[str | None, typer.Option("--split", help="Data split; the task's own without it.")]
Window = Annotated[
    int | None, typer.Option("--window", help="Predicted tokens per window (language modelling).")
]
Limit = Annotated[int | None, typer.Option("--limit", help="Only the first so many windows or sentences.")]
Layout = Annotated[
    str | None,
    typer.Option("--layout", help="Scales: tensor, channel or groupN, then /affine, /offset, /symmetric or "
                 "/midrise. Without it channel/affine, with --quantizer paper tensor/affine, with hqq "
                 "channel/offset.", show_default=False),
]  # fmt: skip
Quantizer = Annotated[
    str | None,
    typer.Option("--quantizer", help="rtn, mse, hqq, gptq, or the authors' own: paper; rtn without it.",
                 show_default=False),
]  # fmt: skip
CalibrationSplit = Annotated[
    str | None,
    typer.Option("--calibration-split", help="Split that gptq looks at; the task's own without it.",
                 show_default=False),
]  # fmt: skip
Calibration = Annotated[
    int | None,
    typer.Option("--calibration", help="How many windows or sentences gptq looks at.", show_default=False),
]
Scope = Annotated[
    str | None,
    typer.Option(
        "--scope",
        help="What --bits means: searched (the rest fp16), all (every tensor) or linear (the matrices of "
        "the attention blocks, the rest fp32); searched without it",
        show_default=False,
    ),
]
SignEmbedding = Annotated[
    bool,
    typer.Option("--sign-embedding/--no-sign-embedding",
                 help="Keep an embedding of which only the signs are read at the lossless 1-bit format."),
]  # fmt: skip
EmbedSpike = Annotated[
    str, typer.Option("--embed-spike", help="Heaviside on the embedding: on, off or auto.")
]
RescaleEvery = Annotated[
    int, typer.Option("--rescale-every", help="Halve the residual every N blocks; 0 never.")
]
Family = Annotated[
    str | None,
    typer.Option("--family", help="Model family, where the tensors' names do not tell it; or a mapping file "
                 "(.toml), whose code is then run.",
                 show_default=False),
]  # fmt: skip
Tokenizer = Annotated[
    str | None,
    typer.Option("--tokenizer", metavar="PATH", help="tokenizer.json or WordPiece vocab.txt that is not "
                 "beside the model.", show_default=False),
]  # fmt: skip
Timesteps = Annotated[
    int | None,
    typer.Option("--timesteps", metavar="T", help="Steps over which each token is presented; the model's "
                 "own without it.", show_default=False),
]  # fmt: skip
Config = Annotated[
    list[str] | None,
    typer.Option("--config", metavar="KEY=VALUE", help="Key of the model's config that its files do not "
                 "say; repeatable.", show_default=False),
]  # fmt: skip
Matmul = Annotated[
    str, typer.Option("--matmul", help="Precision of matrix products: auto, fp32, tf32, fp16 or split.")
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
