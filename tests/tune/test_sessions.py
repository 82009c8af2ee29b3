"""Tuned codes in a session: once for searched and held-back data, and not kept for another search."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("torch")

import qslm_opt.tune.run as tuning
from qslm_opt import pipeline
from qslm_opt.errors import StoppedError
from qslm_opt.evaluate import engine
from qslm_opt.pipeline import Session
from qslm_opt.setting import QuantSetting
from qslm_opt.spec import StudySpec


def test_both_data_sets_share_the_tuned_weights_and_another_search_tunes_anew(monkeypatch):
    spec = StudySpec.from_mapping({
        "name": "s", "model": "demo", "task": "demo-classify", "max_drop": 0.1, "memory_budget": "50%",
        "limit": 24, "hold_back": 0.5, "tune": 1, "device": "cpu", "quantizer": "mse",
    })  # fmt: skip
    setting = replace(QuantSetting.from_value({"units": {"network": "ternary/channel"}}), tune=1)
    tuned, real = [], tuning.tuned
    monkeypatch.setattr(tuning, "tuned", lambda *given: tuned.append(given[0]) or real(*given))
    session = Session.open(spec)
    session.run(setting)
    held_back = session.evaluate_held_back(setting)
    assert len(tuned) == 1 and held_back.n == 12
    session.under(replace(spec, name="other")).run(setting)
    assert len(tuned) == 2


SETTING = replace(QuantSetting.from_value({"units": {"network": "ternary/channel"}}), tune=3)


def opened(**keys: object) -> Session:
    return Session.open(StudySpec.from_mapping({
        "name": "s", "model": "demo", "task": "demo-classify", "max_drop": 0.1, "memory_budget": "50%",
        "limit": 24, "device": "cpu", "quantizer": "mse", **keys,
    }))  # fmt: skip


def test_a_tuning_that_was_stopped_leaves_nothing_and_begins_anew():
    session, asked = opened(tune=3), []
    with pytest.raises(StoppedError, match="stopped after step 2 of 3"):
        session.run(SETTING, stop=lambda: asked.append(1) or len(asked) == 2)
    assert len(asked) == 2
    assert session.run(SETTING)[0].nll_sum == opened(tune=3).run(SETTING)[0].nll_sum


def test_seconds_hold_the_tuning_and_not_the_calibration(monkeypatch):
    clock = [0.0]
    for module in (pipeline, engine):
        monkeypatch.setattr(module, "perf_counter", lambda: clock[0])

    def lasting(seconds, real):
        def slow(*given):
            clock[0] += seconds
            return real(*given)

        return slow

    monkeypatch.setattr(tuning, "tuned", lasting(100.0, tuning.tuned))
    monkeypatch.setattr(engine, "input_moments", lasting(1000.0, engine.input_moments))
    said: list[str] = []
    session = Session.open(replace(opened(tune=1).spec, quantizer="gptq"), said.append)
    plain = replace(SETTING, tune=0, quantizer="gptq")
    assert session.run(plain)[0].seconds == 0.0
    assert "calibrated in 1000.0 s, which are in no evaluation's seconds" in said
    assert session.run(replace(plain, tune=1))[0].seconds == 100.0
    assert clock[0] == 1100.0
