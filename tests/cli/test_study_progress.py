from __future__ import annotations

import io
from typing import Any

import pytest

from qslm_opt.cli.output import digits, interval, metric_change, metric_value, size, watts
from qslm_opt.cli.progress import BarListener, LineListener, make_listener, trial_line
from qslm_opt.results import Progress, TrialRecord


def record(**changes: Any) -> TrialRecord:
    given: dict[str, Any] = {
        "number": 7, "uuid": "u", "state": "complete", "tier": "block", "unit": "attention.3", "bits": 4,
        "setting": "{}", "digest": "d", "value": 0.8291, "bytes": 12_345_678, "fp32_bytes": 100_000_000,
        "slack": {"metric": -0.01, "memory": -0.2}, "used": 100, "seconds": 4.06,
    }  # fmt: skip
    return TrialRecord(**{**given, **changes})


@pytest.mark.parametrize(
    ("changes", "end"),
    [
        ({}, "accuracy 82.91 % (-1.09 pp), 12.3 MB (−87.7 %), candidate, 4.1 s"),
        ({"power_w": 301.26}, "candidate, 4.1 s, 301 W"),
        ({"slack": {"metric": 0.02, "memory": -0.2}}, "(−87.7 %), metric violated, 4.1 s"),
        ({"slack": {"metric": 0.02, "memory": 0.2}}, "(−87.7 %), both violated, 4.1 s"),
        ({"tier": "sensitivity", "slack": {"metric": -0.1, "memory": 0.2}}, "(−87.7 %), 4.1 s"),
        (
            {"value": None, "state": "pruned", "slack": {"metric": 0.0, "memory": 0.3}},
            "4 bits: 12.3 MB (−87.7 %), over the budget",
        ),
        ({"value": None, "state": "failed", "slack": {}}, "4 bits: 12.3 MB (−87.7 %), failed"),
        (
            {"value": None, "state": "failed", "slack": {}, "reason": "interrupted: the deadline came"},
            "4 bits: 12.3 MB (−87.7 %), interrupted, runs again",
        ),
    ],
)
def test_a_finished_trial_is_one_line(changes: dict[str, Any], end: str) -> None:
    line = trial_line(record(**changes), "accuracy", 0.84)
    assert line.startswith("#7 ")
    assert line.endswith(end)
    assert "\n" not in line


def test_the_live_bar_prints_candidates_only(capsys: pytest.CaptureFixture[str]) -> None:
    listener = BarListener("accuracy", lambda: 0.84)
    with listener:
        listener.on_narrate("measuring the unquantized model")
        listener.on_tier("block")
        for changes in ({}, {"number": 8, "slack": {"metric": 0.1, "memory": 0.0}}):
            listener.on_trial_start(record(**changes), 3, 20)
            listener.on_progress(Progress(50, 100, 40, 10.0, None))
            listener.on_trial_end(record(**changes))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "measuring the unquantized model" in captured.err
    assert "#7 block attention.3 4 bits: accuracy 82.91 %" in captured.err
    assert "#8" not in captured.err


def test_the_live_bar_counts_the_search_about_and_a_trial_exactly() -> None:
    from rich.console import Console

    listener = BarListener("accuracy", lambda: 0.84)
    listener.on_trial_start(record(), 3, 20)
    listener.on_progress(Progress(50, 100, 40, 10.0, None))
    out = Console(width=120, record=True, file=io.StringIO())
    out.print(listener._bar.get_renderable())
    search, trial = out.export_text().splitlines()[:2]
    assert " 3/~20 " in search and " 50/100 " in trial


def test_auto_means_lines_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    assert type(make_listener("auto", "accuracy", lambda: 1.0)) is LineListener
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert type(make_listener("auto", "accuracy", lambda: 1.0)) is BarListener
    assert type(make_listener("plain", "accuracy", lambda: 1.0)) is LineListener


def test_the_baseline_is_not_asked_for_before_a_trial_has_ended(capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[int] = []
    listener = make_listener("plain", "accuracy", lambda: asked.append(1) or 0.84)  # type: ignore[func-returns-value]
    listener.on_narrate("measuring the unquantized model")
    listener.on_trial_start(record(), 0, 9)
    assert asked == []
    listener.on_trial_end(record())
    assert capsys.readouterr().err.splitlines()[-1].startswith("[1/~9] #7 block")


def test_counts_go_up_by_one_and_their_total_falls_or_is_exceeded(
    capsys: pytest.CaptureFixture[str],
) -> None:
    listener = LineListener("accuracy", lambda: 0.84)
    for done, total in enumerate((5, 4, 7, 6, 5, 8, None)):
        listener.on_trial_start(record(), done, total)
        listener.on_trial_end(record())
    counts = [line.partition("]")[0] for line in capsys.readouterr().err.splitlines()]
    assert counts == ["[1/~5", "[2/~4", "[3/~4", "[4/~4", "[5/~5", "[6/~8", "[7"]


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 kB"), (999, "0.999 kB"), (12_345_678, "12.3 MB"), (707_152_896, "707 MB"), (1.5e9, "1.50 GB")],
)
def test_sizes_have_three_digits(count: float, text: str) -> None:
    assert size(count) == text


def test_numbers_are_written_in_their_units() -> None:
    assert metric_value("accuracy", 0.82912) == "82.91 %"
    assert metric_value("perplexity", 133.22881) == "133.23"
    assert metric_value("accuracy", None) == metric_change("accuracy", None, 0.8) == watts(None) == "n/a"
    assert metric_change("accuracy", 0.82, 0.84) == "-2.00 pp"
    assert metric_change("perplexity", 21.0, 20.0) == "+5.00 %"
    assert (interval(None), interval((0.0, float("inf"))), interval((0.5, float("inf")))) == (
        "–",
        "any",
        "≥ 0.5",
    )
    assert interval((0.25, 10.588174)) == "0.25–10.59"
    assert (digits(1234.5), digits(0.0123456), digits(float("inf"))) == ("1,234", "0.0123", "inf")
