from __future__ import annotations

import re
from collections import Counter
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from qslm_opt.data import load_task, stdlib_text
from qslm_opt.data.demo import paragraphs, spread
from qslm_opt.data.stdlib_text import (
    MODULES,
    PARTS,
    docstrings,
    documents,
    first_paragraph,
    part_of,
    training_documents,
)
from qslm_opt.errors import DataError
from qslm_opt.train.corpus import train_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([document.text for document in documents("validation")], 512)


@pytest.fixture(scope="module")
def by_part() -> dict[str, list[list[str]]]:
    return {part: paragraphs(docstrings(part)) for part in PARTS}


def test_the_parts_of_the_modules_are_those_the_packaged_model_was_trained_on() -> None:
    assignment = ",".join(f"{module}={part_of(module)}" for module in MODULES)
    assert sha256(assignment.encode()).hexdigest()[:12] == "59c085298b97"


def test_modules_that_moved_or_share_text_are_in_one_part() -> None:
    for together in (("datetime", "_pydatetime"), ("decimal", "_pydecimal"), ("posixpath", "ntpath", "os")):
        assert len({part_of(module) for module in together}) == 1


def test_no_document_is_in_two_parts() -> None:
    names = [document.name for part in PARTS for document in documents(part)]
    assert len(names) == len(set(names))
    assert {name.split("/")[0].removesuffix(".py") for name in names} <= set(MODULES)


def test_no_tested_sentence_occurs_in_the_training_text(by_part: dict[str, list[list[str]]]) -> None:
    held_out = {text for texts in by_part["test"] + by_part["validation"] for text in texts}
    flat = " ".join(" ".join(d.text for d in training_documents(held_out)).split())
    long = [text for text in held_out if len(text) >= 60]
    assert len(long) > 500
    assert [text for text in long if text in flat] == []


def test_the_demo_is_the_same_every_time_and_its_windows_sample_all_of_the_text(tokenizer: Tokenizer) -> None:
    data = load_task("demo", tokenizer)
    stdlib_text._files_of.cache_clear()
    again = load_task("demo", tokenizer)
    assert data.data_hash == again.data_hash
    assert (data.n, len(data.sequences), data.window) == (32 * 128, 32, 128)
    whole = load_task("demo", tokenizer, limit=10**6)
    assert [ids.tolist() for ids in whole.sequences[:32]] == [ids.tolist() for ids in data.sequences]
    assert {len(ids) for ids in whole.sequences[:-1]} == {129}
    assert load_task("demo", tokenizer, window=64).data_hash != data.data_hash


def test_the_order_of_windows_keeps_each_and_the_last_one_last() -> None:
    assert sorted(spread(list(range(50)))) == list(range(50))
    assert spread(list(range(50)))[-1] == 49
    assert np.std(spread(list(range(1000)))[:100]) > 250


def test_demo_classify_is_balanced_and_its_sentences_are_short(tokenizer: Tokenizer) -> None:
    data = load_task("demo-classify", tokenizer)
    assert data.labels is not None
    assert Counter(data.labels.tolist()) == {0: data.n // 2, 1: data.n // 2}
    assert 260 <= data.n <= 300
    assert data.label_names == ("function", "class")
    assert load_task("demo-classify", tokenizer, limit=10).labels.tolist() == [0, 1] * 5  # type: ignore[union-attr]
    assert load_task("demo-classify", tokenizer).data_hash == data.data_hash


def test_a_first_paragraph_is_one_line_cut_at_a_word() -> None:
    assert first_paragraph("Return\n  the  x.\n\nMore.") == "Return the x."
    assert first_paragraph("word " * 100) == " ".join(["word"] * 48)
    assert first_paragraph("x" * 300) == ""


def test_a_bag_of_words_gets_most_but_not_all_sentences_right(by_part: dict[str, list[list[str]]]) -> None:
    train, test = by_part["train"], [texts[:150] for texts in by_part["test"]]
    counts = [Counter(word for text in texts for word in _words(text)) for texts in train]
    sizes = [sum(count.values()) + len(counts[0] | counts[1]) for count in counts]

    def label(text: str) -> int:
        scores = [
            sum(np.log((count[word] + 1) / size) for word in _words(text))
            for count, size in zip(counts, sizes, strict=True)
        ]
        return int(np.argmax(scores))

    right = [label(text) == k for k, texts in enumerate(test) for text in texts]
    assert 0.75 <= float(np.mean(right)) <= 0.95


def _words(text: str) -> list[str]:
    words = re.findall(r"[a-z]+", text.lower())
    return [*words, *(f"^{word}" for word in words[:1])]


def test_a_python_without_source_files_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    stdlib_text._files_of.cache_clear()
    try:
        with pytest.raises(DataError, match="no source file of the standard library is in"):
            docstrings("test")
    finally:
        stdlib_text._files_of.cache_clear()


def test_a_missing_module_a_broken_file_and_a_test_folder_are_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json" / "tests").mkdir(parents=True)
    (tmp_path / "json" / "__init__.py").write_text(
        '"""Top."""\nclass A:\n    """An A."""\n    def f(self):\n        """F."""\n'
    )
    (tmp_path / "json" / "broken.py").write_text("def (")
    (tmp_path / "json" / "tests" / "extra.py").write_text('"""Not read."""')
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    stdlib_text._files_of.cache_clear()
    try:
        found = docstrings(part_of("json"))
    finally:
        stdlib_text._files_of.cache_clear()
    assert [(entry.where, entry.kind, entry.text) for entry in found] == [
        ("json/__init__.py:", "module", "Top."),
        ("json/__init__.py:A", "class", "An A."),
        ("json/__init__.py:A.f", "function", "F."),
    ]
