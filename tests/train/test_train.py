from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from qslm_opt.data.taskdata import encode
from qslm_opt.errors import DataError, NumericsError, UsageError
from qslm_opt.models import load_model
from qslm_opt.models.spikegpt_config import SpikeGPTConfig
from qslm_opt.train import TrainConfig, TrainReport, train
from qslm_opt.train import loop as loop_module
from qslm_opt.train.__main__ import main
from qslm_opt.train.card import command
from qslm_opt.train.corpus import Corpus, load_corpus, read_folder, split_pieces, train_tokenizer
from qslm_opt.train.loop import learning_rate
from qslm_opt.train.measure import measure, rounded
from qslm_opt.train.network import Regularisation, initial_tensors, lm_loss
from qslm_opt.train.stepper import Batches, Stepper

SMALL = TrainConfig(
    steps=30, n_layer=2, n_embd=32, vocab=300, window=32, batch=8, sentences=8, every=10,
    noise=0.0, dropout=0.0, learning_rate=1e-2, device="cpu",
)  # fmt: skip
TEXT = "The spike fires when the membrane reaches its threshold. " * 400


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text")
    (path / "a.txt").write_text(TEXT)
    return path


@pytest.fixture(scope="module")
def demo_corpus() -> Corpus:
    return load_corpus(SMALL)


@pytest.fixture(scope="module")
def trained(
    demo_corpus: Corpus, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, TrainReport, list[str]]:
    out, lines = tmp_path_factory.mktemp("trained") / "model", []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop_module, "load_corpus", lambda config: demo_corpus)
        report = train(SMALL, out, lines.append)
    return out, report, lines


def test_a_short_training_learns_and_says_so(trained: tuple[Path, TrainReport, list[str]]) -> None:
    _, report, lines = trained
    assert (report.steps, report.ended, report.tokens) == (30, "steps", 30 * 8 * 32)
    assert report.valid_perplexity < 150 < 300, "300 is what guessing gives"
    assert report.valid_accuracy is not None
    assert 0 < report.firing_rate < 1
    progress = [line for line in lines if line.startswith("step ")]
    assert [line.split(":")[0] for line in progress] == ["step 10", "step 20", "step 30"]
    losses = [float(line.split("loss ")[1].split(",")[0]) for line in progress]
    assert losses[0] > losses[1] > losses[2]
    for word in ("validation perplexity", "accuracy", "tokens/s"):
        assert word in progress[-1]


def test_the_saved_folder_is_the_model_that_was_measured(
    trained: tuple[Path, TrainReport, list[str]], demo_corpus: Corpus
) -> None:
    out, report, _ = trained
    model = load_model(str(out))
    assert model.config == SpikeGPTConfig(300, 2, 32, n_labels=2)
    assert sum(t.numel() for t in model.tensors.values()) == report.parameters
    assert (out / "model.safetensors").stat().st_size < 2.2 * report.parameters + 8192, "stored as float16"
    assert json.loads((out / "config.json").read_text())["model_type"] == "spikegpt"
    again = measure(model.tensors, model.config, demo_corpus.valid, demo_corpus.valid_sentences)
    assert again.perplexity == pytest.approx(report.valid_perplexity, rel=1e-5)
    assert again.accuracy == report.valid_accuracy
    texts = ["Return the x.", "naïve ☃"]
    encoded = encode(model.need_tokenizer(), texts)
    assert [model.need_tokenizer().decode(ids.tolist()) for ids in encoded] == texts


def test_the_readme_says_what_the_model_is_and_how_it_was_made(
    trained: tuple[Path, TrainReport, list[str]],
) -> None:
    out, report, _ = trained
    text = (out / "README.md").read_text()
    assert "pydoc_data.topics" in text
    assert f"`{command(SMALL)}`" in text
    assert f"perplexity {report.test_perplexity:.2f}, accuracy {report.test_accuracy:.1%}" in text
    assert f"{report.parameters:,} parameters" in text


def test_the_same_seed_trains_the_same_model_and_another_seed_another(folder: Path, tmp_path: Path) -> None:
    config = replace(SMALL, corpus=str(folder), steps=3)
    hashes = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(replace(config, seed=seed), tmp_path / name, lambda text: None)
        hashes.append(load_model(str(tmp_path / name)).weights_hash)
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_folder_of_text_trains_a_language_model_without_labels(folder: Path, tmp_path: Path) -> None:
    report = train(replace(SMALL, corpus=str(folder)), tmp_path / "m", lambda text: None)
    model = load_model(str(tmp_path / "m"))
    assert (model.config.n_labels, report.valid_accuracy, report.test_perplexity) == (0, None, None)
    assert report.valid_perplexity < 25


def test_training_stops_when_validation_no_longer_improves(folder: Path, tmp_path: Path) -> None:
    config = replace(SMALL, corpus=str(folder), steps=500, every=1, patience=2, learning_rate=0.3)
    report = train(config, tmp_path / "m", lambda text: None)
    assert report.ended == "patience"
    assert report.steps == report.best_step + 2 < 500


def test_minutes_end_a_training_and_its_schedule(folder: Path, tmp_path: Path) -> None:
    config = replace(SMALL, corpus=str(folder), steps=None, minutes=0.02)
    report = train(config, tmp_path / "m", lambda text: None)
    assert report.ended == "minutes"
    assert 1.2 <= report.seconds < 30


def test_the_learning_rate_rises_then_falls_along_a_cosine() -> None:
    rates = [learning_rate(SMALL, share / 100) for share in range(101)]
    top = rates.index(max(rates))
    assert (top, rates[top]) == (5, SMALL.learning_rate)
    assert rates[:6] == sorted(rates[:6])
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[0] > 0
    assert rates[100] == learning_rate(SMALL, 1.7) == pytest.approx(SMALL.learning_rate / 20)


def test_batches_are_random_windows_and_as_many_sentences_of_each_class(demo_corpus: Corpus) -> None:
    batches = Batches(demo_corpus, SMALL, torch.device("cpu"))
    place = batches.windows.data_ptr(), batches.ids.data_ptr()
    batches.draw()
    first = batches.windows.clone()
    batches.draw()
    assert place == (batches.windows.data_ptr(), batches.ids.data_ptr()), (
        "a recorded step reads the same memory"
    )
    assert not torch.equal(first, batches.windows)
    assert batches.labels.sum() == 4
    stream = demo_corpus.train
    window = first[0].numpy()
    starts = (stream[: -len(window)] == window[0]).nonzero()[0]
    assert any((stream[s : s + len(window)] == window).all() for s in starts)


def test_neither_validation_nor_test_sentences_are_trained_on(demo_corpus: Corpus) -> None:
    assert demo_corpus.train_sentences is not None
    assert demo_corpus.valid_sentences is not None
    rows = [
        {tuple(row[:n]) for row, n in zip(part.ids.tolist(), part.lengths, strict=True)}
        for part in (demo_corpus.train_sentences, demo_corpus.valid_sentences)
    ]
    assert not rows[0] & rows[1]
    assert demo_corpus.valid_sentences.labels.mean() == 0.5


def test_noise_and_dropout_change_training_only(demo_corpus: Corpus) -> None:
    cfg = SpikeGPTConfig(300, 2, 32)
    p = initial_tensors(cfg, 0)
    windows = torch.from_numpy(demo_corpus.valid[:4])
    plain = [float(lm_loss(p, cfg, windows)[0]) for _ in range(2)]
    noisy = float(lm_loss(p, cfg, windows, Regularisation(noise=0.5))[0])
    dropped = float(lm_loss(p, cfg, windows, Regularisation(dropout=0.5))[0])
    assert plain[0] == plain[1]
    assert len({plain[0], noisy, dropped}) == 3


def test_only_matrices_are_decayed_and_never_the_embedding(demo_corpus: Corpus) -> None:
    cfg = SpikeGPTConfig(300, 2, 32)
    stepper = Stepper(initial_tensors(cfg, 0), cfg, SMALL, Batches(demo_corpus, SMALL, torch.device("cpu")))
    decayed, others = stepper._optimizer.param_groups
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    assert len(decayed["params"]) == 2 * 7 + 1
    assert any(tensor is stepper.tensors["emb.weight"] for tensor in others["params"])


def test_rounded_weights_are_those_of_a_float16_file() -> None:
    values = torch.tensor([1.0001, -3e-6, 0.1])
    assert torch.equal(rounded({"a": values})["a"], values.half().float())


def test_initial_weights_let_some_neurons_fire_and_guess_evenly(demo_corpus: Corpus) -> None:
    cfg = SpikeGPTConfig(300, 4, 128, n_labels=2)
    found = measure(initial_tensors(cfg, 0), cfg, demo_corpus.valid[:4], None)
    assert 0.03 < found.firing_rate < 0.15
    assert found.perplexity == pytest.approx(300, rel=0.1)


def test_a_parquet_corpus_needs_a_column_of_text(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["one", None, "two"]}), tmp_path / "a.parquet")
    assert read_folder(tmp_path) == ["one", "two"]
    pq.write_table(pa.table({"body": ["one"]}), tmp_path / "b.parquet")
    with pytest.raises(DataError, match=r"b.parquet' has no column 'text' \(it has body\)"):
        read_folder(tmp_path)


def test_every_twentieth_piece_of_a_folder_validates_and_nothing_is_lost() -> None:
    train_pieces, valid = split_pieces(["x" * 500_000, "y" * 500_000])
    assert sum(map(len, train_pieces + valid)) == 1_000_002
    assert len(valid) == (len(train_pieces) + len(valid)) // 20
    train_pieces, valid = split_pieces(["a rather short text, to be sure"])
    assert "".join(train_pieces[:19] + valid + train_pieces[19:]) == "a rather short text, to be sure"
    assert len(valid) == 1


def test_the_tokenizer_encodes_any_bytes_and_comes_out_the_same_each_time() -> None:
    one, two = (train_tokenizer([TEXT, "für"], 300) for _ in range(2))
    assert one.to_str() == two.to_str()
    assert one.decode(one.encode("日本 \x00 ok").ids) == "日本 \x00 ok"


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"steps": None}, "the training has no end; give --steps, --minutes, or both"),
        ({"n_layer": 1}, "n_layer 1 is out of range; it must be at least 2"),
        ({"vocab": 100}, "vocab 100 is out of range; it must be at least 257"),
        ({"learning_rate": 0.0}, "learning_rate 0.0 is out of range; it must be more than 0 and finite"),
        ({"dropout": 1.0}, "dropout 1.0 is out of range"),
        ({"class_weight": -1.0}, "class_weight -1.0 is out of range; it must be 0 or more"),
    ],
)  # fmt: skip
def test_a_choice_out_of_range_is_named_with_its_bound(choices: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(SMALL, **choices)


def test_what_cannot_be_trained_is_said_before_training(folder: Path, tmp_path: Path) -> None:
    config = replace(SMALL, corpus=str(folder))
    with pytest.raises(UsageError, match="is not empty; give --out a new folder"):
        train(config, folder, lambda text: None)
    with pytest.raises(UsageError, match="device 'abacus' is unknown"):
        train(replace(config, device="abacus"), tmp_path / "m", lambda text: None)
    with pytest.raises(DataError, match="is no folder; give 'demo' or a folder"):
        train(replace(config, corpus="/no/such"), tmp_path / "m", lambda text: None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="has no text"):
        train(replace(config, corpus=str(tmp_path / "empty")), tmp_path / "m", lambda text: None)
    (tmp_path / "empty" / "a.txt").write_text("A little text.")
    with pytest.raises(DataError, match="too small for windows of 32 tokens"):
        train(replace(config, corpus=str(tmp_path / "empty")), tmp_path / "m", lambda text: None)
    assert not (tmp_path / "m").exists()


def test_a_loss_that_becomes_nan_ends_the_training(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoilt(cfg: SpikeGPTConfig, seed: int) -> dict[str, torch.Tensor]:
        return {name: tensor * float("nan") for name, tensor in initial_tensors(cfg, seed).items()}

    monkeypatch.setattr(loop_module, "initial_tensors", spoilt)
    with pytest.raises(
        NumericsError, match="training loss is nan, the validation loss nan at step 10; use a lower"
    ):
        train(replace(SMALL, corpus=str(folder)), tmp_path / "m", lambda text: None)
    assert not (tmp_path / "m").exists()


def test_the_module_runs_as_a_command(folder: Path, tmp_path: Path) -> None:
    flags = [
        "--steps",
        "2",
        "--n-layer",
        "2",
        "--n-embd",
        "16",
        "--vocab",
        "300",
        "--window",
        "16",
        "--no-graph",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "qslm_opt.train", "--out", tmp_path / "m", "--corpus", folder, *flags],
        capture_output=True, text=True, cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "step 2: loss" in done.stderr
    assert load_model(str(tmp_path / "m")).config.n_embd == 16


def test_the_command_turns_an_error_into_one_line_and_its_exit_code(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["--out", str(tmp_path / "m")]) == 2
    assert main(["--out", str(tmp_path / "m"), "--steps", "1", "--corpus", "/no/such"]) == 1
    assert [line.split(":")[0] for line in capsys.readouterr().err.splitlines()] == [
        "error", "reading corpus /no/such", "error",
    ]  # fmt: skip


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_recorded_step_learns_like_a_plain_one(folder: Path, tmp_path: Path) -> None:
    reports = [
        train(
            replace(SMALL, corpus=str(folder), device="cuda", graph=graph),
            tmp_path / str(graph), lambda text: None,
        )
        for graph in (True, False)
    ]  # fmt: skip
    assert reports[0].valid_perplexity == pytest.approx(reports[1].valid_perplexity, rel=0.5)
    assert reports[0].valid_perplexity < 25
