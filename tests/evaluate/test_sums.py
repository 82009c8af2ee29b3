"""Firing rates are spikes per neuron, token and time step."""

from __future__ import annotations

from qslm_opt.evaluate.sums import Spikes
from tests.conformance.tiny_family import TinyConfig


def test_rates_are_per_neuron_token_and_step():
    """Three sites of 8 neurons, 5 tokens, 4 steps: 160 chances to fire each."""
    spikes = Spikes(TinyConfig(vocab_size=11, width=8, layers=2, classes=3, timesteps=4))
    counted = [16.0, 160.0, 0.0]
    assert spikes.rates(counted, 5) == {"emb": 0.1, "blocks.0": 1.0, "blocks.1": 0.0}
    assert spikes.rate(counted, 5) == 176 / 480
    assert spikes.silent(counted) == ("attention.1",)
