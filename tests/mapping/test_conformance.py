"""Models that no adapter knows pass the suite that every family must pass, by a mapping file alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from qslm_opt.conformance import CHECKS, make_case
from qslm_opt.models.mapping.family import open_mapping

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def case():
    family = open_mapping(HERE / "plain_snn.toml")
    return make_case(family, family.config_class(vocab_size=40))


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_a_classifier_of_plain_torch_passes(check, case):
    check(case)
