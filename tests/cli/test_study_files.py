from __future__ import annotations

from pathlib import Path

import pytest

from qslm_opt.cli.demo import DEMOS
from qslm_opt.models.spikegpt_config import SpikeGPTConfig
from qslm_opt.spec import StudySpec, parse_size

STUDIES = Path(__file__).resolve().parents[2] / "studies"
FILES = sorted(STUDIES.glob("*.toml"))
PAPER = {
    "a1": ("sst2", 0.02, 400),
    "a2": ("sst2", 0.05, 400),
    "a3": ("sst2", 0.05, 420),
    "b1": ("wikitext2", "1", 400),
    "b2": ("wikitext2", "4", 400),
    "b3": ("wikitext2", "4", 420),
}
FAMILIES = ("spikebert-sst2", "spikingbert-sst2", "spikelm-sst2")


def live_bytes(task: str, vocabulary: int, blocks: int, width: int) -> int:
    from qslm_opt.hierarchy.discover import discover

    classifies = task == "sst2"
    config = SpikeGPTConfig(vocabulary, blocks, width, n_labels=2 if classifies else 0)
    return discover(config, config.tensor_shapes(), "classification" if classifies else "lm", {}).fp32_bytes()


def test_the_files_are_the_papers_cases_in_two_sizes_other_families_and_the_demos() -> None:
    cases = [f"{name}{size}" for name in PAPER for size in ("", "-14m")]
    assert {f.stem for f in FILES} == {*cases, *FAMILIES, *DEMOS, "demo-low"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_file_is_a_valid_study(file: Path) -> None:
    assert StudySpec.from_toml(file).name == file.stem


@pytest.mark.parametrize("name", PAPER)
def test_a_papers_case_has_its_constraints_in_both_sizes(name: str) -> None:
    task, bound, megabytes = PAPER[name]
    large, small = (StudySpec.from_toml(STUDIES / f"{name}{size}.toml") for size in ("", "-14m"))
    assert large.budget_bytes(10**12) == megabytes * 10**6
    for spec in (large, small):
        assert spec.task == task
        assert (spec.max_drop if task == "sst2" else spec.max_increase) == bound
    share = live_bytes(task, 8192, 12, 256) / live_bytes(task, 50277, 18, 768)
    assert parse_size(small.memory_budget)[0] == pytest.approx(megabytes * 1e6 * share, rel=1e-3)


@pytest.mark.parametrize("name", DEMOS)
def test_the_demo_command_and_its_file_say_the_same(name: str) -> None:
    assert StudySpec.from_toml(STUDIES / f"{name}.toml") == StudySpec.from_mapping(DEMOS[name])


def test_the_small_studies_name_models_and_data_that_are_there(shared: Path) -> None:
    for file in (*STUDIES.glob("*-14m.toml"), *(STUDIES / f"{name}.toml" for name in FAMILIES)):
        spec = StudySpec.from_toml(file)
        for text in (spec.model, str(spec.data), *filter(None, [spec.tokenizer])):
            assert (shared.parent / text.removeprefix("../")).exists()
