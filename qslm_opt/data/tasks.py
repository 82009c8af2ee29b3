"""``load_task``: a task's name, a tokenizer and a few choices become TaskData."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from qslm_opt.data import TASK_KIND
from qslm_opt.data.taskdata import encode_sentences
from qslm_opt.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from qslm_opt.data.taskdata import Encode, TaskData


def load_task(
    task: str,
    tokenizer: Tokenizer,
    *,
    data_dir: str | None = None,
    split: str | None = None,
    window: int | None = None,
    limit: int | None = None,
    special: bool = False,
    longest: int | None = None,
    pad_to: int | None = None,
    pads_alike: bool = False,
) -> TaskData:
    """Load a task's evaluation data.

    Args:
        task: ``demo``, ``demo-classify``, ``sst2`` or ``wikitext2``.
        tokenizer: the model's own.
        data_dir: folder with the task's parquet files; None loads them from the Hugging Face hub. The demo
            tasks need neither.
        split: data split; None takes the task's own (``validation`` for sst2, else ``test``).
        window: predicted tokens per window, language modelling only; None takes 1024 (demo: 128).
        limit: only the first so many windows or sentences; None takes all (demo: 32 windows).
        special: whether the tokenizer's special tokens stand around a sentence.
        longest: most ids of a sentence, special ones included; the rest is cut off.
        pad_to: ids that every sentence is padded to, see ``TaskData``.
        pads_alike: whether one pad may stand for all of a sentence.

    Raises:
        UsageError: the task, or a choice it does not have.
        DataError: the data cannot be read or does not fit the task.
    """
    if task not in TASK_KIND:
        raise UsageError(
            f"task {task!r} is unknown; use one of {', '.join(TASK_KIND)}.{did_you_mean(task, TASK_KIND)}"
        )
    for name, value in (("window", window), ("limit", limit)):
        if value is not None and value < 1:
            raise UsageError(f"{name} {value} is out of range; it must be at least 1.")
    if window is not None and TASK_KIND[task] != "lm":
        raise UsageError(
            f"task {task} reads single sentences and has no window; leave out --window {window}."
        )
    if TASK_KIND[task] == "classification":
        encode = partial(encode_sentences, tokenizer, task=task, special=special, longest=longest)
        made = _classification(task, encode, data_dir, split, limit)
        return replace(made, pad_to=pad_to, pads_alike=pads_alike)
    if task == "demo":
        from qslm_opt.data.demo import load_demo

        _check_own_text(task, data_dir)
        return load_demo(tokenizer, split, window, limit)
    from qslm_opt.data.wikitext2 import load_wikitext2

    return load_wikitext2(tokenizer, data_dir, split, window, limit)


def _classification(
    task: str, encode: Encode, data_dir: str | None, split: str | None, limit: int | None
) -> TaskData:
    if task == "sst2":
        from qslm_opt.data.sst2 import load_sst2

        return load_sst2(encode, data_dir, split, limit)
    from qslm_opt.data.demo import load_demo_classify

    _check_own_text(task, data_dir)
    return load_demo_classify(encode, split, limit)


def _check_own_text(task: str, data_dir: str | None) -> None:
    if data_dir is not None:
        raise UsageError(f"task {task} brings its own text; leave out --data {data_dir}.")
