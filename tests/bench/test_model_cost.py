"""The cost formulas against calculations by hand."""

from __future__ import annotations

import pytest

from qslm_opt.bench.model_cost import Kernel, floor_seconds, flop_per_token, kernels
from qslm_opt.models.spikegpt_config import SpikeGPTConfig

D, F, V = 4, 16, 10
ONE = SpikeGPTConfig(vocab_size=V, n_layer=1, n_embd=D, n_labels=2)


def test_flop_are_two_a_weight_of_every_product() -> None:
    block = 5 * D * D + 2 * D * F
    assert flop_per_token(ONE, "lm") == 2 * (block + D * V)
    assert flop_per_token(ONE, "classification") == 2 * block
    for kind in ("lm", "classification"):
        assert sum(k.flop for k in kernels(ONE, kind, "fp32")) == flop_per_token(ONE, kind)


def test_bytes_between_kernels_of_one_block_in_float32() -> None:
    """Numbers that each kernel reads and writes per token, four bytes each."""
    time_mix = (D + 3 * D) + 3 * (D + D) + (3 * D + D) + (D + D) + (2 * D + D)
    channel_mix = (D + 2 * D) + (D + F) + (F + F) + (F + D) + (D + D) + (3 * D + D)
    ends = (D + D) + (D + D) + (D + V) + V
    assert sum(k.bytes for k in kernels(ONE, "lm", "fp32")) == 4 * (time_mix + channel_mix + ends)
    assert sum(k.weight_bytes for k in kernels(ONE, "lm", "fp32")) == 4 * (5 * D * D + 2 * D * F + D * V)


def test_half_operands_move_fewer_bytes_and_split_ones_as_many_as_float32() -> None:
    total = {m: sum(k.bytes for k in kernels(ONE, "lm", m)) for m in ("fp32", "tf32", "split", "fp16")}
    made_for_the_head = 4 * D + 4 * D
    assert total["split"] == total["fp32"] + made_for_the_head == total["tf32"] + made_for_the_head
    operands = (3 * D + 3 * D + D + D) + (2 * D + D + F + F + D) + D  # written and read, the head's read
    assert total["fp16"] == total["fp32"] - 2 * operands + 4 * D + 2 * D


def test_a_first_block_with_two_channel_mixes_has_their_products() -> None:
    pre = SpikeGPTConfig(vocab_size=V, n_layer=2, n_embd=D, model_type="RWKV-ffnPre")
    assert sum(k.flop for k in kernels(pre, "lm", "fp32")) == flop_per_token(pre, "lm")


def test_the_floor_takes_the_longer_of_products_and_traffic_of_each_kernel() -> None:
    found = [Kernel("product", 1000.0, 10.0), Kernel("move", 0.0, 40.0), Kernel("weights", 1.0, 0.0, 600.0)]
    # 2 tokens at 100 FLOP/s and 20 bytes/s: 20 s > 1 s; 4 s; 30 s > 0.02 s
    assert floor_seconds(found, 2, 100.0, 20.0) == pytest.approx(20 + 4 + 30)
