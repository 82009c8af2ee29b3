"""The exact allocation against every combination, and the predictions it is made from."""

from __future__ import annotations

import os
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qslm_opt.search.knapsack import allocate, quiet
from qslm_opt.search.prediction import Sensitivities, curve, distortion

CHOICES = st.tuples(st.integers(0, 40), st.integers(-50, 50).map(lambda n: n / 16))
UNITS = st.lists(st.lists(CHOICES, min_size=1, max_size=4), min_size=1, max_size=5)


@settings(max_examples=60, deadline=None)
@given(UNITS, st.integers(0, 200), st.sampled_from([1, 64, 1000]))
def test_it_is_the_best_of_all_combinations(units, budget, scale):
    units = [[(size * scale, loss) for size, loss in choices] for choices in units]
    budget *= scale
    sums = [
        (sum(choices[i][1] for choices, i in zip(units, chosen, strict=True)), chosen)
        for chosen in product(*(range(len(choices)) for choices in units))
        if sum(choices[i][0] for choices, i in zip(units, chosen, strict=True)) <= budget
    ]
    found = allocate(units, budget)
    if not sums:
        assert found is None
        return
    assert sum(choices[i][0] for choices, i in zip(units, found, strict=True)) <= budget
    loss = sum(choices[i][1] for choices, i in zip(units, found, strict=True))
    assert loss == pytest.approx(min(sums)[0], abs=1e-9)


def test_a_byte_decides():
    units = [[(1_000_003, 0.0), (7, 1.0)], [(2_000_001, 0.0), (11, 0.5)]]
    assert allocate(units, 3_000_004) == (0, 0)
    assert allocate(units, 3_000_003) == (0, 1)
    assert allocate(units, 17) is None


def test_losses_far_below_one_still_decide():
    units = [[(10, 0.0), (5, 3e-7)], [(10, 0.0), (5, 1e-7)]]
    assert allocate(units, 15) == (0, 1)


@pytest.mark.parametrize("units", [[[]], [[(1, float("nan"))]], [[(1, float("inf"))]]])
def test_what_cannot_be_chosen_is_refused(units):
    with pytest.raises(ValueError, match="finite losses"):
        allocate(units, 5)


def test_what_a_library_prints_does_not_reach_the_output(capfd):
    with quiet():
        os.write(1, b"Running HiGHS")
    os.write(1, b"data")
    assert capfd.readouterr().out == "data"


LEVELS = (8, 4, 3, 2, 1.58, 1)


def test_predictions_are_what_was_measured_and_follow_the_distortion_beyond():
    known = Sensitivities((3, 4), curve(LEVELS, {})).measured(0, {2: 0.06, 4: -0.02}, 3)
    assert [known.predict(0, bits) for bits in (2, 3, 4)] == [0.06, 0.0, -0.02]
    rate = 0.06 / (distortion(2) - distortion(3))
    assert known.predict(0, 1.58) == pytest.approx(rate * (distortion(1.58) - distortion(3)))
    assert known.predict(0, 1) > known.predict(0, 1.58) > known.predict(0, 2)
    assert known.predict(0, 8) < known.predict(0, 4)
    assert known.predict(1, 2) > 0  # not measured: fewer bits cost


def test_a_step_down_that_helped_by_chance_is_not_followed_for_free():
    known = Sensitivities((3,), curve(LEVELS, {})).measured(0, {2: -0.01}, 3)
    assert known.predict(0, 2) == -0.01
    assert known.predict(0, 1) > 0


def test_what_the_uniform_levels_cost_says_how_a_unit_goes_on():
    damage = curve(LEVELS, {4: 1.1, 3: 1.2, 2: 2.2})
    assert [damage[bits] for bits in (4, 3, 2)] == [1.1, 1.2, 2.2]
    assert damage[8] < damage[4] and damage[1] > damage[1.58] > damage[2]
    known = Sensitivities((4,), damage).measured(0, {3: 0.01}, 4)
    assert known.predict(0, 2) == pytest.approx(0.01 * (2.2 - 1.1) / (1.2 - 1.1))


def test_the_curve_rises_also_where_a_measured_loss_does_not():
    damage = curve((4, 3, 2), {4: 1.0, 3: 0.9, 2: 1.5})
    assert damage[4] < damage[3] < damage[2] == 1.5


def test_levels_beyond_what_was_measured_are_trusted_one_step_down_and_none_up():
    known = Sensitivities((3, 3), curve(LEVELS, {})).measured(0, {2: 0.06, 4: -0.02}, 3)
    assert known.trusted(0, LEVELS) == (4, 3, 2, 1.58)
    assert known.trusted(1, LEVELS) == (3, 2)
