"""SpikeLLM passes the suite that every adapter must pass: plain, with spikes, and with salient channels."""

from __future__ import annotations

import pytest

from qslm_opt.conformance import CHECKS, check_family, make_case
from qslm_opt.models.spikellm import SpikeLLM
from qslm_opt.models.spikellm_config import SpikeLLMConfig

SMALL = {
    "vocab_size": 19, "hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 2,
    "num_attention_heads": 3, "max_position_embeddings": 16,
}  # fmt: skip
SPIKES = {"activation_bits": 3, "added_bits": 2, "salient_share": 0.25}
VARIANTS = {
    "salient": SpikeLLMConfig(**SMALL, **SPIKES, salient_known=True),
    "spikes": SpikeLLMConfig(**SMALL, activation_bits=4),
    "plain": SpikeLLMConfig(**{**SMALL, "num_key_value_heads": 1}),
    "biases": SpikeLLMConfig(**SMALL, attention_bias=True, mlp_bias=True, rope_theta=500.0),
}


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_every_check_passes(check):
    check(make_case(SpikeLLM(), VARIANTS["salient"]))


@pytest.mark.parametrize("variant", list(VARIANTS)[1:])
def test_every_variant_passes(variant):
    check_family(SpikeLLM(), VARIANTS[variant], seed=1)
