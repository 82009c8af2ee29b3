"""SpikeLM with spikes of either sign: a golden case from the written equations, in NumPy and nothing of ours.

The original's authors gave no numbers for ``input_bits`` 1. The NumPy model below is written from the
equations in ZOO.md and the tiny case's README; with ternary spikes it gives the original's logits and counts,
and for bipolar ones a single line of it differs.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from math import erf
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from qslm_opt.kernels.ops import REFERENCE, fast_ops  # noqa: E402
from qslm_opt.models.family import Fired, Inputs  # noqa: E402
from qslm_opt.models.loading import load_model  # noqa: E402
from qslm_opt.models.spikelm import SpikeLM  # noqa: E402

HEADS, STEPS, EPS = 4, 4, 1e-12
Array = np.ndarray[Any, Any]


def ternary(q: Array) -> Array:
    return np.clip(np.round(q), -1, 1)


class Written:
    """One sentence [T] at a time, so that there is no padding; activations are lists over the steps."""

    def __init__(self, p: dict[str, Array], spike: Callable[[Array], Array]) -> None:
        self.p, self.spike = p, spike
        self.spikes: dict[str, list[Array]] = {}

    def fire(self, site: str, xs: list[Array], leak: float) -> list[Array]:
        out, m, o, a = [], 0.0, 0.0, 0.0
        for t, x in enumerate(xs):
            m = leak * m * (a - o) + x
            a = self.p[f"{site}.{t}"]
            o = a * self.spike(m / a)
            out.append(o)
        self.spikes[site] = out
        return out

    def map(self, name: str, xs: list[Array]) -> list[Array]:
        spikes = self.fire(f"{name}.act_clip_val", xs, 0.25)
        return [self.affine(name, o) for o in spikes]

    def affine(self, name: str, x: Array) -> Array:
        return x @ self.p[f"{name}.weight"].T + self.p[f"{name}.bias"]

    def norm(self, name: str, x: Array) -> Array:
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + EPS)
        return x * self.p[f"{name}.weight"] + self.p[f"{name}.bias"]

    def attended(self, q: Array, k: Array, v: Array) -> Array:
        out, width = np.empty_like(q), q.shape[1] // HEADS
        for h in range(HEADS):
            own = slice(h * width, (h + 1) * width)
            scores = q[:, own] @ k[:, own].T / np.sqrt(width)
            scores = np.exp(scores - scores.max(-1, keepdims=True))
            out[:, own] = scores / scores.sum(-1, keepdims=True) @ v[:, own]
        return out

    def block(self, at: str, xs: list[Array]) -> list[Array]:
        of = f"{at}attention.self."
        q = self.map(f"{of}query", xs)
        k = self.fire(f"{of}clip_key", self.map(f"{of}key", xs), 0.0)
        v = self.fire(f"{of}clip_value", self.map(f"{of}value", xs), 0.0)
        mixed = [self.attended(*one) for one in zip(q, k, v, strict=True)]
        out = self.map(f"{at}attention.output.dense", mixed)
        xs = [self.norm(f"{at}attention.output.LayerNorm", x + y) for x, y in zip(xs, out, strict=True)]
        hidden = self.map(f"{at}intermediate.dense", xs)
        out = self.map(f"{at}output.dense", [h * 0.5 * (1 + np.vectorize(erf)(h / 2**0.5)) for h in hidden])
        return [self.norm(f"{at}output.LayerNorm", x + y) for x, y in zip(xs, out, strict=True)]

    def logits(self, ids: Array, blocks: int) -> Array:
        words, places, types = (
            self.p[f"bert.embeddings.{part}_embeddings.weight"] for part in ("word", "position", "token_type")
        )
        x = self.norm("bert.embeddings.LayerNorm", words[ids] + places[: len(ids)] + types[0])
        xs = [x] * STEPS
        for i in range(blocks):
            xs = self.block(f"bert.encoder.layer.{i}.", xs)
        pooled = np.tanh(self.affine("bert.pooler.dense", np.mean(xs, axis=0)[0]))
        return self.affine("classifier", pooled)


@pytest.fixture(scope="module")
def tiny(shared: Path) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    folder = shared / "models" / "spikelm-tiny"
    model = load_model(str(folder / "model.pth"), overrides={"num_attention_heads": HEADS})
    texts = ((folder / name).read_text() for name in ("inputs.json", "expected.json"))
    return model, *map(json.loads, texts)


def written(
    model: Any, given: dict[str, Any], spike: Callable[[Array], Array]
) -> tuple[Array, dict[str, Array]]:
    """Return logits [B, 2], and by site the spikes (minus, none, plus) of every step [S, 3]."""
    p = {name: tensor.double().numpy() for name, tensor in model.tensors.items()}
    logits, counts = [], dict.fromkeys(model.config.sites(), np.zeros((STEPS, 3), int))
    for ids, length in zip(given["input_ids"], given["lengths"], strict=True):
        one = Written(p, spike)
        logits.append(one.logits(np.array(ids[:length]), model.config.blocks))
        for site, steps in one.spikes.items():
            counts[site] = counts[site] + [[int((np.sign(o) == s).sum()) for s in (-1, 0, 1)] for o in steps]
    return np.array(logits), counts


def ours(model: Any, given: dict[str, Any], dtype: torch.dtype, ops: Any) -> tuple[Array, dict[str, float]]:
    inputs = Inputs(torch.tensor(given["input_ids"]), torch.tensor(given["lengths"]))
    fired, config = Fired(inputs), replace(model.config, input_bits=1)
    p = {name: tensor.to(dtype) for name, tensor in model.tensors.items()}
    with torch.inference_mode():
        logits = SpikeLM().logits(p, config, inputs, ops, fired)
    return logits.double().numpy(), {site: float(count) for site, count in fired.counts.items()}


def test_the_written_model_is_the_original_with_ternary_spikes(tiny: Any) -> None:
    model, given, expected = tiny
    logits, counts = written(model, given, ternary)
    np.testing.assert_allclose(logits, expected["logits"], rtol=0, atol=1e-10)
    assert {site: table.tolist() for site, table in counts.items()} == expected["counts_valid_positions"]


def test_bipolar_logits_and_counts_are_those_of_the_written_model(tiny: Any) -> None:
    model, given, expected = tiny
    wanted, tables = written(model, given, np.sign)
    logits, counts = ours(model, given, torch.float64, REFERENCE)
    np.testing.assert_allclose(logits, wanted, rtol=0, atol=1e-10)
    assert counts == {site: int(table[:, 0].sum() + table[:, 2].sum()) for site, table in tables.items()}
    assert np.abs(wanted - np.array(expected["logits"])).max() > 0.01  # another model than the ternary one
    assert all(table[:, 0].sum() > 100 < table[:, 2].sum() for table in tables.values())


def test_bipolar_logits_of_the_kernels_are_those_of_plain_torch_bit_for_bit(tiny: Any) -> None:
    """Both in float32: against float64 a potential within rounding of 0 changes sides, and much behind it."""
    model, given, _ = tiny
    logits, counts = ours(model, given, torch.float32, fast_ops("cpu"))
    plain, known = ours(model, given, torch.float32, REFERENCE)
    assert np.array_equal(logits, plain) and counts == known
    assert len(counts) == len(model.config.sites()) and min(counts.values()) > 1000
