"""Models that no adapter knows pass the suite that every family must pass, by a mapping file alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from qslm_opt.conformance import CHECKS, check_family, make_case
from qslm_opt.models.mapping.family import open_mapping

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def case():
    family = open_mapping(HERE / "plain_snn.toml")
    return make_case(family, family.config_class(vocab_size=40))


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_a_classifier_of_plain_torch_passes(check, case):
    check(case)


def test_a_classifier_of_snntorch_layers_passes():
    pytest.importorskip("snntorch")
    family = open_mapping(HERE / "snntorch_snn.toml")
    config = family.config_class(vocab_size=40)
    assert not family.reuses(config)
    check_family(family, config)


def test_a_language_model_of_spikingjelly_layers_passes():
    pytest.importorskip("spikingjelly")
    family = open_mapping(HERE / "spikingjelly_snn.toml")
    config = family.config_class(vocab_size=40)
    assert family.reuses(config)
    assert len(family.products(config)) == 5
    check_family(family, config)
