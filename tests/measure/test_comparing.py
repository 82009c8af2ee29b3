"""Student's t against printed tables, and what an A/A test says of equal and of unequal arms."""

from __future__ import annotations

import random
from math import atan, pi

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qslm_opt.measure.comparing import compare, incomplete_beta, interleaved, two_sided_p

# Upper 2.5 % and 0.5 % points of Student's t as every statistics book prints them.
TABLE = {1: (12.706, 63.657), 2: (4.303, 9.925), 5: (2.571, 4.032), 9: (2.262, 3.250), 30: (2.042, 2.750),
         120: (1.980, 2.617)}  # fmt: skip


@pytest.mark.parametrize("freedom", TABLE)
def test_p_is_that_of_the_printed_tables(freedom: int) -> None:
    for t, p in zip(TABLE[freedom], (0.05, 0.01), strict=True):
        assert two_sided_p(t, freedom) == pytest.approx(p, rel=2e-3)
        assert two_sided_p(-t, freedom) == two_sided_p(t, freedom)


@given(st.floats(-50, 50))
def test_one_and_two_degrees_have_closed_forms(t: float) -> None:
    assert two_sided_p(t, 1) == pytest.approx(1 - 2 * atan(abs(t)) / pi, abs=1e-12)
    assert two_sided_p(t, 2) == pytest.approx(1 - abs(t) / (2 + t * t) ** 0.5, abs=1e-12)


@given(st.floats(0.1, 60), st.floats(0.1, 60), st.floats(0.001, 0.999))
def test_the_incomplete_beta_function_and_its_mirror_add_to_one(a: float, b: float, x: float) -> None:
    assert 0 <= incomplete_beta(a, b, x) <= 1 + 1e-12
    assert (incomplete_beta(a, b, 0.0), incomplete_beta(a, b, 1.0)) == (0.0, 1.0)
    assert incomplete_beta(a, b, x) + incomplete_beta(b, a, 1 - x) == pytest.approx(1, abs=1e-9)


def test_a_comparison_is_as_by_hand() -> None:
    found = compare([100, 102, 98, 100], [101, 104, 99, 104])  # differences 1, 2, 1, 4
    assert found is not None
    assert found.difference == pytest.approx(0.02)
    error = (2.0 / 4) ** 0.5  # their variance is 2
    assert found.smallest == pytest.approx(2.8 * error / 100)
    assert found.p == pytest.approx(two_sided_p(2 / error, 3))
    assert not found.differs


def test_arms_of_one_distribution_seldom_differ_and_a_visible_difference_mostly_shows() -> None:
    noise = random.Random(5)

    def arm(mean: float) -> list[float]:
        return [noise.gauss(mean, 3) for _ in range(12)]

    same = [compare(arm(300), arm(300)) for _ in range(400)]
    assert sum(c.differs for c in same if c) / 400 == pytest.approx(0.05, abs=0.03)
    smallest = sum(c.smallest for c in same if c) / 400
    shifted = [compare(arm(300), arm(300 * (1 + smallest))) for _ in range(400)]
    assert sum(c.differs for c in shifted if c) / 400 == pytest.approx(0.78, abs=0.08)


def test_without_spread_or_pairs() -> None:
    assert compare([], []) is None
    assert compare([1.0], [2.0]) is None
    assert compare([0.0, 0.0], [1.0, 1.0]) is None
    same, shifted = compare([5.0] * 3, [5.0] * 3), compare([5.0] * 3, [6.0] * 3)
    assert same is not None and (same.p, same.differs, same.smallest) == (1.0, False, 0.0)
    assert shifted is not None and (shifted.p, shifted.differs) == (0.0, True)
    with pytest.raises(ValueError):
        compare([1.0], [1.0, 2.0])


def test_windows_are_interleaved_so_that_a_drift_touches_all_arms_alike() -> None:
    assert list(interleaved(3, 2)) == [0, 1, 2, 2, 1, 0]
    drifting = list(enumerate(interleaved(2, 6)))
    means = [sum(at for at, arm in drifting if arm == which) / 6 for which in (0, 1)]
    assert means[0] == means[1]
