"""Looking back through the recording: the cursor, the stretch and its bounds."""

from __future__ import annotations

import pytest

from tui.power import PowerSpan
from tui.scrub import SPANS, STEPS, Bounds, Scrub, span_words

BOUNDS = Bounds(1000.0, 5000.0)


def test_it_follows_at_first_and_asks_for_the_newest() -> None:
    scrub = Scrub()
    assert scrub.live and scrub.until(BOUNDS) == 5000.0 and scrub.since(BOUNDS) == 4880.0
    assert scrub.span(400) == PowerSpan(120.0, None, 400)


def test_a_step_back_stops_the_stretch_and_moves_only_the_cursor() -> None:
    back = Scrub().step(-1, BOUNDS)
    assert back.at == 5000.0 - 120.0 / STEPS and back.end == 5000.0 and not back.live
    later = Bounds(1000.0, 9000.0)
    again = back.step(-1, later)
    assert again.end == 5000.0 and again.at == 5000.0 - 2 * 120.0 / STEPS, "what is looked at stands still"


def test_the_stretch_moves_when_the_cursor_would_leave_it() -> None:
    scrub = Scrub().look_at(4900.0, BOUNDS)
    assert scrub.end == 5000.0
    out = scrub.look_at(4000.0, BOUNDS)
    assert out.at == 4000.0 and out.since(BOUNDS) < 4000.0 < out.until(BOUNDS) == 4060.0


def test_nothing_is_looked_at_outside_of_the_recording() -> None:
    first = Scrub().look_at(-50.0, BOUNDS)
    assert first.at == 1000.0 and first.since(BOUNDS) == 1000.0
    assert first.step(-5, BOUNDS) == first
    assert Scrub().look_at(9999.0, BOUNDS).at == 5000.0


def test_a_step_past_the_newest_follows_again() -> None:
    back = Scrub().step(-2, BOUNDS)
    assert back.step(1, BOUNDS).at is not None
    assert back.step(2, BOUNDS) == Scrub() and back.follow() == Scrub()


def test_a_recording_shorter_than_the_stretch_ends_at_its_newest() -> None:
    short = Bounds(1000.0, 1030.0)
    scrub = Scrub().look_at(1001.0, short)
    assert scrub.end == 1030.0 and scrub.at == 1001.0


def test_zoom_takes_the_next_length_and_keeps_the_cursor_in_its_place() -> None:
    scrub = Scrub(120.0, 4060.0, 4000.0)
    closer = scrub.zoom(True, BOUNDS)
    assert closer.seconds == 60.0 and closer.at == 4000.0
    assert (4000.0 - closer.since(BOUNDS)) / 60.0 == pytest.approx(0.5)
    wider = scrub.zoom(False, BOUNDS)
    assert wider.seconds == 300.0 and wider.since(BOUNDS) <= 4000.0 <= wider.until(BOUNDS)
    assert Scrub(SPANS[0]).zoom(True, BOUNDS).seconds == SPANS[0]
    assert Scrub(SPANS[-1]).zoom(False, BOUNDS).seconds == SPANS[-1]


def test_zoom_while_following_goes_on_following() -> None:
    assert Scrub().zoom(False, BOUNDS) == Scrub(300.0)


def test_lengths_in_words() -> None:
    assert [span_words(s) for s in (30.0, 120.0, 14400.0, 86400.0)] == ["30 s", "2 min", "4 h", "1 d"]
