"""SpikeLM trained on SST-2 by the authors' code: the same tokens, spikes, logits and accuracy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from qslm_opt.evaluate.engine import Engine  # noqa: E402
from qslm_opt.kernels.ops import REFERENCE, Ops, fast_ops  # noqa: E402
from qslm_opt.models.family import Fired, Inputs  # noqa: E402
from qslm_opt.pipeline import Session  # noqa: E402
from qslm_opt.setting import UNQUANTIZED  # noqa: E402
from qslm_opt.spec import StudySpec  # noqa: E402
from tests.models.test_spikelm import FAMILY  # noqa: E402

TOGETHER, FIRST = 16, 64


@pytest.fixture(scope="module")
def trained(shared: Path) -> tuple[Session, dict[str, Any], dict[str, np.ndarray]]:
    folder = shared / "models" / "spikelm-sst2"
    spec = StudySpec.from_mapping({
        "name": "t", "model": str(folder / "model.pth"), "config": {"num_attention_heads": 4},
        "tokenizer": str(shared / "tokenizers" / "bert-base-uncased-vocab.txt"), "device": "cpu",
        "task": "sst2", "data": str(shared / "data" / "sst2"), "max_drop": 0.02, "memory_budget": "100%",
    })  # fmt: skip
    logits = dict(np.load(folder / "validation_logits.npz"))
    return Session.open(spec), json.loads((folder / "expected.json").read_text()), logits


def batch_of(session: Session, members: list[int]) -> Inputs:
    rows = [session.data.sequences[i] for i in members]
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.zeros(len(rows), int(lengths.max()), dtype=torch.int64)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = torch.from_numpy(row)
    return Inputs(ids, lengths)


def logits_of(session: Session, members: list[int], dtype: Any, ops: Ops) -> np.ndarray:
    p = {name: tensor.to(dtype) for name, tensor in session.model.tensors.items()}
    with torch.inference_mode():
        parts = [
            FAMILY.logits(p, session.model.config, inputs, ops, Fired(None))
            for first in range(0, len(members), TOGETHER)
            for inputs in [batch_of(session, members[first : first + TOGETHER])]
        ]
    return torch.cat(parts).numpy()


def test_its_first_sentences_give_the_originals_logits(trained) -> None:
    session, expected, known = trained
    assert session.data.n == expected["n"] and np.array_equal(session.data.labels, known["labels"])
    members = list(range(FIRST))
    exact = logits_of(session, members, torch.float64, REFERENCE)
    np.testing.assert_allclose(exact, known["logits_f64_cpu"][:FIRST], rtol=0, atol=1e-9)
    fast = logits_of(session, members, torch.float32, fast_ops("cpu"))
    assert np.array_equal(fast.argmax(1), exact.argmax(1))
    assert np.median(np.abs(fast - exact)) < 1e-6 and np.abs(fast - exact).max() < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_its_accuracy_is_the_originals(trained, dtype: Any) -> None:
    session, expected, _ = trained
    if dtype == torch.float32:
        found = session.run(UNQUANTIZED)[0]
        assert found.correct == expected["correct"]["f32_cpu"]
    else:
        found = Engine(
            session.model, session.hierarchy, session.data, device="cpu", dtype=dtype
        ).evaluate(UNQUANTIZED)
        assert found.correct == expected["correct"]["f64_cpu"]
        for site, steps in expected["spike_counts_float64_valid_positions"].items():
            fired, every = sum(a + c for a, _, c in steps), np.sum(steps)
            assert found.rates[site] == pytest.approx(fired / every, rel=1e-12), site
    assert found.value == expected["accuracy"]["f64_cpu"]
