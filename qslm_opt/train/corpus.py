"""Training text as token ids: the demo's own, or a folder of text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from qslm_opt.data.demo import LABELS, paragraphs, spread
from qslm_opt.data.stdlib_text import docstrings, documents, training_documents
from qslm_opt.data.taskdata import IDS, Ids, cut_windows, encode, encode_sentences
from qslm_opt.errors import DataError
from qslm_opt.train.config import DEMO_CORPUS, TrainConfig

if TYPE_CHECKING:
    from tokenizers import Tokenizer

VALID_WINDOWS = 64
"""At most so many windows of validation text are evaluated each time."""
PIECE = 8192
"""Characters of the pieces that a folder's text is cut into; every twentieth is kept for validation."""
_VALID_EVERY = 20
_LONGEST_SENTENCE = 96
"""Training sentences are cut to this many tokens."""


@dataclass(frozen=True)
class Sentences:
    """Labelled sentences, padded on the right with 0."""

    ids: Ids  # (N, T)
    lengths: Ids  # (N,)
    labels: Ids  # (N,)


@dataclass(frozen=True)
class Corpus:
    """What a model is trained and validated on."""

    tokenizer: Tokenizer
    train: Ids
    """One stream of tokens."""
    valid: Ids
    """Windows of ``window + 1`` ids [N, window + 1]."""
    train_sentences: Sentences | None
    valid_sentences: Sentences | None
    source: str


def load_corpus(config: TrainConfig) -> Corpus:
    """Read the text, train the tokenizer on its training part, and encode it.

    Raises:
        DataError: no text, or too little for one window.
    """
    if config.corpus == DEMO_CORPUS:
        return _demo(config)
    train, valid = split_pieces(read_folder(Path(config.corpus).expanduser()))
    tokenizer = train_tokenizer(train, config.vocab)
    stream, windows = _encode(tokenizer, train, valid, config.window)
    return Corpus(tokenizer, stream, windows, None, None, config.corpus)


def _demo(config: TrainConfig) -> Corpus:
    import platform

    held_out = [texts for part in ("validation", "test") for texts in paragraphs(docstrings(part))]
    known = {text for texts in held_out for text in texts}
    labelled = [[text for text in texts if text not in known] for texts in paragraphs(docstrings("train"))]
    train = [document.text for document in training_documents(known)]
    valid = [document.text for document in documents("validation")]
    tokenizer = train_tokenizer(train, config.vocab)
    stream, windows = _encode(tokenizer, train, valid, config.window)
    return Corpus(
        tokenizer, stream, windows,
        _sentences(tokenizer, labelled),
        _sentences(tokenizer, _balanced(paragraphs(docstrings("validation")))),
        f"standard library of Python {platform.python_version()}",
    )  # fmt: skip


def train_tokenizer(texts: Sequence[str], vocab: int) -> Tokenizer:
    """Return a byte-level BPE of at most ``vocab`` tokens; any text has an encoding."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab, min_frequency=2, initial_alphabet=sorted(alphabet), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def read_folder(folder: Path) -> list[str]:
    """Return the texts of a folder: each ``.txt`` file, each row of a ``.parquet`` file's column ``text``."""
    if not folder.is_dir():
        raise DataError(
            f"corpus {str(folder)!r} is no folder; give 'demo' or a folder of .txt or .parquet files."
        )
    texts = []
    for path in sorted(folder.iterdir()):
        if path.suffix == ".txt":
            texts.append(path.read_text("utf-8", errors="replace"))
        elif path.suffix == ".parquet":
            texts += _read_parquet(path)
    if not any(text.strip() for text in texts):
        raise DataError(
            f"corpus {str(folder)!r} has no text; put .txt or .parquet files with a column 'text' there."
        )
    return texts


def _read_parquet(path: Path) -> list[str]:
    from pyarrow import ArrowException
    from pyarrow.parquet import read_table

    try:
        table = read_table(path)
    except (ArrowException, OSError) as error:
        raise DataError(f"corpus file {str(path)!r} cannot be read as parquet ({error}).") from None
    if "text" not in table.column_names:
        raise DataError(
            f"corpus file {str(path)!r} has no column 'text' (it has {', '.join(table.column_names)})."
        )
    return [row for row in table.column("text").to_pylist() if row]


def split_pieces(texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """Cut all text into pieces of at most ``PIECE`` characters, twenty or more; every twentieth validates."""
    whole = "\n\n".join(texts)
    size = min(PIECE, max(1, len(whole) // _VALID_EVERY))
    pieces = [whole[start : start + size] for start in range(0, len(whole), size)]
    valid = pieces[_VALID_EVERY - 1 :: _VALID_EVERY]
    kept = [piece for i, piece in enumerate(pieces) if i % _VALID_EVERY != _VALID_EVERY - 1]
    return kept, valid


def _encode(tokenizer: Tokenizer, train: Sequence[str], valid: Sequence[str], window: int) -> tuple[Ids, Ids]:
    stream = np.concatenate(encode(tokenizer, [text + "\n\n" for text in train]))
    held_out = encode(tokenizer, ["\n\n".join(valid)])[0]
    if min(stream.size, held_out.size) <= window + 1:
        raise DataError(
            f"the corpus is too small for windows of {window} tokens ({stream.size} to train on, "
            f"{held_out.size} to validate on); give more text or a smaller --window."
        )
    whole = [ids for ids in spread(cut_windows(held_out, window, "training")) if ids.size == window + 1]
    return stream, np.stack(whole[:VALID_WINDOWS])


def _balanced(by_label: list[list[str]]) -> list[list[str]]:
    count = min(len(texts) for texts in by_label)
    return [texts[:count] for texts in by_label]


def _sentences(tokenizer: Tokenizer, by_label: list[list[str]]) -> Sentences:
    texts = [text for texts in by_label for text in texts]
    labels: Ids = np.array([label for label, texts in enumerate(by_label) for _ in texts], dtype=IDS)
    assert len(by_label) == len(LABELS)
    encoded = [ids[:_LONGEST_SENTENCE] for ids in encode_sentences(tokenizer, texts, task="training")]
    return pad_sentences(encoded, labels)


def pad_sentences(sequences: Sequence[Ids], labels: Ids) -> Sentences:
    """Return sequences of ids as one array, padded on the right."""
    lengths: Ids = np.array([ids.size for ids in sequences], dtype=IDS)
    padded = np.zeros((len(sequences), int(lengths.max())), dtype=IDS)
    for row, ids in zip(padded, sequences, strict=True):
        row[: ids.size] = ids
    return Sentences(padded, lengths, labels)
