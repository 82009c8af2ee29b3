"""TaskData, and the two ways text becomes token sequences: windows and single sentences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qslm_opt.data import TASK_KIND, TaskKind
from qslm_opt.data.hashing import data_hash
from qslm_opt.errors import DataError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Ids = NDArray[np.int64]
Encode = Callable[[Sequence[str]], list[Ids]]
"""From sentences to the ids of each."""
IDS: Any = np.int64


@dataclass(frozen=True)
class TaskData:
    """A task's evaluation data as token ids, in the order in which it is evaluated."""

    task: str
    kind: TaskKind
    split: str
    window: int | None
    """Predicted tokens of a full window; None for classification."""
    sequences: tuple[Ids, ...]
    """Language modelling: one window each, up to ``window + 1`` ids (inputs ``ids[:-1]``, targets
    ``ids[1:]``). Classification: one sentence's own ids each, no padding."""
    labels: Ids | None
    """Class of each sentence; None for language modelling."""
    data_hash: str
    """First 16 hex digits of SHA-256 over task, split, window, ids and labels."""
    source: str
    """Where the text came from."""
    label_names: tuple[str, ...] = ()
    """Meaning of label 0, 1, …; empty for language modelling."""
    pad_to: int | None = None
    """Ids that every sentence is padded to with id 0, the pads being tokens like others; None: only batches
    are padded, and pads count nowhere."""
    pads_alike: bool = False
    """Whether one pad of a sentence may stand for all of them."""

    @property
    def n(self) -> int:
        """What the metric is a mean over: predicted tokens, or sentences."""
        if self.kind == "lm":
            return sum(ids.size - 1 for ids in self.sequences)
        return len(self.sequences)

    def every(self, step: int) -> TaskData:
        """Return every ``step``-th window or sentence, the first among them; the hash names the step."""
        labels = None if self.labels is None else self.labels[::step]
        return replace(
            self, sequences=self.sequences[::step], labels=labels, data_hash=f"{self.data_hash}/{step}"
        )

    def places(self, ids: Ids) -> int:
        """Return how many ids of a batch a sentence takes, with the pads that are tokens."""
        if self.pad_to is None:
            return int(ids.size)
        return min(int(ids.size) + 1, self.pad_to) if self.pads_alike else self.pad_to

    @cached_property
    def max_id(self) -> int:
        """Largest token id that occurs; the model's vocabulary must have more rows than this."""
        return max(int(ids.max()) for ids in self.sequences)


def build(
    task: str,
    split: str,
    sequences: Sequence[Ids],
    *,
    source: str,
    window: int | None = None,
    labels: Ids | None = None,
    label_names: tuple[str, ...] = (),
) -> TaskData:
    """Return the TaskData of these sequences with its hash."""
    return TaskData(
        task, TASK_KIND[task], split, window, tuple(sequences), labels,
        data_hash(task, split, window, sequences, labels), source, label_names,
    )  # fmt: skip


def encode(
    tokenizer: Tokenizer, texts: Sequence[str], *, special: bool = False, longest: int | None = None
) -> list[Ids]:
    """Encode each text by itself, unpadded.

    ``special`` puts the tokenizer's special tokens around it; ``longest`` cuts its end off, not theirs.
    """
    cut = None if tokenizer.truncation is None else tokenizer.truncation["max_length"]
    if cut != longest or tokenizer.padding is not None:
        tokenizer = type(tokenizer).from_str(tokenizer.to_str())
        tokenizer.no_padding()
        if longest is None:
            tokenizer.no_truncation()
        else:
            tokenizer.enable_truncation(longest)
    encodings = tokenizer.encode_batch(list(texts), add_special_tokens=special)
    return [np.array(encoding.ids, dtype=IDS) for encoding in encodings]


def encode_sentences(
    tokenizer: Tokenizer, sentences: Sequence[str], *, task: str, special: bool = False,
    longest: int | None = None,
) -> list[Ids]:  # fmt: skip
    """Encode stripped sentences, see ``encode``; one that is empty becomes a single space.

    Raises:
        DataError: a sentence has no token at all with this tokenizer.
    """
    texts = [sentence.strip() or " " for sentence in sentences]
    encoded = encode(tokenizer, texts, special=special, longest=longest)
    for row, ids in enumerate(encoded):
        if ids.size == 0:
            raise DataError(
                f"task {task}: sentence {row} ({sentences[row]!r}) has no token with this tokenizer; "
                "remove the row or use the model's own tokenizer."
            )
    return encoded


def cut_windows(ids: Ids, window: int, task: str) -> list[Ids]:
    """Cut one token stream into non-overlapping windows of ``window`` predicted tokens, the last shorter.

    Window s holds ``ids[s : s + window + 1]``: its last id is the next window's first input, so every
    token but the very first is predicted exactly once.
    """
    if ids.size < 2:
        raise DataError(
            f"task {task}: the text has {ids.size} token(s); at least 2 are needed to predict one."
        )
    return [ids[start : start + window + 1] for start in range(0, ids.size - 1, window)]
