"""The engine keeps nothing of a module that is only known as a whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from qslm_opt.data.taskdata import build
from qslm_opt.evaluate.engine import Engine
from qslm_opt.formats import Format
from qslm_opt.hierarchy.discover import discover
from qslm_opt.models import registry
from qslm_opt.models.loading import LoadedModel
from qslm_opt.setting import UNQUANTIZED
from tests.mapping.test_facts import opened


@pytest.mark.parametrize("reuse", [True, False])
def test_a_change_behind_the_blocks_is_computed(
    reuse: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without reuse the last block returns the output: what is kept behind it would be stale."""
    monkeypatch.setattr(registry, "_registered", {})
    family = opened(tmp_path, {} if reuse else {"reuse = true": "reuse = false"})
    registry.register(family)
    config = family.config_class()
    made, rng = torch.Generator().manual_seed(0), np.random.default_rng(0)
    tensors = {n: torch.randn(s, generator=made) for n, s in config.tensor_shapes().items()}
    model = LoadedModel(config, tensors, "random", "0" * 64, None)
    rows = [rng.integers(0, 40, 5) for _ in range(6)]
    data = build("sst2", "validation", rows, source="", labels=np.array([0, 1] * 3))
    tree = discover(config, model.shapes, "classification")
    keeps, never = (Engine(model, tree, data, device="cpu", prefix_bytes=size) for size in (None, 0))
    changed = UNQUANTIZED.with_unit("output/classifier", Format.parse("int2/channel/midrise"))
    before = keeps.evaluate(UNQUANTIZED, parent=UNQUANTIZED)
    found = keeps.evaluate(changed, parent=UNQUANTIZED)
    assert keeps.reused == reuse
    assert found.nll_sum == never.evaluate(changed).nll_sum != before.nll_sum
