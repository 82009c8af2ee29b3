from __future__ import annotations

from dataclasses import replace

from tests.tui.fakes import START, Study
from tui.model import StudyView
from tui.report import trial_runs


def report(study: Study, number: int) -> str:
    view = StudyView(study.row(), tuple(study.trials), START)
    return "".join(text for text, _ in trial_runs(view, view.by_number[number]))


def test_a_trial_is_told_in_full() -> None:
    study = Study().fill()
    text = report(study, 48)
    for part in (
        "● feasible  best at the study's own λ", "global: network at 4 bits", "34.88  baseline 34.20",
        "12,905,920 B", "limit 35.70", "budget 25.2 MB", "4000 of 4000 tokens", "18.4 s",
        "n/a  energy n/a (no meter read this run)", "attention.5  int4/channel/affine", "input/emb    sign",
    ):  # fmt: skip
        assert part in text
    units = [line.split()[0] for line in text.splitlines() if line.startswith("  ")]
    assert units == ["network", "input/emb", *study.blocks]


def test_power_is_shown_when_it_was_read() -> None:
    study = Study().fill()
    study.trials[48] = replace(study.trials[48], power_w=301.25, energy_j=5543.0, firing_rate=0.2134)
    text = report(study, 48)
    assert "301 W  5543 J" in text and "firing rate      0.213  spikes per neuron and step\n" in text
    assert study.baseline is not None
    study.baseline = replace(study.baseline, evaluation={"firing_rate": 0.231})
    assert "firing rate      0.213  spikes per neuron and step, 0.231 unquantized\n" in report(study, 48)


def test_a_pruned_trial_says_why_and_shows_no_metric() -> None:
    text = report(Study().fill(), 42)
    assert "✂ pruned  memory !98 %" in text and "perplexity       –" in text


def test_a_damaged_setting_is_a_sentence_not_a_crash() -> None:
    study = Study().fill()
    study.trials[48] = replace(study.trials[48], setting="{")
    assert "the setting is not JSON" in report(study, 48)
