"""The keys of a StudySpec as options of ``study create``; None means not given."""

from __future__ import annotations

from typing import Annotated, Any

import typer

_MODEL, _BOUND, _SPACE, _DATA = "Model", "Constraints and score", "Search space", "Data"
_HOW = "Strategy"


def _flag(name: str, panel: str, text: str, metavar: str | None = None) -> Any:
    return typer.Option(name, help=text, metavar=metavar, show_default=False, rich_help_panel=panel)


Model = Annotated[str | None, _flag("--model", _MODEL, "demo, a folder, a .pth file, or a Hugging Face id.")]
Task = Annotated[str | None, _flag("--task", _MODEL, "demo, demo-classify, sst2 or wikitext2.")]
EmbedSpike = Annotated[
    str | None, _flag("--embed-spike", _MODEL, "Heaviside on the embedding: on, off or auto. [default: on]")
]
RescaleEvery = Annotated[
    int | None, _flag("--rescale-every", _MODEL, "Halve the residual every N blocks; 0 never. [default: 0]")
]
Family = Annotated[
    str | None,
    _flag("--family", _MODEL, "Model family, where names of tensors do not tell it; or a mapping file "
          "(.toml), whose code is then run."),
]
Tokenizer = Annotated[
    str | None,
    _flag("--tokenizer", _MODEL, "tokenizer.json or WordPiece vocab.txt, not beside the model.", "PATH"),
]
Timesteps = Annotated[
    int | None,
    _flag("--timesteps", _MODEL, "Steps over which each token is presented. [default: the model's]", "T"),
]
Config = Annotated[
    list[str] | None,
    _flag("--config", _MODEL, "Key of the model's config that no file says; repeatable.", "KEY=VALUE"),
]
MemoryBudget = Annotated[
    str | None, _flag("--memory-budget", _BOUND, "At most 400MB, 26.5MiB, or 12% of float32.", "SIZE")
]
MaxDrop = Annotated[
    float | None, _flag("--max-drop", _BOUND, "Accuracy may fall by at most this (0.02 is two points).")
]
MinAccuracy = Annotated[
    float | None, _flag("--min-accuracy", _BOUND, "Accuracy must be at least this (0..1).")
]
MaxIncrease = Annotated[
    str | None, _flag("--max-increase", _BOUND, "Perplexity may rise by at most this: 1.0 or 3.8%.")
]
MaxPerplexity = Annotated[float | None, _flag("--max-perplexity", _BOUND, "Perplexity must be at most this.")]
Lambda = Annotated[
    float | None,
    _flag("--lambda", _BOUND, "Weight of memory in the score: ranks, decides no verdict. [default: 0.2]"),
]
Precisions = Annotated[
    str | None,
    _flag("--precisions", _SPACE,
          "Bits to try, falling: 16 to 2, 1.58 (ternary), 1. [default: 16,12,10,8,6,5,4,3,2]", "BITS"),
]  # fmt: skip
SensitivityPrecisions = Annotated[
    str | None,
    _flag("--sensitivity-precisions", _SPACE, "Bits of the sensitivity sweep. [default: all]", "BITS"),
]
Layout = Annotated[
    str | None,
    _flag("--layout", _SPACE, "Scales: tensor, channel or groupN, then /affine, /offset, /symmetric or "
                              "/midrise. [default: channel/affine]"),
]  # fmt: skip
Quantizer = Annotated[
    str | None, _flag("--quantizer", _SPACE, "rtn, mse, hqq, gptq or paper. [default: rtn]")
]
CalibrationSplit = Annotated[
    str | None,
    _flag("--calibration-split", _DATA, "Split that gptq and --tune look at; the task's own without it."),
]
Calibration = Annotated[
    int | None, _flag("--calibration", _DATA, "How many windows or sentences gptq looks at.")
]
Fixed = Annotated[
    str | None,
    _flag("--fixed", _SPACE, "Format of what is not searched (LayerNorm, time_*). [default: fp16]"),
]
SignEmbedding = Annotated[
    bool | None,
    _flag("--sign-embedding/--no-sign-embedding", _SPACE,
          "Keep an embedding of which only the signs are read at 1 bit. [default: yes]"),
]  # fmt: skip
Pin = Annotated[
    list[str] | None, _flag("--pin", _SPACE, "Keep a unit at a format; repeatable.", "UNIT=FORMAT")
]
Exclude = Annotated[
    list[str] | None,
    _flag("--exclude", _SPACE, "Leave a unit unquantized, in float32; repeatable, * allowed.", "UNIT"),
]
Tie = Annotated[
    list[str] | None,
    _flag("--tie", _SPACE, "Modules that always get the same bits, for instance 'attention.*/att.key'; "
                           "repeatable.", "UNIT,…"),
]  # fmt: skip
Strategy = Annotated[
    str | None,
    _flag("--strategy", _HOW, "tiered, beam, knapsack, tpe, nsga2 or random. [default: tiered]"),
]
BeamWidth = Annotated[
    int | None, _flag("--beam-width", _HOW, "Incumbents that the beam keeps. [default: 4]", "W")
]
Evaluations = Annotated[
    int | None,
    _flag("--evaluations", _HOW,
          "Most evaluations, cheap ones by their share; tpe, nsga2 and random: 200 without it.", "N"),
]  # fmt: skip
Tune = Annotated[
    int | None,
    _flag("--tune", _HOW, "At the end, tune settings by so many steps of distillation on the calibration "
          "split, and search the smallest that is then good enough. [default: 0, no]", "STEPS"),
]  # fmt: skip
Gate = Annotated[
    bool | None,
    _flag("--gate/--no-gate", _HOW,
          "Let membrane drift order and postpone settings (beam, knapsack). [default: no]"),
]  # fmt: skip
Every = Annotated[
    int | None,
    _flag("--every", _HOW, "The knapsack measures steps on every K-th window or sentence; 2 to 8 by data.",
          "K"),
]  # fmt: skip
Seed = Annotated[
    int | None,
    _flag("--seed", _HOW, "Seed of tpe, nsga2 and random; ours are not random. [default: 0]"),
]
Data = Annotated[
    str | None, _flag("--data", _DATA, "Folder with the task's parquet files; else the hub.", "DIR")
]
Split = Annotated[str | None, _flag("--split", _DATA, "Data split; the task's own without it.")]
Window = Annotated[int | None, _flag("--window", _DATA, "Predicted tokens per window (language modelling).")]
HoldBack = Annotated[
    float | None,
    _flag("--hold-back", _DATA, "Share of the data that the search never sees; its result is measured on it.",
          "SHARE"),
]  # fmt: skip
ReportSplit = Annotated[
    str | None, _flag("--report-split", _DATA, "Another split that the result is measured on.", "SPLIT")
]
Confidence = Annotated[
    float | None,
    _flag("--confidence", _BOUND, "The metric bound must hold with this confidence, such as 0.95."),
]
Limit = Annotated[int | None, _flag("--limit", _DATA, "Only the first so many windows or sentences.")]
Matmul = Annotated[
    str | None,
    _flag("--matmul", _DATA, "Matrix products: auto, fp32, tf32, fp16 or split. [default: auto]"),
]
WindowBatch = Annotated[int | None, _flag("--window-batch", _DATA, "Windows or sentences per batch.")]
