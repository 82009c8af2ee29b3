from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from qslm_opt.data import TASK_KIND, load_task
from qslm_opt.data.hashing import data_hash
from qslm_opt.data.taskdata import build, cut_windows, encode
from qslm_opt.errors import DataError, UsageError
from qslm_opt.spec import TASKS

WORDS = ["[UNK]", "a", "fine", "film", "dull", "."]


@pytest.fixture
def words() -> Tokenizer:
    """One token a word; a space alone has no token."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


@pytest.fixture(scope="session")
def bpe(shared: Path) -> Tokenizer:
    return Tokenizer.from_file(str(shared / "models/spikegpt-14m-lm/tokenizer.json"))


@pytest.fixture
def parquet(tmp_path: Path) -> Callable[..., Path]:
    def write(name: str = "validation.parquet", **columns: Any) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), path)
        return tmp_path

    return write


def test_every_task_of_a_spec_has_a_kind() -> None:
    assert set(TASK_KIND) == set(TASKS)


def test_wikitext2_has_the_stated_number_of_predicted_tokens(bpe: Tokenizer, shared: Path) -> None:
    expected = json.loads((shared / "models/spikegpt-14m-lm/expected.json").read_text())
    data = load_task("wikitext2", bpe, data_dir=str(shared / "data"))
    assert data.n == expected["predicted_tokens"]
    assert (
        sum(len(ids) - 1 for ids in data.sequences[:32]) == expected["first_32_windows"]["predicted_tokens"]
    )
    assert {len(ids) for ids in data.sequences[:-1]} == {1025}
    assert data.sequences[0][-1] == data.sequences[1][0]
    assert data.max_id < bpe.get_vocab_size()
    assert (data.kind, data.split, data.labels) == ("lm", "test", None)


def test_sst2_has_872_validation_sentences_with_both_labels(bpe: Tokenizer, shared: Path) -> None:
    data = load_task("sst2", bpe, data_dir=str(shared / "data/sst2"))
    assert data.n == len(data.sequences) == 872
    assert data.labels is not None
    assert int(data.labels.sum()) == 444
    first = pq.read_table(shared / "data/sst2/validation.parquet").column("sentence")[0].as_py()
    assert bpe.decode(data.sequences[0].tolist()) == first.strip()


def test_local_data_needs_no_network_and_leaves_no_files(
    words: Tokenizer, parquet: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = parquet(sentence=["a fine film ."], label=[1])
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))

    def refuse(*args: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    load_task("sst2", words, data_dir=str(folder))
    assert list(scratch.iterdir()) == []
    assert sorted(path.name for path in folder.iterdir()) == ["scratch", "validation.parquet"]
    assert not (Path.home() / ".cache/huggingface/datasets").exists()


@pytest.mark.parametrize(
    "name",
    ["validation.parquet", "validation-00000-of-00001.parquet", "sst2/validation.parquet",
     "sst2/validation-00000-of-00001.parquet", "data/validation.parquet"],
)  # fmt: skip
def test_local_folders_may_be_laid_out_as_on_the_hub(
    name: str, words: Tokenizer, parquet: Callable[..., Path]
) -> None:
    folder = parquet(name, sentence=[" a fine film . ", "dull"], label=[1, 0], idx=[0, 1])
    data = load_task("sst2", words, data_dir=str(folder))
    assert [ids.tolist() for ids in data.sequences] == [[1, 2, 3, 5], [4]]
    assert data.label_names == ("negative", "positive")


def test_parts_of_a_split_are_read_in_order_and_none_may_lack(
    words: Tokenizer, parquet: Callable[..., Path]
) -> None:
    parquet("test-00001-of-00002.parquet", text=["film"])
    with pytest.raises(DataError, match=r"split 'test' in .* is incomplete \(test-00001-of-00002.parquet\)"):
        load_task("wikitext2", words, data_dir=str(parquet("train.parquet", text=["a"])))
    folder = parquet("test-00000-of-00002.parquet", text=["a", "fine"])
    data = load_task("wikitext2", words, data_dir=str(folder))
    assert data.sequences[0].tolist() == [1, 2, 3]


def test_windows_predict_every_token_but_the_first_exactly_once() -> None:
    ids = np.arange(23)
    for window in (1, 2, 5, 22, 100):
        windows = cut_windows(ids, window, "t")
        assert np.concatenate([w[1:] for w in windows]).tolist() == list(range(1, 23))
        assert all(len(w) == window + 1 for w in windows[:-1])
    with pytest.raises(DataError, match=r"has 1 token\(s\); at least 2"):
        cut_windows(ids[:1], 4, "t")


def test_limit_counts_windows_or_sentences(words: Tokenizer, parquet: Callable[..., Path]) -> None:
    folder = parquet("test.parquet", text=["a fine film . a dull film ."])
    data = load_task("wikitext2", words, data_dir=str(folder), window=3, limit=2)
    assert [ids.tolist() for ids in data.sequences] == [[1, 2, 3, 5], [5, 1, 4, 3]]
    assert (data.n, data.window) == (6, 3)
    folder = parquet(sentence=["a", "film", "dull"], label=[1, 1, 0])
    assert load_task("sst2", words, data_dir=str(folder), limit=2).n == 2


def test_a_tokenizer_that_cuts_or_pads_encodes_whole_texts_all_the_same(words: Tokenizer) -> None:
    words.enable_truncation(2)
    words.enable_padding(length=9)
    assert [ids.tolist() for ids in encode(words, ["a fine film .", "dull"])] == [[1, 2, 3, 5], [4]]
    assert words.truncation is not None, "the caller's tokenizer is left as it was"


def test_an_empty_sentence_is_one_space_or_an_error_where_a_space_has_no_token(
    bpe: Tokenizer, words: Tokenizer, parquet: Callable[..., Path]
) -> None:
    folder = parquet(sentence=["a film", "  "], label=[1, 0])
    data = load_task("sst2", bpe, data_dir=str(folder))
    assert data.sequences[1].tolist() == bpe.encode(" ").ids
    with pytest.raises(DataError, match=r"sentence 1 \('  '\) has no token with this tokenizer"):
        load_task("sst2", words, data_dir=str(folder))


def test_the_hash_names_task_split_window_ids_boundaries_and_labels() -> None:
    one, two = np.array([1, 2, 3]), np.array([4])
    labels = np.array([0, 1])
    seen = {
        data_hash("sst2", "validation", None, (one, two), labels),
        data_hash("sst2", "test", None, (one, two), labels),
        data_hash("wikitext2", "validation", None, (one, two), labels),
        data_hash("sst2", "validation", 3, (one, two), labels),
        data_hash("sst2", "validation", None, (one, two), None),
        data_hash("sst2", "validation", None, (one, two), labels[::-1]),
        data_hash("sst2", "validation", None, (np.array([1, 2]), np.array([3, 4])), labels),
        data_hash("sst2", "validation", None, (two, one), labels),
    }
    assert len(seen) == 8
    assert {len(value) for value in seen} == {16}


def test_the_hash_is_the_same_in_every_process_and_for_every_integer_type() -> None:
    ids = np.array([1, 2, 3])
    assert data_hash("demo", "test", 2, (ids,), None) == "d80a3e16007c75d6"
    assert data_hash("demo", "test", 2, (ids.astype(np.int32),), None) == "d80a3e16007c75d6"
    assert build("demo", "test", [ids], source="", window=2).data_hash == "d80a3e16007c75d6"


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"task": "sst3"}, r"task 'sst3' is unknown; use one of demo, .* Did you mean 'sst2'\?"),
        ({"window": 4}, "task sst2 reads single sentences and has no window"),
        ({"limit": 0}, "limit 0 is out of range; it must be at least 1"),
        ({"task": "demo", "data_dir": "here"}, "task demo brings its own text; leave out --data here"),
        ({"task": "demo", "split": "tests"}, r"demo has no split 'tests'; use .* Did you mean 'test'\?"),
    ],
)  # fmt: skip
def test_a_choice_the_task_does_not_have_is_a_usage_error(
    choices: dict[str, Any], message: str, words: Tokenizer
) -> None:
    task = choices.pop("task", "sst2")
    with pytest.raises(UsageError, match=message):
        load_task(task, words, **choices)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"sentence": ["a"], "target": [1]}, r"has no column 'label' \(it has sentence, target\)"),
        ({"sentence": pa.array([], "string"), "label": pa.array([], "int64")}, "is empty; give one"),
        ({"sentence": ["a", None], "label": [1, 0]}, "row 1 of column 'sentence' holds None, not text"),
        ({"sentence": ["a", "a"], "label": [1, 2]}, "row 1 of split 'validation' has label 2, not 0"),
        ({"sentence": ["a", "a"], "label": [1, None]}, "row 1 of split 'validation' has label None"),
        ({"sentence": ["a"], "label": [-1]}, r"label -1, not 0 or 1 \(the hub keeps the labels"),
    ],
)  # fmt: skip
def test_rows_that_do_not_fit_the_task_are_named(
    columns: dict[str, Any], message: str, words: Tokenizer, parquet: Callable[..., Path]
) -> None:
    with pytest.raises(DataError, match=message):
        load_task("sst2", words, data_dir=str(parquet(**columns)))


def test_missing_folders_and_splits_are_named_with_what_is_there(
    words: Tokenizer, parquet: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="data folder '/no/such' does not exist; give --data a folder"):
        load_task("sst2", words, data_dir="/no/such")
    (tmp_path / "here.parquet").write_bytes(b"")
    with pytest.raises(DataError, match=rf"here.parquet' is a file; give --data the folder .*'{tmp_path}'"):
        load_task("sst2", words, data_dir=str(tmp_path / "here.parquet"))
    (tmp_path / "here.parquet").unlink()
    with pytest.raises(DataError, match=r"no validation.parquet in .* \(it has no parquet file\)"):
        load_task("sst2", words, data_dir=str(tmp_path))
    parquet("train-00000-of-00001.parquet", sentence=["a"], label=[1])
    with pytest.raises(DataError, match=r"no test.parquet in .* \(it has train\)"):
        load_task("sst2", words, data_dir=str(tmp_path), split="test")


def test_a_damaged_file_is_said_to_be_one(words: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "validation.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(
        DataError, match=r"validation.parquet' cannot be read as parquet \(.+\); copy it again"
    ):
        load_task("sst2", words, data_dir=str(tmp_path))


def test_without_a_network_the_hub_error_says_what_to_give(words: Tokenizer) -> None:
    with pytest.raises(
        DataError, match=r"nyu-mll/glue \(sst2\) could not be loaded .* give --data DIR with valid"
    ):
        load_task("sst2", words)


def test_the_names_of_the_tasks_cost_no_heavy_import() -> None:
    import subprocess

    code = "import sys, qslm_opt.data; print({'numpy', 'torch', 'datasets'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
