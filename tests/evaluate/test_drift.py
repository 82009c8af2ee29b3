"""Membrane drift: zero where nothing changes, larger with fewer bits, and exact against a plain loop."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from qslm_opt.data.taskdata import build  # noqa: E402
from qslm_opt.evaluate.drift import TOKENS, DriftMeter, _run, first_tokens  # noqa: E402
from qslm_opt.formats import SIGN, Format  # noqa: E402
from qslm_opt.kernels.lif.reference import lif_reference  # noqa: E402
from qslm_opt.kernels.ops import REFERENCE  # noqa: E402
from qslm_opt.setting import UNQUANTIZED, QuantSetting  # noqa: E402
from tests.evaluate.test_engine import CONFIG, class_data, engine, lm_data, random_model  # noqa: E402


def at(bits: int) -> QuantSetting:
    return QuantSetting({"network": Format.parse(f"int{bits}/channel/affine"), "input/emb": SIGN})


@pytest.mark.parametrize("data", [lm_data(), class_data()], ids=["lm", "classification"])
def test_drift_is_zero_without_a_change_and_grows_with_fewer_bits(data) -> None:
    e = engine(data)
    drifts = [e.drift(setting)[0] for setting in (UNQUANTIZED, at(8), at(4), at(2))]
    assert drifts[0] == 0
    assert 0 < drifts[1] < drifts[2] < drifts[3]
    assert e.drift(at(4))[0] == drifts[2]
    lossless = UNQUANTIZED.with_unit("input/emb", SIGN)
    assert e.drift(lossless)[0] == 0


def test_the_potentials_are_those_of_the_reference() -> None:
    current, v0 = torch.randn(2, 30, 5) * 2, torch.randn(2, 5)
    potentials, spikes, v = _run(current, v0)
    expected, end = lif_reference(current, v0)
    assert torch.equal(spikes, expected) and torch.equal(v, end)
    assert torch.equal(spikes, (potentials >= 1).float())


def test_padding_does_not_count() -> None:
    """A short sentence beside a long one drifts as it does alone."""
    rows = [np.arange(3), np.arange(12)]
    model, device = random_model(), torch.device("cpu")

    def drift(sentences) -> float:
        data = build("sst2", "validation", sentences, source="", labels=np.zeros(len(sentences), int))
        meter = DriftMeter(data, CONFIG, REFERENCE, device)
        meter.refer_to(model.tensors)
        changed = {k: v * 1.05 if k.endswith("key.weight") else v for k, v in model.tensors.items()}
        return meter.drift(changed)

    both = drift(rows)
    assert both == pytest.approx((3 * drift(rows[:1]) + 12 * drift(rows[1:])) / 15, rel=1e-5)


def test_a_few_hundred_tokens_are_taken() -> None:
    window = build("wikitext2", "test", [np.arange(1025) % 60] * 3, source="", window=1024)
    assert first_tokens(window, TOKENS).n == TOKENS
    sentences = build("sst2", "validation", [np.arange(100)] * 9, source="", labels=np.zeros(9, int))
    assert first_tokens(sentences, TOKENS).n == 3


def test_a_drift_without_a_reference_is_refused() -> None:
    meter = DriftMeter(lm_data(), CONFIG, REFERENCE, torch.device("cpu"))
    with pytest.raises(ValueError, match="refer_to"):
        meter.drift(random_model().tensors)
