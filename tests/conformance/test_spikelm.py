"""SpikeLM passes the suite that every family must pass: ternary and binary spikes, and the first steps."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("torch")

from qslm_opt.conformance import CHECKS, Case, check_family, make_case
from qslm_opt.models.spikelm import SpikeLM
from tests.models.test_spikelm import BINARY, CONFIG, random_tensors

FEWER = replace(CONFIG, timesteps=2, stored_steps=3)


@pytest.fixture(scope="module")
def case() -> Case:
    return make_case(SpikeLM(), CONFIG, tensors=random_tensors(CONFIG))


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_ternary_spikes(check, case: Case) -> None:
    check(case)


def test_the_first_steps_alone() -> None:
    check_family(SpikeLM(), FEWER, tensors=random_tensors(FEWER))


def test_binary_spikes() -> None:
    """Signs are never silent, which is all that ``neurons_fire`` has to say.

    They hide many a change in front of them; with these tensors each shows.
    """
    binary = make_case(SpikeLM(), BINARY, tensors=random_tensors(BINARY, seed=1))
    for check in (check for name, check in CHECKS.items() if name != "neurons_fire"):
        check(binary)
