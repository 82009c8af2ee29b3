"""Tokenizers from files: ``tokenizer.json`` as it stands, or the WordPiece of a BERT ``vocab.txt``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from qslm_opt.errors import ModelError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

UNKNOWN, START, END, PADDING = "[UNK]", "[CLS]", "[SEP]", "[PAD]"
TOKENIZER_CONFIG = "tokenizer_config.json"
_LONGEST_WORD = 100


def open_tokenizer(path: Path) -> Tokenizer:
    """Read a tokenizer; one of another suffix than ``.json`` is a WordPiece vocabulary, a token a line."""
    from tokenizers import Tokenizer

    if path.suffix == ".json":
        read: Tokenizer = Tokenizer.from_file(str(path))
        return read
    return word_pieces(path)


def word_pieces(path: Path) -> Tokenizer:
    """Return the WordPiece tokenizer of BERT for a vocabulary; special tokens stand around each sentence.

    Text is lower-cased and stripped of accents where ``do_lower_case`` of a ``tokenizer_config.json`` beside
    it says so; where there is none, unless the vocabulary has tokens with capitals.

    Raises:
        ModelError: [UNK], [CLS], [SEP] or [PAD] is missing, [PAD] is not token 0, or the file beside it
            cannot be read.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    lines = path.read_text("utf-8").split("\n")
    words = {line.rstrip("\r"): i for i, line in enumerate(lines) if line.strip()}
    missing = [word for word in (UNKNOWN, START, END, PADDING) if word not in words]
    if missing or words[PADDING] != 0:
        what = f"has no {', '.join(missing)}" if missing else f"has {PADDING} elsewhere than in line 1"
        raise ModelError(f"vocabulary {str(path)!r} {what}; give a BERT vocab.txt.")
    special = {UNKNOWN, START, END, PADDING, "[MASK]"}
    plain = (word for word in words if word not in special and word[:7] != "[unused")
    told = _told_lower(path.parent / TOKENIZER_CONFIG)
    lower = all(word == word.lower() for word in plain) if told is None else told
    made = Tokenizer(
        models.WordPiece(vocab=words, unk_token=UNKNOWN, max_input_chars_per_word=_LONGEST_WORD)
    )
    made.normalizer = normalizers.BertNormalizer(lowercase=lower)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.BertProcessing((END, words[END]), (START, words[START]))
    made.decoder = decoders.WordPiece()
    made.add_special_tokens([word for word in special if word in words])
    return made


def _told_lower(path: Path) -> bool | None:
    """Return ``do_lower_case`` of a tokenizer's config; None where it does not say."""
    if not path.is_file():
        return None
    try:
        said = json.loads(path.read_text("utf-8")).get("do_lower_case")
    except (OSError, ValueError, RecursionError, AttributeError) as error:
        raise ModelError(f"{str(path)!r} cannot be read ({error}); correct it, or remove it.") from None
    if said is not None and not isinstance(said, bool):
        raise ModelError(f"do_lower_case of {str(path)!r} is {said!r:.80}; it must be true or false.")
    return said


def read_tokenizer(path: Path, vocab_size: int) -> Tokenizer:
    """Read a ``tokenizer.json``, or a WordPiece ``vocab.txt``, whose ids fit ``vocab_size`` rows."""
    try:
        tokenizer = open_tokenizer(path)
        largest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
    except (KeyboardInterrupt, SystemExit, ModelError):
        raise
    except BaseException as error:  # noqa: BLE001 - plain ones, or a panic of its Rust code
        raise ModelError(
            f"tokenizer {str(path)!r} cannot be read ({error}); put the model's own tokenizer.json there."
        ) from None
    if largest >= vocab_size:
        raise ModelError(
            f"tokenizer {str(path)!r} has {largest + 1} tokens but the embedding has {vocab_size} rows: "
            "it is the tokenizer of another model; put this model's own there."
        )
    return tokenizer
