"""What a session refuses: formats that its quantizer has not, flags without effect, tokens without a row."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch")

from qslm_opt import pipeline
from qslm_opt.errors import ModelError, SettingError, UsageError
from qslm_opt.pipeline import Session
from qslm_opt.spec import StudySpec

HQQ = {"quantizer": "hqq", "layout": "channel/offset", "precisions": [8, 4]}


def open_with(**keys: Any) -> Session:
    values = {"name": "x", "model": "demo", "task": "demo", "max_increase": "1.0", "memory_budget": "50%"}
    return Session.open(StudySpec.from_mapping({**values, "device": "cpu", "window": 16, "limit": 1, **keys}))


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """No model is loaded."""

    def load(*_: Any, **__: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(pipeline, "load_model", load)


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"pins": {"input": "int8/channel/affine"}}, "pin 'input': .*'hqq'.*int8/channel/affine has not"),
        ({"fixed": "int8/channel/affine"}, "fixed: .*'hqq'.*int8/channel/affine has not"),
        ({"sensitivity_precisions": [16, 8]}, "sensitivity_precisions: 16 bits is not a width of an offset"),
        ({"precisions": [16, 8]}, "precisions: 16 bits is not a width of an offset"),
    ],
)
def test_a_format_that_the_quantizer_has_not_is_refused_wherever_it_stands(
    keys: dict[str, Any], words: str
) -> None:
    with pytest.raises(SettingError, match=words):
        open_with(**{**HQQ, **keys})


def test_formats_that_every_quantizer_has_are_pinned() -> None:
    pins = {"input": "fp16", "output": "fp32", "attention.0": "int8/channel/offset", "attention.1": "sign"}
    assert open_with(**HQQ, pins=pins, sensitivity_precisions=[8, 1.58]).spec.pins == pins


@pytest.mark.parametrize("keys", [{"calibration": 4}, {"calibration_split": "train"}])
@pytest.mark.parametrize("quantizer", ["rtn", "mse"])
def test_calibration_without_a_quantizer_that_looks_at_it_is_refused(
    keys: dict[str, Any], quantizer: str
) -> None:
    (key,) = keys
    flag = "--" + key.replace("_", "-")
    with pytest.raises(UsageError, match=f"{flag} {keys[key]} .*quantizer '{quantizer}'.*--quantizer gptq"):
        open_with(quantizer=quantizer, **keys)


def test_calibration_text_beyond_the_vocabulary_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tokenizer gives an id in the calibration text alone that the model has no row for."""
    load = pipeline.load_task

    def beyond(*given: Any, split: str | None = None, **more: Any) -> Any:
        data = load(*given, split=split, **more)
        if split is not None:  # that of the calibration
            vars(data)["max_id"] = 10**6
        return data

    monkeypatch.setattr(pipeline, "load_task", beyond)
    with pytest.raises(ModelError, match="gives token id 1000000, but the model's vocabulary"):
        open_with(quantizer="gptq", calibration=2)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"report_split": "train"}, "would be tuned on split 'train', which the result is reported on"),
        ({"split": "train"}, "would be tuned on split 'train', which the model is measured on"),
        (
            {"limit": 4, "hold_back": 0.5, "calibration_split": "test"},
            "would be tuned on split 'test', which the model is measured on",
        ),
    ],
)
def test_settings_are_never_tuned_on_what_is_measured_or_reported(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        open_with(tune=1, **keys)
