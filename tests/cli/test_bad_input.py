"""Bad input as a user gives it: one line that names the value and the fix, and the exit code."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from qslm_opt.cli.main import run
from qslm_opt.models.loading import save_model
from qslm_opt.models.spikegpt_config import SpikeGPTConfig
from qslm_opt.store import Repository, prepare

ROOT = Path(__file__).resolve().parents[2]
WORDS = ("[UNK]", "a", "fine", "dull", "film", "story", ".", "and")
CONFIG = SpikeGPTConfig(vocab_size=len(WORDS), n_layer=2, n_embd=16, n_labels=2)
SENTENCES = {"sentence": ["a fine film .", "a dull story .", "dull .", "fine"], "label": [1, 0, 0, 1]}
DEMO = ("--model", "demo", "--device", "cpu", "--progress", "none")
NEVER_TRIED = ("--max-increase", "10%", "--memory-budget", "12%")

Create = Callable[..., tuple[int, str]]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/q.db"


@pytest.fixture
def create(url: str, capsys: pytest.CaptureFixture[str]) -> Create:
    """Run ``study create NAME … --storage URL``; return its exit code and its last line on stderr."""

    def call(name: str, *words: object, storage: str = url) -> tuple[int, str]:
        capsys.readouterr()
        code = run(["study", "create", name, *(str(word) for word in words), "--storage", storage])
        captured = capsys.readouterr()
        if code:
            assert captured.out == ""
            assert "Traceback" not in captured.err
            assert len(re.findall(r"^error: ", captured.err, re.MULTILINE)) == 1
        return code, captured.err.splitlines()[-1]

    return call


def tensors(seed: int = 1) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {n: 0.4 * torch.randn(s, generator=generator) for n, s in CONFIG.tensor_shapes().items()}


def save(folder: Path, weights: dict[str, torch.Tensor]) -> Path:
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token=WORDS[0]))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    save_model(folder, CONFIG, weights, tokenizer)
    return folder


def parquet(folder: Path, columns: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / "validation.parquet")
    return folder


@pytest.fixture
def tiny(tmp_path: Path) -> tuple[object, ...]:
    """Flags of a study on a tiny model and four sentences that runs in no time."""
    model, data = save(tmp_path / "model", tensors()), parquet(tmp_path / "data", SENTENCES)
    return (
        "--model", model, "--data", data, "--task", "sst2", "--min-accuracy", "0", "--memory-budget", "60%",
        "--precisions", "4,3", "--device", "cpu", "--progress", "none",
    )  # fmt: skip


def names(url: str) -> list[str]:
    """Return the studies of a storage; a create that is refused makes none."""
    if not Path(url.removeprefix("sqlite:///")).exists():
        return []
    with Repository(url, read_only=True) as repository:
        return list(repository.names())


# -- numbers ---------------------------------------------------------------------------------------


def overflowing(folder: Path) -> Path:
    """A model whose weights are finite and whose logits are not: inf − inf."""
    weights = tensors()
    weights["classifier.weight"] = torch.tensor([[3e38, -3e38] * 8, [-3e38, 3e38] * 8])
    weights["ln_out.weight"] = torch.full_like(weights["ln_out.weight"], 10.0)
    assert all(bool(t.isfinite().all()) for t in weights.values())
    return save(folder, weights)


def test_logits_that_overflow_are_an_error_of_the_model(
    tmp_path: Path, tiny: tuple[object, ...], create: Create, capsys: pytest.CaptureFixture[str], url: str
) -> None:
    model = overflowing(tmp_path / "hot")
    code, line = create("t", *tiny, "--model", model)
    assert code == 1
    assert re.search(r"error: .*(nan|NaN|not finite|inf).*; check the checkpoint, or raise the bits", line)
    with Repository(url) as repository:
        assert repository.study("t").baseline is None
        assert len(list(repository.trials("t"))) == 0
    words = ["model", "evaluate", str(model), "--task", "sst2", "--data", str(tmp_path / "data")]
    assert run([*words, "--device", "cpu"]) == 1
    assert "check the checkpoint" in capsys.readouterr().err


# -- data ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (
            {"text": SENTENCES["sentence"], "label": SENTENCES["label"]},
            r"no column 'sentence' \(it has text, label\); give data in the hub's layout",
        ),
        (
            {"sentence": pyarrow.array([], pyarrow.string()), "label": pyarrow.array([], pyarrow.int64())},
            r"split 'validation' of .* is empty; give one with rows",
        ),
        (
            {"sentence": ["fine", "dull"], "label": [1, -1]},
            r"row 1 of split 'validation' has label -1, not 0 or 1",
        ),
    ],
    ids=["missing-column", "empty-split", "hidden-label"],
)
def test_data_that_do_not_fit_the_task_exit_with_1(
    tmp_path: Path, tiny: tuple[object, ...], create: Create, url: str, columns: dict[str, Any], words: str
) -> None:
    code, line = create("t", *tiny, "--data", parquet(tmp_path / "other", columns))
    assert code == 1
    assert re.search(f"error: task sst2: .*{words}", line)
    assert names(url) == []


# -- constraints -----------------------------------------------------------------------------------


def test_a_budget_out_of_reach_is_said_with_the_smallest_bytes_before_the_search(
    create: Create, url: str
) -> None:
    demo = (*DEMO, "--task", "demo", "--limit", "2", "--max-increase", "10%", "--precisions", "5,3")
    code, line = create("t", *demo, "--memory-budget", "100kB")
    assert code == 4
    found = re.search(r"memory budget 100,000 bytes cannot be reached.*at least ([\d,]+) bytes", line)
    assert found
    assert names(url) == []
    smallest = int(found[1].replace(",", ""))
    code, line = create("t", *demo, "--memory-budget", f"{smallest - 1}B")
    assert code == 4
    assert names(url) == []
    code, line = create("t", *demo, "--memory-budget", f"{smallest}B", "--no-run")
    assert code == 0
    assert names(url) == ["t"]


def test_an_absolute_bound_that_the_unquantized_model_violates(create: Create, url: str) -> None:
    flags = ("--task", "demo-classify", "--limit", "32", "--memory-budget", "12%")
    code, line = create("t", *DEMO, *flags, "--min-accuracy", "1")
    assert code == 4
    said = r"the unquantized model already violates the bound: accuracy (\S+) against --min-accuracy 1\.0;"
    found = re.search(said, line)
    assert found
    assert 0.5 < float(found[1]) < 1
    assert "give a bound that the model meets" in line
    with Repository(url) as repository:
        assert repository.study("t").state == "infeasible"
        assert len(list(repository.trials("t"))) == 0


# -- the spec --------------------------------------------------------------------------------------


def test_an_unknown_key_of_a_spec_file_is_answered_with_the_nearest(
    tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "t.toml"
    file.write_text('model = "demo"\ntask = "demo"\nmax_increse = "5%"\nmemory_budget = "12%"\n')
    assert run(["study", "create", "--spec", str(file), "--storage", url]) == 2
    line = "error: spec key 'max_increse' is unknown. Did you mean 'max_increase'?\n"
    assert capsys.readouterr().err == line
    assert not (tmp_path / "q.db").exists()


# -- the storage -----------------------------------------------------------------------------------


def test_a_taken_name_is_said_with_what_can_be_done(tiny: tuple[object, ...], create: Create) -> None:
    assert create("t", *tiny, "--no-run")[0] == 0
    code, line = create("t", *tiny)
    assert code == 3
    assert re.search(r"study 't' is already in storage .*; resume it \(qslm-opt study resume t", line)


@pytest.mark.parametrize("words", [["study", "resume", "t"], ["study", "list"], ["study", "show", "t"]])
def test_a_study_of_a_newer_schema_is_left_alone(
    words: list[str], tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str], create: Create
) -> None:
    prepare(url)
    with sqlite3.connect(tmp_path / "q.db") as connection:
        connection.execute("UPDATE qslm_schema SET version = 99")
    connection.close()
    assert run([*words, "--storage", url]) == 3
    newer = r"error: storage .* has schema 99, newer than \d+, .*; upgrade qslm-opt"
    assert re.match(newer, capsys.readouterr().err)
    code, line = create("t", *DEMO, "--task", "demo", *NEVER_TRIED)
    assert code == 3
    assert re.match(newer, line)


def mounted(folder: Path, options: str) -> bool:
    """Mount an empty tmpfs on ``folder``; False where that is not permitted."""
    if shutil.which("mount") is None or shutil.which("umount") is None:
        return False
    words = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    return subprocess.run(words, capture_output=True).returncode == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not mounted(folder, "size=2m"):
        pytest.skip("a tmpfs may not be mounted here (needs root or CAP_SYS_ADMIN)")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_file_system_that_is_read_only_is_refused_and_can_be_read(
    small_disk: Path, tiny: tuple[object, ...], create: Create, capsys: pytest.CaptureFixture[str]
) -> None:
    here = f"sqlite:///{small_disk}/q.db"
    assert create("t", *tiny, "--no-run", storage=here)[0] == 0
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for name, storage in (("u", here), ("t", f"sqlite:///{small_disk}/new.db")):
        code, line = create(name, *tiny, storage=storage)
        assert code == 3
        assert re.match(r"error: storage .* is read-only; make it writable or give another --storage", line)
    assert run(["study", "resume", "t", "--storage", here]) == 3
    assert re.match(r"error: storage .* (is read-only|cannot be opened)", capsys.readouterr().err)
    assert run(["study", "show", "t", "--json", "--storage", here]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "created"


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="there is no /proc here")
def test_a_folder_in_which_nobody_may_write_is_refused(tiny: tuple[object, ...], create: Create) -> None:
    code, line = create("t", *tiny, storage="sqlite:////proc/q.db")
    assert code == 3
    assert re.match(r"error: storage sqlite:////proc/q.db.* (cannot be opened|read-only|full disk)", line)


def fill(folder: Path, room: int = 0) -> Path:
    """Leave ``room`` bytes in ``folder``."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        file.write(b"\0" * (shutil.disk_usage(folder).free - room))
    assert shutil.disk_usage(folder).free == room
    return ballast


def test_a_disk_that_is_full_from_the_start_is_refused(
    small_disk: Path, tiny: tuple[object, ...], create: Create
) -> None:
    fill(small_disk)
    code, line = create("t", *tiny, storage=f"sqlite:///{small_disk}/q.db")
    assert code == 3
    assert re.match(r"error: storage .* is on a full disk; free some space and run the command again", line)
    assert [path.name for path in small_disk.iterdir()] == ["ballast"]


@pytest.mark.parametrize("room", [65536, 0])
def test_a_disk_that_fills_up_ends_the_run_and_with_space_it_goes_on(
    room: int, small_disk: Path, tiny: tuple[object, ...], create: Create, url: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert create("t", *tiny)[0] == 0
    whole = outcome(url)
    here = f"sqlite:///{small_disk}/q.db"
    assert create("t", *tiny, "--no-run", storage=here)[0] == 0
    ballast = fill(small_disk, room)
    words = ["study", "resume", "t", "--progress", "none", "--storage", here]
    python = [sys.executable, "-m", "qslm_opt"]
    done = subprocess.run([*python, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 3, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert re.match(r"error: storage .* is on a full disk; free some space and run the command again", last)
    ballast.unlink()
    assert run(words) == 0
    capsys.readouterr()
    assert outcome(here) == whole


def outcome(url: str) -> list[tuple[str, float | None]]:
    with Repository(url, read_only=True) as repository:
        return sorted((trial.digest, trial.value) for trial in repository.trials("t") if trial.feasible)


def test_a_database_that_may_not_grow_ends_the_run_in_the_middle_and_goes_on(
    tmp_path: Path, tiny: tuple[object, ...], create: Create, url: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The same without a file system of its own: SQLite itself says that it is full, after some trials."""
    from qslm_opt.store import engine

    assert create("t", *tiny)[0] == 0
    whole = outcome(url)
    other = f"sqlite:///{tmp_path}/other.db"
    assert create("t", *tiny, "--no-run", storage=other)[0] == 0
    with sqlite3.connect(tmp_path / "other.db") as connection:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.close()

    def small_kind(kind: type[sqlite3.Connection]) -> type[sqlite3.Connection]:
        class SmallConnection(kind):  # type: ignore[valid-type, misc]
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **kwargs)
                self.execute(f"PRAGMA max_page_count={pages + 3}")

        return SmallConnection

    with monkeypatch.context() as small:
        for name in ("QuickConnection", "DurableConnection"):
            small.setattr(engine, name, small_kind(getattr(engine, name)))
        assert run(["study", "resume", "t", "--progress", "none", "--storage", other]) == 3
    captured = capsys.readouterr()
    last = captured.err.splitlines()[-1]
    assert re.match(r"error: storage .* is on a full disk; free some space and run the command again", last)
    with Repository(other, read_only=True) as repository:
        before = [trial.state for trial in repository.trials("t")]
    assert before.count("complete") >= 1
    assert run(["study", "resume", "t", "--progress", "none", "--storage", other]) == 0
    assert outcome(other) == whole
