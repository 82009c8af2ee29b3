"""Tuned codes in a session: once for searched and held-back data, and not kept for another search."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("torch")

import qslm_opt.tune.run as tuning
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
