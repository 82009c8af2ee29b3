"""What the student sees is what the model sees when it is evaluated: pads that are tokens stay tokens."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from qslm_opt.data.taskdata import build  # noqa: E402
from qslm_opt.tune import TuneConfig  # noqa: E402
from qslm_opt.tune.batches import Batches  # noqa: E402


def sentences(**keys):
    rows = [np.arange(1, n + 1) for n in (2, 5, 3, 4)]
    return replace(build("sst2", "train", rows, source="", labels=np.array([0, 1, 0, 1])), **keys)


def drawn(data) -> Batches:
    found = Batches(data, TuneConfig(steps=1, tokens=60), torch.device("cpu"))
    found.draw()
    return found


def test_one_pad_stands_for_all_of_a_sentences():
    """Twelve places a sentence: its ids count once, the one pad behind them for all others."""
    found = drawn(sentences(pad_to=12, pads_alike=True))
    weights = found.inputs.weights()
    assert found.inputs.ids.shape[1] == 6 < 12
    assert weights.sum(1).tolist() == [12.0] * len(weights)
    for row, length in zip(weights, found.lengths, strict=True):
        assert row[:length].tolist() == [1.0] * int(length) and row[length] == 12 - length


def test_pads_that_are_no_tokens_weigh_nothing_and_others_are_all_there():
    found = drawn(sentences())
    assert found.inputs.pad_to is None and found.inputs.ids.shape[1] <= 5
    assert torch.equal(found.inputs.inside().sum(1), found.lengths)
    whole = drawn(sentences(pad_to=12))
    assert whole.inputs.ids.shape[1] == 12 and whole.inputs.lengths is None
