"""WordPiece vocabularies, cased and not: what is lower-cased, and who says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qslm_opt.errors import ModelError
from qslm_opt.models.words import read_tokenizer

SPECIAL = ["[PAD]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
CASED = [*SPECIAL, "the", "The", "film", "Film", "##s", "é", "caf", "##é", "##e", "cafe", "usa", "USA"]
UNCASED = [word for word in CASED if word in SPECIAL or word == word.lower()]
TEXT = "The USA Films Café"


def tokens(folder: Path, words: list[str], config: object = None) -> list[str]:
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", "utf-8")
    if config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = read_tokenizer(folder / "vocab.txt", len(words))
    found: list[str] = tokenizer.encode(TEXT).tokens
    assert (found[0], found[-1]) == ("[CLS]", "[SEP]")
    return found[1:-1]


def test_a_cased_vocabulary_keeps_capitals_and_accents(tmp_path: Path) -> None:
    assert tokens(tmp_path, CASED) == ["The", "USA", "Film", "##s", "[UNK]"]
    cased = [*CASED, "Caf"]
    assert tokens(tmp_path, cased) == ["The", "USA", "Film", "##s", "Caf", "##é"]


def test_an_uncased_one_lowers_and_strips(tmp_path: Path) -> None:
    assert tokens(tmp_path, UNCASED) == ["the", "usa", "film", "##s", "cafe"]


def test_a_tokenizers_config_beside_it_decides(tmp_path: Path) -> None:
    assert tokens(tmp_path, CASED, {"do_lower_case": True}) == ["the", "usa", "film", "##s", "cafe"]
    assert tokens(tmp_path, UNCASED, {"do_lower_case": False}) == ["[UNK]"] * 4
    assert tokens(tmp_path, CASED, {"model_max_length": 512})[:2] == ["The", "USA"]


@pytest.mark.parametrize("said", [[], "x", {"do_lower_case": 1}, {"do_lower_case": "false"}])
def test_a_tokenizers_config_that_cannot_be_is_named(said: object, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"tokenizer_config\.json"):
        tokens(tmp_path, CASED, said)


def test_the_published_uncased_vocabulary_is_known_as_such(shared: Path) -> None:
    tokenizer = read_tokenizer(shared / "tokenizers/bert-base-uncased-vocab.txt", 30522)
    assert tokenizer.encode("A Good Film").tokens == ["[CLS]", "a", "good", "film", "[SEP]"]
