from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tui.glyphs import ASCII, UNICODE
from tui.plot import Canvas, Chart, Point, draw


def point(x: float, y: float | None, sign: str = "●", weight: int = 2) -> Point:
    return Point(x, y, sign, "feasible", weight)


def at(canvas: Canvas, sign: str) -> list[tuple[int, int]]:
    return [(x, y) for y, row in enumerate(canvas.rows()) for x, c in enumerate(row) if c == sign]


def test_the_better_perplexity_is_lower_and_the_bigger_model_further_right() -> None:
    chart = Chart(
        [point(10e6, 35.5, "α"), point(20e6, 34.5, "β")], bound=35.7, budget=25e6, higher_is_better=False
    )
    canvas = draw(chart, 60, 20, UNICODE)
    ((ax, ay),), ((bx, by),) = at(canvas, "α"), at(canvas, "β")
    assert ax < bx and ay < by
    (bound_row,) = {y for _, y in at(canvas, "┄")}
    assert bound_row <= ay, "what meets the bound lies below its line"
    assert "budget" in "\n".join(canvas.rows()) and "bound" in "\n".join(canvas.rows())


def test_the_better_accuracy_is_higher() -> None:
    canvas = draw(
        Chart([point(10e6, 0.84, "α"), point(20e6, 0.86, "β")], bound=0.83, percent=True), 60, 20, UNICODE
    )
    ((_, ay),), ((_, by),) = at(canvas, "α"), at(canvas, "β")
    assert by < ay
    assert "85" in "\n".join(row[:8] for row in canvas.rows())


@pytest.mark.parametrize(("better_high", "rail"), [(False, 0), (True, 17)])
def test_what_was_not_measured_or_is_far_off_lies_on_the_rail(better_high: bool, rail: int) -> None:
    good, bad = (0.85, 0.2) if better_high else (34.0, 900.0)
    bound = 0.84 if better_high else 35.0
    chart = Chart(
        [point(1e6, good), point(2e6, None, "ξ"), point(3e6, bad, "υ")],
        bound=bound,
        higher_is_better=better_high,
    )
    canvas = draw(chart, 60, 20, UNICODE)
    assert {y for _, y in at(canvas, "ξ") + at(canvas, "υ")} == {rail}
    assert "off" in canvas.rows()[rail]


def test_the_more_important_mark_stays() -> None:
    marks = [point(1e6, 34.0, "β", 9), point(1e6, 34.0, "ω", 1), point(9e6, 35.0)]
    canvas = draw(Chart(marks, higher_is_better=False), 60, 20, UNICODE)
    assert len(at(canvas, "β")) == 1 and not at(canvas, "ω")


def test_ascii_is_ascii() -> None:
    chart = Chart(
        [point(1e6, 34.0, "+"), point(5e6, 35.0, "o")],
        path=[(1e6, 34.0), (5e6, 35.0)],
        bound=34.8,
        budget=4e6,
    )
    assert "".join(draw(chart, 60, 20, ASCII).rows()).isascii()


def test_the_envelope_is_a_braille_line_under_the_marks() -> None:
    chart = Chart([point(1e6, 34.0), point(5e6, 35.0)], path=[(1e6, 34.0), (5e6, 35.0)])
    rows = "".join(draw(chart, 60, 20, UNICODE).rows())
    assert any("\u2801" <= c <= "\u28ff" for c in rows) and rows.count("●") == 2


def test_nothing_is_drawn_without_points_or_room() -> None:
    assert not "".join(draw(Chart([]), 40, 10, UNICODE).rows()).strip()
    assert not "".join(draw(Chart([point(1, 1)]), 10, 3, UNICODE).rows()).strip()


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.floats(1, 1e12), st.none() | st.floats(-1e6, 1e6)), min_size=1, max_size=30),
    st.none() | st.floats(-1e6, 1e6),
    st.none() | st.floats(1, 1e12),
    st.booleans(),
    st.integers(24, 100),
    st.integers(6, 40),
)
def test_every_point_is_on_the_canvas(
    where: list[tuple[float, float | None]],
    bound: float | None,
    budget: float | None,
    high: bool,
    w: int,
    h: int,
) -> None:
    points = [point(x, y, chr(0x4E00 + i), 20 + i) for i, (x, y) in enumerate(where)]
    canvas = draw(Chart(points, (), bound, budget, high), w, h, UNICODE)
    rows = canvas.rows()
    assert [len(row) for row in rows] == [w] * h
    assert points[-1].sign in "".join(rows), "the heaviest is always seen"
