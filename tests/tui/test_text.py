from __future__ import annotations

import pytest

from tests.tui.fakes import Study
from tui.glyphs import ASCII, UNICODE, plain
from tui.text import (
    bytes_text,
    cli_command,
    clip,
    clip_unit,
    duration,
    exact_lam,
    lam_text,
    metric_text,
    number_text,
    percent,
    room_text,
    safe_url,
    significant,
    state_sign,
    state_word,
)  # fmt: skip


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (0, 3, "0"), (1234.5, 3, "1234"), (12.345, 3, "12.3"), (0.001234, 3, "0.00123"), (-2.5, 2, "-2.5"),
        (9_876_543, 3, "9.88e+06"), (float("inf"), 3, "inf"), (float("nan"), 3, "nan"), (34.2, 4, "34.20"),
    ],
)  # fmt: skip
def test_numbers_have_so_many_significant_digits(value: float, digits: int, text: str) -> None:
    assert significant(value, digits) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (26_480_000, "26.5 MB"), (1_500, "1.50 kB"), (2.1e9, "2.10 GB")],
)
def test_bytes_are_decimal_units(size: float, text: str) -> None:
    assert bytes_text(size) == text


def test_a_metric_is_a_percentage_or_a_perplexity_and_a_dash_when_unknown() -> None:
    assert metric_text("accuracy", 0.62414) == "62.41 %"
    assert metric_text("perplexity", 34.2) == "34.20"
    assert metric_text("perplexity", None) == "–"
    assert number_text(None) == "n/a" and percent(0.8812) == "88.1 %"
    assert lam_text(0.2) == "0.2" and lam_text(123.456) == "123"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "–"), (38, "00:38"), (4364, "01:12:44"), (183_840, "2d 03:04"), (-5, "00:00")],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_room_says_what_is_left_or_how_far_past_and_not_what_was_never_judged() -> None:
    study = Study()
    measured = study.add("global", "network", 4, dict.fromkeys(study.blocks, 4))
    too_big = study.add("global", "network", 16, dict.fromkeys(study.blocks, 16))
    assert room_text(measured, "memory") == f"{-100 * measured.slack['memory']:.1f} %"
    assert room_text(too_big, "memory").startswith("!") and room_text(too_big, "metric") == "–"
    assert room_text(measured, "power") == "–"


def test_a_trial_of_the_sensitivity_tier_is_measured_not_judged() -> None:
    study = Study().fill("global", running=True)
    by_word = {state_word(t): state_sign(t) for t in study.trials}
    assert by_word == {"measured": "○", "feasible": "●", "violates": "○", "pruned": "✂", "running": "▶"}


def test_names_are_cut_with_a_sign_and_units_lose_their_first_word_first() -> None:
    assert clip("abcdef", 4) == "abc…" and clip("abc", 4) == "abc" and clip("abc", 0) == ""
    assert clip_unit("attention.3/att.key", 11) == "3/att.key"
    assert clip_unit("attention.3/ffn.receptance", 11) == "3/ffn.rece…"
    assert clip_unit("attention.3", 11) == "attention.3"


def test_a_lambda_on_a_command_line_is_not_rounded() -> None:
    assert [exact_lam(x) for x in (0.2, 64.25, 20.0)] == ["0.2", "64.25", "20"]
    assert float(exact_lam(1 / 3)) == 1 / 3


def test_a_password_is_neither_shown_nor_copied() -> None:
    url = "postgresql+psycopg://me:secret@host/db"
    assert safe_url(url) == "postgresql+psycopg://me:***@host/db"
    assert cli_command("study", "show", "x", url=url) == "qslm-opt study show x"
    assert safe_url("sqlite:///a:b.db") == "sqlite:///a:b.db"


def test_a_command_names_the_storage_unless_it_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli_command("study", "list", url="sqlite:///my dir/x.db").endswith(
        "--storage 'sqlite:///my dir/x.db'"
    )
    assert cli_command("study", "list", url="sqlite:///qslm-opt.db") == "qslm-opt study list"
    monkeypatch.setenv("QSLM_OPT_STORAGE", "sqlite:///x.db")
    assert cli_command("study", "list", url="sqlite:///x.db") == "qslm-opt study list"


def test_ascii_signs_are_ascii_and_differ_from_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    meaning = ("feasible", "infeasible", "pruned", "failed", "running", "best")
    for signs in (UNICODE, ASCII):
        assert len({getattr(signs, name) for name in meaning}) == len(meaning)
    assert all(str(value).isascii() for value in vars(ASCII).values())
    assert plain("λ ≤ 1") == "λ ≤ 1"
    monkeypatch.setenv("QSLM_OPT_ASCII", "1")
    assert plain("λ ≤ 1") == "lambda <= 1"
