"""The training loop: schedule, validation, early stop, and the folder that ``load_model`` reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import cos, isfinite, pi
from pathlib import Path
from time import perf_counter

import torch
from torch import Tensor

from qslm_opt.errors import NumericsError, UsageError
from qslm_opt.evaluate.device import pick_device
from qslm_opt.models.loading import save_model
from qslm_opt.models.spikegpt_config import SpikeGPTConfig
from qslm_opt.train.card import write_card
from qslm_opt.train.config import TrainConfig, TrainReport
from qslm_opt.train.corpus import Corpus, load_corpus
from qslm_opt.train.measure import Measured, measure, rounded, test_set
from qslm_opt.train.network import initial_tensors
from qslm_opt.train.stepper import Batches, Stepper

Narrate = Callable[[str], None]
_WARM_UP_SHARE = 0.05
_LAST_RATE = 0.05


@dataclass
class _Best:
    total: float = float("inf")
    step: int = 0
    train_loss: float = float("nan")
    validation: Measured | None = None
    tensors: dict[str, Tensor] = field(default_factory=dict)
    misses: int = 0


def train(config: TrainConfig, out: Path, narrate: Narrate) -> TrainReport:
    """Train a SpikeGPT from scratch and write its folder: weights in float16, config, tokenizer, README.

    Validated and saved weights are rounded to float16 first, so that the numbers are those of the files.

    Args:
        out: a folder that does not exist yet or is empty; written only at the end.
        narrate: told about progress, one line at a time.

    Raises:
        UsageError: ``out`` holds something. DataError: no or too little text.
        DeviceError: the device is missing. NumericsError: the loss became NaN.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"folder {str(out)!r} is not empty; give --out a new folder.")
    device = pick_device(config.device)
    narrate(f"reading corpus {config.corpus}")
    corpus = load_corpus(config)
    labels = 2 if corpus.train_sentences is not None else 0
    cfg = SpikeGPTConfig(corpus.tokenizer.get_vocab_size(), config.n_layer, config.n_embd, n_labels=labels)
    torch.manual_seed(config.seed)
    stepper = Stepper(initial_tensors(cfg, config.seed), cfg, config, Batches(corpus, config, device))
    parameters = sum(t.numel() for t in stepper.tensors.values())
    narrate(
        f"{parameters:,} parameters, {corpus.train.size:,} training tokens, {len(corpus.valid)} validation "
        f"windows of {config.window}, {cfg.vocab_size} tokens in the vocabulary, on {_device_name(device)}"
    )
    if device.type == "cuda" and config.graph:
        _record(stepper, narrate)
    report, best = _loop(stepper, corpus, narrate)
    report = _tested(report, best, stepper, corpus)
    save_model(out, cfg, {name: t.half() for name, t in best.items()}, corpus.tokenizer)
    write_card(out, config, cfg, corpus, report)
    narrate(f"saved {out}: the weights of step {report.best_step}")
    return report


def _loop(stepper: Stepper, corpus: Corpus, narrate: Narrate) -> tuple[TrainReport, dict[str, Tensor]]:
    config, best = stepper.config, _Best()
    losses: list[Tensor] = []
    start, step, ended = perf_counter(), 0, ""
    while not ended:
        share = _share(config, step, perf_counter() - start)
        stepper.step(learning_rate(config, share))
        losses.append(stepper.losses.clone())
        step += 1
        ended = _end(config, step, perf_counter() - start)
        if ended or step % config.every == 0:
            train_loss, found = _validate(stepper, corpus, step, losses, best)
            losses.clear()
            mark = ", best so far" if best.step == step else ""
            narrate(_progress(config, step, perf_counter() - start, train_loss, found) + mark)
            if not ended and best.misses >= config.patience:
                ended = "patience"
    kept = best.validation
    assert kept is not None
    return TrainReport(
        steps=step, best_step=best.step, seconds=perf_counter() - start,
        tokens=step * config.batch * config.window,
        parameters=sum(t.numel() for t in stepper.tensors.values()), train_loss=best.train_loss,
        valid_perplexity=kept.perplexity, valid_accuracy=kept.accuracy, firing_rate=kept.firing_rate,
        ended=ended, device=_device_name(stepper.losses.device),
    ), best.tensors  # fmt: skip


def learning_rate(config: TrainConfig, share: float) -> float:
    """Return the learning rate after this share (0..1) of the run."""
    if share < _WARM_UP_SHARE:
        return config.learning_rate * max(share / _WARM_UP_SHARE, 0.01)
    fall = (share - _WARM_UP_SHARE) / (1 - _WARM_UP_SHARE)
    return config.learning_rate * (_LAST_RATE + (1 - _LAST_RATE) * (1 + cos(pi * min(fall, 1.0))) / 2)


def _share(config: TrainConfig, step: int, seconds: float) -> float:
    by_steps = step / config.steps if config.steps else 0.0
    by_time = seconds / (60 * config.minutes) if config.minutes else 0.0
    return max(by_steps, by_time)


def _end(config: TrainConfig, step: int, seconds: float) -> str:
    if config.steps and step >= config.steps:
        return "steps"
    return "minutes" if config.minutes and seconds >= 60 * config.minutes else ""


def _validate(
    stepper: Stepper, corpus: Corpus, step: int, losses: list[Tensor], best: _Best
) -> tuple[float, Measured]:
    """Measure the rounded weights and keep them when they are the best so far; return both losses."""
    train_loss = float(torch.stack(losses)[:, 0].mean())
    p = rounded(stepper.tensors)
    found = measure(p, stepper.cfg, corpus.valid, corpus.valid_sentences)
    total = found.loss + stepper.config.class_weight * found.class_loss
    if not (isfinite(train_loss) and isfinite(total)):
        raise NumericsError(
            f"the training loss is {train_loss}, the validation loss {total} at step {step}; "
            f"use a lower --learning-rate than {stepper.config.learning_rate}."
        )
    best.misses += 1
    if total < best.total:
        best.total, best.step, best.train_loss, best.validation = total, step, train_loss, found
        best.tensors, best.misses = p, 0
    return train_loss, found


def _progress(config: TrainConfig, step: int, seconds: float, train_loss: float, found: Measured) -> str:
    accuracy = "" if found.accuracy is None else f", accuracy {found.accuracy:.1%}"
    speed = step * config.batch * config.window / seconds
    return (
        f"step {step}: loss {train_loss:.3f}, validation perplexity {found.perplexity:.2f}{accuracy}, "
        f"firing {found.firing_rate:.1%}, {speed:,.0f} tokens/s"
    )


def _tested(report: TrainReport, best: dict[str, Tensor], stepper: Stepper, corpus: Corpus) -> TrainReport:
    """Add the demo's test numbers; text of a folder has no test part."""
    if corpus.train_sentences is None:
        return report
    windows, sentences = test_set(corpus.tokenizer)
    found = measure(best, stepper.cfg, windows, sentences)
    return replace(report, test_perplexity=found.perplexity, test_accuracy=found.accuracy)


def _record(stepper: Stepper, narrate: Narrate) -> None:
    try:
        stepper.record()
        narrate("the training step is recorded as a CUDA graph")
    except RuntimeError as error:
        reason = str(error).strip().split("\n")[0]
        narrate(
            f"the training step cannot be recorded as a CUDA graph ({reason}); it runs plainly, more slowly"
        )


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
