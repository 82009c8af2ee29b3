"""Calibration: the moments are those of what the matrices read, padding left out, and settings use them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from qslm_opt.errors import UsageError
from qslm_opt.evaluate.calibrate import input_moments
from qslm_opt.formats import Format
from qslm_opt.kernels.ops import REFERENCE
from qslm_opt.models import spikegpt
from qslm_opt.pipeline import Session
from qslm_opt.setting import UNQUANTIZED, QuantSetting
from qslm_opt.spec import StudySpec


def session(task: str, **keys) -> Session:
    bound = {"max_drop": 0.1} if task == "demo-classify" else {"max_increase": "50%"}
    values = {
        "name": "x", "model": "demo", "task": task, "memory_budget": "50%", "device": "cpu", "limit": 4,
        "quantizer": "gptq", "layout": "channel/midrise", "calibration": 3, **bound, **keys,
    }  # fmt: skip
    return Session.open(StudySpec.from_mapping(values))


def moments_of(session: Session) -> dict[str, torch.Tensor]:
    model = session.model
    return input_moments(model.tensors, model.config, session.calibration, torch.device("cpu"))


@pytest.fixture(scope="module")
def classify() -> Session:
    return session("demo-classify")


def test_moments_are_those_of_each_sequence_alone(classify):
    """One sentence at a time through the plain operations: nothing is padded there."""
    moments = moments_of(classify)
    p = {name: tensor.float() for name, tensor in classify.model.tensors.items()}
    cfg, name = classify.model.config, "blocks.0.ffn.key.weight"
    seen: list[torch.Tensor] = []

    def linear(x, weight):
        if weight is p[name]:
            seen.append(x.flatten(0, -2))
        return torch.nn.functional.linear(x, weight)

    for ids in classify.calibration.sequences:
        spikegpt.forward(p, cfg, torch.from_numpy(ids)[None], replace(REFERENCE, linear=linear))
    rows = torch.cat(seen)
    assert len(classify.calibration.sequences) == 3
    torch.testing.assert_close(moments[name], rows.T @ rows / len(rows), rtol=2e-3, atol=1e-4)
    assert set(moments) == {n for n, head in spikegpt.products(cfg).items() if not head}


def test_a_compensated_setting_loses_less_than_others():
    lm = session("demo", calibration=16, window=64, limit=3)

    def loss(quantizer: str) -> float:
        setting = QuantSetting({"network": Format.parse("int2/channel/midrise")}, quantizer=quantizer)
        return lm.run(setting)[0].loss

    assert lm.run(UNQUANTIZED)[0].loss < loss("gptq") < loss("mse") < loss("rtn")


def test_the_fingerprint_names_the_calibration_text(classify):
    assert classify.fingerprint()["calibration"] == classify.calibration.data_hash
    assert "calibration" not in session("demo-classify", quantizer="mse", calibration=None).fingerprint()


def test_the_evaluated_split_is_no_calibration_text():
    with pytest.raises(UsageError, match=r"calibrated on split 'test'.*give another --calibration-split"):
        session("demo", calibration_split="test", window=16)


def test_the_language_model_head_is_calibrated_too():
    lm = session("demo", window=16)
    assert "head.weight" in moments_of(lm)
