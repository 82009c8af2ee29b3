"""The built-in family passes the suite that every adapter must pass, in each of its variants."""

from __future__ import annotations

import pytest

from qslm_opt.conformance import CHECKS, check_family, make_case
from qslm_opt.models.spikegpt import SpikeGPT
from qslm_opt.models.spikegpt_config import SpikeGPTConfig

SMALL = {"vocab_size": 19, "n_layer": 2, "n_embd": 12, "n_ffn": 20}
VARIANTS = {
    "both heads": SpikeGPTConfig(**SMALL, n_labels=3),
    "classifier": SpikeGPTConfig(**SMALL, n_labels=2, has_head=False),
    "float embedding": SpikeGPTConfig(**SMALL, embed_spike="off"),
    "ffnPre": SpikeGPTConfig(**SMALL, model_type="RWKV-ffnPre", rescale_every=1),
}


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_every_check_passes(check):
    check(make_case(SpikeGPT(), VARIANTS["both heads"]))


@pytest.mark.parametrize("variant", list(VARIANTS)[1:])
def test_every_variant_passes(variant):
    check_family(SpikeGPT(), VARIANTS[variant], seed=1)
