from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tui.fakes import Study
from tui.lam import Scale, inside, next_winner, step

TRIAL = Study().add("global", "network", 4, {"attention.0": 4})
WINNERS = [(0.0, 0.22, TRIAL), (0.22, 0.51, TRIAL), (0.51, inf, TRIAL)]


@pytest.mark.parametrize(
    ("lam", "up", "coarse", "after"),
    [
        (0.2, True, False, 0.21), (0.2, False, False, 0.19), (0.2, True, True, 0.3), (20, True, False, 21),
        (0.99, True, False, 1.0), (1.0, False, False, 0.99), (1.0, False, True, 0.9),
        (0.213, True, False, 0.22),
        (0.213, False, False, 0.21), (0, True, False, 0.001), (0, True, True, 0.01), (0, False, True, 0),
        (0.0005, False, False, 0), (0.1, True, False, 0.11),
    ],
)  # fmt: skip
def test_a_step_moves_the_second_digit_and_a_coarse_one_the_first(
    lam: float, up: bool, coarse: bool, after: float
) -> None:
    assert step(lam, up, coarse) == pytest.approx(after, abs=1e-12)


@given(st.floats(0.002, 1e4), st.booleans())
def test_a_step_up_and_one_down_never_pass_each_other(lam: float, coarse: bool) -> None:
    higher, lower = step(lam, True, coarse), step(lam, False, coarse)
    assert lower < lam < higher
    assert step(higher, False, coarse) <= lam * (1 + 1e-9)


def test_next_winner_goes_round() -> None:
    seen, lam = [], 0.1
    for _ in range(4):
        found = next_winner(WINNERS, lam)
        assert found is not None
        lam = found
        seen.append(next(i for i, (low, high, _) in enumerate(WINNERS) if low <= lam < high))
    assert seen == [1, 2, 0, 1]
    assert next_winner(WINNERS[:1], 0.1) is None and next_winner([], 0.1) is None


@given(st.floats(0, 1e3), st.floats(1e-6, 1e3))
def test_inside_is_inside(low: float, width: float) -> None:
    high = low + width
    assert low <= inside(low, high) <= high
    assert inside(low, inf) > low


@given(st.floats(0, 1), st.sampled_from([Scale(1.0), Scale(600.0, 1.5)]))
def test_a_scale_maps_there_and_back(place: float, scale: Scale) -> None:
    assert scale.place(scale.value(place)) == pytest.approx(place, abs=1e-9)


def test_the_scale_shows_every_winner_and_is_logarithmic_over_decades() -> None:
    linear = Scale.of(WINNERS, 0.2)
    assert linear.knee is None and linear.top > 0.51
    wide = Scale.of([(0.0, 1.0, TRIAL), (1.0, 300.0, TRIAL), (300.0, inf, TRIAL)], 20.0)
    assert wide.knee == 1.0 and wide.top > 300
    assert 0.05 < wide.place(1.0) < wide.place(20.0) < wide.place(300.0) < 1
