"""The main job as a user runs it: command line, search and packaged model, nothing replaced."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import optuna
import pyarrow
import pyarrow.parquet
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from qslm_opt.cli.main import run
from qslm_opt.evaluate.bounds import MetricBound
from qslm_opt.evaluate.memory import live_bytes
from qslm_opt.models.loading import save_model
from qslm_opt.models.spikegpt_config import SpikeGPTConfig
from qslm_opt.pipeline import Session
from qslm_opt.rank import score
from qslm_opt.results import TrialRecord
from qslm_opt.search.space import SearchSpace
from qslm_opt.setting import QuantSetting
from qslm_opt.store import Repository, StudyRow

ROOT = Path(__file__).resolve().parents[1]
FLAGS = (
    "--model", "demo", "--task", "demo", "--limit", "3", "--max-increase", "10%", "--memory-budget", "12%",
    "--precisions", "5,4,3", "--progress", "plain", "--device", "cpu",
)  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """What a command printed and how it ended."""

    code: int
    out: str
    err: str


def command(*words: object) -> Answer:
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = run([str(word) for word in words])
    return Answer(code, out.getvalue(), err.getvalue())


@dataclass(frozen=True)
class Study:
    """A study that was created and run by the command line."""

    url: str
    answer: Answer
    row: StudyRow
    trials: list[TrialRecord]

    @property
    def candidates(self) -> list[TrialRecord]:
        return [trial for trial in self.trials if trial.feasible]


def read(url: str, answer: Answer, name: str = "t") -> Study:
    with Repository(url, read_only=True) as repository:
        return Study(url, answer, repository.study(name), list(repository.trials(name)))


def created(folder: Path, *flags: str) -> Study:
    url = f"sqlite:///{folder}/q.db"
    return read(url, command("study", "create", "t", *flags, "--storage", url))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return created(tmp_path_factory.mktemp("undisturbed"), *FLAGS)


@pytest.fixture(scope="module")
def session(study: Study) -> Session:
    return Session.open(study.row.spec)


@pytest.fixture(scope="module")
def steep(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study with a setting that is stopped on the way: one scale a tensor makes 2 bits hopeless."""
    flags = (
        "--precisions", "5,2", "--sensitivity-precisions", "2", "--memory-budget", "15%",
        "--layout", "tensor/affine",
    )  # fmt: skip
    words = [*FLAGS, *flags, "--limit", "8", "--max-increase", "5%", "--window-batch", "1"]
    return created(tmp_path_factory.mktemp("steep"), *words)


# -- the search on the real model -----------------------------------------------------------------


def test_the_search_ends_with_candidates_and_says_each_trial(study: Study) -> None:
    assert study.answer.code == 0, study.answer.err
    assert study.row.state == "finished"
    assert study.row.counts["failed"] == study.row.counts["running"] == 0
    lines = [line for line in study.answer.err.splitlines() if line.startswith("[")]
    assert len(lines) == len(study.trials)
    assert f"{len(study.candidates)} candidates at λ = 0.2" in study.answer.out
    assert {"sensitivity", "global", "block"} <= {trial.tier for trial in study.trials}


def test_every_candidate_meets_both_constraints(study: Study) -> None:
    baseline = study.row.baseline
    assert baseline is not None
    assert study.row.bound == pytest.approx(1.1 * baseline.value, rel=1e-12)
    assert study.row.budget == int(0.12 * study.row.hierarchy.fp32_bytes())
    assert len(study.candidates) >= 3
    for trial in study.candidates:
        assert trial.value is not None
        assert trial.value <= 1.1 * baseline.value
        assert trial.bytes <= study.row.budget
    over = [trial for trial in study.trials if trial.tier != "sensitivity" and trial.bytes > study.row.budget]
    assert over
    assert all(trial.state == "pruned" and trial.used == 0 for trial in over)


def test_the_bytes_of_a_candidate_are_those_of_its_stored_setting(study: Study) -> None:
    for trial in study.trials:
        setting = QuantSetting.from_json(trial.setting)
        assert trial.bytes == live_bytes(study.row.hierarchy, setting)
        assert trial.digest == setting.digest(study.row.hierarchy)


def test_the_best_is_never_worse_than_a_uniform_setting(study: Study, session: Session) -> None:
    space = SearchSpace.of(study.row.spec, session.hierarchy)
    bound = MetricBound.of(study.row.spec, session.baseline())
    uniform = []
    for bits in space.precisions:
        setting = space.setting_of(space.uniform(bits))
        size = live_bytes(session.hierarchy, setting)
        value = session.run(setting)[0].value
        assert value is not None
        if size <= space.budget and bound.slack(value) <= 0:
            uniform.append(score("perplexity", value, size / space.fp32_bytes, 0.2))
    assert uniform
    assert best_of(study)["score"] <= min(uniform)


def best_of(study: Study) -> dict[str, Any]:
    answer = command("study", "candidates", "t", "--json", "--storage", study.url)
    assert answer.code == 0
    return json.loads(answer.out)["rows"][0]


def test_the_exported_best_evaluated_alone_gives_the_same_value_bit_for_bit(
    study: Study, tmp_path: Path
) -> None:
    file = tmp_path / "best.json"
    assert command("study", "export", "t", "-o", file, "--storage", study.url).code == 0
    flags = ("--task", "demo", "--limit", "3", "--device", "cpu", "--setting", file, "--json")
    alone = json.loads(command("model", "evaluate", "demo", *flags).out)
    best = best_of(study)
    assert alone["value"] == best["value"]
    assert alone["live_bytes"] == best["bytes"]


def test_a_setting_that_was_stopped_on_the_way_really_violates_the_bound(steep: Study) -> None:
    stopped = [trial for trial in steep.trials if trial.state == "pruned" and trial.used]
    assert stopped, [(trial.tier, trial.bits, trial.state, trial.used) for trial in steep.trials]
    session = Session.open(steep.row.spec)
    assert steep.row.bound is not None
    for trial in stopped:
        whole, _ = session.run(QuantSetting.from_json(trial.setting))
        assert trial.value is None
        assert trial.used < whole.n == whole.used
        assert whole.value is not None
        assert whole.value > steep.row.bound
        assert 0 < trial.slack["metric"] <= whole.value / steep.row.bound - 1


# -- kill and resume ------------------------------------------------------------------------------


def test_kill_9_in_the_middle_of_a_trial_changes_no_candidate(study: Study, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/q.db"
    words = [sys.executable, "-m", "qslm_opt", "study", "create", "t", *FLAGS, "--storage", url]
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    kill_in_the_middle_of_a_trial(process, url)
    before = read(url, study.answer)
    assert before.row.state == "dead"
    assert [trial.state for trial in before.trials].count("running") == 1
    answer = command("study", "resume", "t", "--progress", "plain", "--storage", url)
    assert answer.code == 0, answer.err
    assert "1 stale trial closed" in answer.err
    after = read(url, answer)
    assert found(after) == found(study)
    assert after.row.order == study.row.order
    assert after.row.baseline is not None and study.row.baseline is not None
    assert after.row.baseline.value == study.row.baseline.value
    finished = [trial.digest for trial in after.trials if trial.state != "failed"]
    assert finished == [trial.digest for trial in study.trials]
    kept = {trial.number: trial for trial in after.trials}
    for trial in before.trials:
        assert trial.state == "running" or kept[trial.number] == trial


def found(study: Study) -> dict[str, float | None]:
    return {trial.digest: trial.value for trial in study.candidates}


def kill_in_the_middle_of_a_trial(process: subprocess.Popen[str], url: str) -> None:
    """Kill -9 after some trials, while one runs: the process is held still to see that one does."""
    assert process.stderr is not None
    running = False
    for line in process.stderr:
        if "#5 " not in line:
            continue
        while not running:
            assert process.poll() is None, "the study ended before it could be killed"
            process.send_signal(signal.SIGSTOP)
            with Repository(url, read_only=True) as repository:
                running = any(trial.state == "running" for trial in repository.trials("t"))
            if not running:
                process.send_signal(signal.SIGCONT)
                time.sleep(0.01)
        process.kill()
        break
    process.stderr.close()
    assert process.wait(60) == -signal.SIGKILL


# -- what must not change -------------------------------------------------------------------------

WORDS = ("[UNK]", "a", "fine", "dull", "film", "story", ".", "and")
CONFIG = SpikeGPTConfig(vocab_size=len(WORDS), n_layer=2, n_embd=16, n_labels=2)


def save_tiny_model(folder: Path, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    tensors = {n: 0.4 * torch.randn(s, generator=generator) for n, s in CONFIG.tensor_shapes().items()}
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token=WORDS[0]))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    save_model(folder, CONFIG, tensors, tokenizer)


def save_sentences(folder: Path, last: str) -> None:
    folder.mkdir(exist_ok=True)
    texts = ["a fine film .", "a dull story .", "dull and dull .", last]
    columns = {"sentence": texts, "label": [1, 0, 0, 1]}
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / "validation.parquet")


@pytest.fixture
def stored(tmp_path: Path) -> Iterator[Callable[[], Answer]]:
    """A created study on a tiny model and four sentences; the value resumes it."""
    save_tiny_model(tmp_path / "model", 1)
    save_sentences(tmp_path / "data", "a fine story .")
    url = f"sqlite:///{tmp_path}/q.db"
    flags = (
        "--model", tmp_path / "model", "--data", tmp_path / "data", "--task", "sst2", "--min-accuracy", "0",
        "--memory-budget", "60%", "--precisions", "4", "--device", "cpu",
    )  # fmt: skip
    answer = command("study", "create", "t", *flags, "--no-run", "--storage", url)
    assert answer.code == 0, answer.err
    yield lambda: command("study", "resume", "t", "--progress", "none", "--storage", url)
    assert read(url, answer).row.state == "finished"


def test_other_data_are_refused_and_the_old_ones_go_on(
    stored: Callable[[], Answer], tmp_path: Path
) -> None:
    save_sentences(tmp_path / "data", "a dull story .")
    refused = stored()
    assert refused.code == 3
    assert refused.out == ""
    assert "error: study 't' was created with another data " in refused.err
    assert "weights" not in refused.err
    save_sentences(tmp_path / "data", "a fine story .")
    assert stored().code == 0


def test_other_weights_are_refused_and_the_old_ones_go_on(
    stored: Callable[[], Answer], tmp_path: Path
) -> None:
    save_tiny_model(tmp_path / "model", 2)
    refused = stored()
    assert refused.code == 3
    assert "error: study 't' was created with another weights " in refused.err
    assert "another weights, data" not in refused.err
    save_tiny_model(tmp_path / "model", 1)
    assert stored().code == 0


# -- what others see in the file ------------------------------------------------------------------


def test_optuna_itself_reads_the_study(study: Study) -> None:
    loaded = optuna.load_study(study_name="t", storage=study.url)
    frame = loaded.trials_dataframe()
    ours = {"setting", "digest", "bytes", "fp32_bytes", "value", "loss", "used", "seconds", "uuid"}
    expected = {"number", "value", "state", "datetime_start", "datetime_complete", "duration"}
    expected |= {f"params_{name}" for name in ("tier", "unit", "bits")}
    expected |= {f"user_attrs_{name}" for name in ours}
    assert expected <= set(frame.columns)
    assert len(frame) == len(study.trials)
    assert frame["user_attrs_digest"].tolist() == [trial.digest for trial in study.trials]
    trials = {trial.number: trial for trial in loaded.trials}
    for trial in study.trials:
        assert set(trials[trial.number].constraints) == {"metric", "memory"}
        assert trials[trial.number].constraints == trial.slack
    best = best_of(study)
    assert trials[best["trial"]].value == best["score"]


def test_a_classification_study_counts_right_sentences(tmp_path: Path) -> None:
    flags = ("--task", "demo-classify", "--limit", "40", "--max-drop", "0.1", "--memory-budget", "15%")
    study = created(
        tmp_path, "--model", "demo", *flags, "--precisions", "5,3", "--sensitivity-precisions", "3",
        "--progress", "none",
    )  # fmt: skip
    assert study.answer.code == 0, study.answer.err
    baseline = study.row.baseline
    assert baseline is not None
    assert baseline.n == 40 and baseline.correct is not None
    assert study.row.bound == pytest.approx(baseline.correct / 40 - 0.1)
    for trial in study.candidates:
        assert trial.value is not None
        assert trial.value >= baseline.correct / 40 - 0.1 - 1e-12
        assert math.isclose(trial.value * 40, round(trial.value * 40))
        assert trial.bytes <= study.row.budget
