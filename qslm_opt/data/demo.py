"""The embedded tasks: real text that every Python brings along, nothing to download.

``demo`` predicts the next token of docstrings of standard-library modules that no model was trained on
(``stdlib_text``); metric perplexity. ``demo-classify`` reads the first paragraph of a docstring and says
whether it documents a function (0) or a class (1); both classes equally often; metric accuracy. A linear
model on bags of words gets 84 % of them right.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from qslm_opt.data.stdlib_text import (
    PARTS,
    Docstring,
    Part,
    docstrings,
    documents,
    first_paragraph,
)
from qslm_opt.data.taskdata import IDS, Encode, Ids, TaskData, build, cut_windows, encode
from qslm_opt.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from tokenizers import Tokenizer

WINDOW = 128
"""Predicted tokens per window of the demo, unless asked otherwise."""
WINDOWS = 32
"""Windows of the demo without a limit: one evaluation takes a fraction of a second."""
LABELS = ("function", "class")
PER_CLASS = 150
"""At most so many sentences of each class are evaluated."""
MIN_CHARACTERS = 20
"""Shorter first paragraphs are left out."""

T = TypeVar("T")


def load_demo(tokenizer: Tokenizer, split: str | None, window: int | None, limit: int | None) -> TaskData:
    """Return windows of held-out docstrings, in an order whose every beginning samples all of the text."""
    part, window = _part("demo", split), window or WINDOW
    text = "\n\n".join(document.text for document in documents(part))
    windows = spread(cut_windows(encode(tokenizer, [text])[0], window, "demo"))
    return build("demo", part, windows[: limit or WINDOWS], source=_source(), window=window)


def load_demo_classify(encode: Encode, split: str | None, limit: int | None) -> TaskData:
    """Return first paragraphs of held-out docstrings, functions and classes in turn."""
    part = _part("demo-classify", split)
    by_label = [texts[:PER_CLASS] for texts in paragraphs(docstrings(part))]
    count = min(len(texts) for texts in by_label)
    pairs = [(texts[i], label) for i in range(count) for label, texts in enumerate(by_label)][:limit]
    sequences = encode([text for text, _ in pairs])
    labels: Ids = np.array([label for _, label in pairs], dtype=IDS)
    return build("demo-classify", part, sequences, source=_source(), labels=labels, label_names=LABELS)


def paragraphs(entries: Sequence[Docstring]) -> list[list[str]]:
    """Return the distinct first paragraphs of functions and of classes, each in the order of its hash.

    A paragraph that occurs for both kinds is left out: it has no right answer.
    """
    found: tuple[set[str], ...] = tuple(set() for _ in LABELS)
    for entry in entries:
        text = first_paragraph(entry.text)
        if entry.kind in LABELS and len(text) >= MIN_CHARACTERS:
            found[LABELS.index(entry.kind)].add(text)
    both = found[0] & found[1]
    return [sorted(texts - both, key=_digest) for texts in found]


def spread(windows: list[T]) -> list[T]:
    """Reorder by a hash of the place, so that the first few are a sample of all; the last one stays last."""
    order = sorted(range(len(windows) - 1), key=lambda place: _digest(str(place)))
    return [windows[place] for place in (*order, len(windows) - 1)]


def _part(task: str, split: str | None) -> Part:
    if split is None:
        return "test"
    for part in PARTS:
        if split == part:
            return part
    raise UsageError(
        f"task {task} has no split {split!r}; use one of {', '.join(PARTS)}.{did_you_mean(split, PARTS)}"
    )


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def _source() -> str:
    return f"standard library of Python {platform.python_version()}"
