"""What a mapped module's matrices read is measured without padding, on whatever axis its tokens are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from qslm_opt.data.taskdata import TaskData, build
from qslm_opt.evaluate.calibrate import input_moments
from qslm_opt.models import registry
from tests.mapping.test_facts import opened

LAYOUTS = {
    "sentences first": "self.own(h)",
    "tokens first": "self.own(h.transpose(0, 1)).transpose(0, 1)",
    "flat": "self.own(h.flatten(0, 1)).unflatten(0, h.shape[:2])",
    "a call a token": "torch.stack([self.own(now) for now in h.unbind(1)], 1)",
}


def sentences(*lengths: int) -> TaskData:
    rng = np.random.default_rng(0)
    rows = [rng.integers(1, 40, n) for n in lengths]
    return build("sst2", "train", rows, source="", labels=np.zeros(len(rows), np.int64))


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_padding_is_left_out_in_every_layout(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_registered", {})
    family = opened(tmp_path, {}, {"self.own(h)": layout})
    registry.register(family)
    config, made = family.config_class(), torch.Generator().manual_seed(0)
    tensors = {n: torch.randn(s, generator=made) for n, s in config.tensor_shapes().items()}
    data, cpu = sentences(3, 9, 5, 3, 1, 5), torch.device("cpu")
    found = input_moments(tensors, config, data, cpu)
    alone = [
        input_moments(tensors, config, build("sst2", "train", [ids], source="", labels=np.zeros(1)), cpu)
        for ids in data.sequences
    ]
    for name in ("layers.0.own.weight", "layers.1.own.weight"):
        wanted = sum(len(ids) * own[name] for ids, own in zip(data.sequences, alone, strict=True)) / 26
        torch.testing.assert_close(found[name], wanted, rtol=1e-4, atol=1e-5)
