"""Tuning: it comes nearer to the unquantized model, changes no format, and repeats itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from qslm_opt.data.taskdata import build, cut_windows  # noqa: E402
from qslm_opt.errors import SettingError, UsageError  # noqa: E402
from qslm_opt.evaluate.memory import live_bytes  # noqa: E402
from qslm_opt.formats import Format  # noqa: E402
from qslm_opt.hierarchy.discover import discover  # noqa: E402
from qslm_opt.hierarchy.tree import NETWORK  # noqa: E402
from qslm_opt.models.spikegpt_config import SpikeGPTConfig  # noqa: E402
from qslm_opt.quant import QuantizedTensor, QuantizedView  # noqa: E402
from qslm_opt.setting import QuantSetting  # noqa: E402
from qslm_opt.train.network import initial_tensors  # noqa: E402
from qslm_opt.tune import TuneConfig  # noqa: E402
from qslm_opt.tune.loop import tune  # noqa: E402
from qslm_opt.tune.run import tuned  # noqa: E402
from qslm_opt.tune.student import Student  # noqa: E402

SIGN = Format.parse("sign")
CONFIG = SpikeGPTConfig(40, 2, 16)
CLASSES = replace(CONFIG, n_labels=2, has_head=False)


def setting(text: str = "int2/channel/midrise", steps: int = 30) -> QuantSetting:
    return QuantSetting({NETWORK: Format.parse(text), "input/emb": SIGN}, quantizer="mse", tune=steps)


def text_of(kind: str):
    rng = np.random.default_rng(0)
    if kind == "lm":
        windows = cut_windows(rng.integers(0, 40, 1500), 50, "demo")
        return build("demo", "train", windows, source="t", window=50)
    sentences = [rng.integers(0, 40, rng.integers(3, 12)) for _ in range(60)]
    return build("demo-classify", "train", sentences, source="t", labels=rng.integers(0, 2, 60))


def model(cfg: SpikeGPTConfig):
    tensors = initial_tensors(cfg, 1)
    kind = "classification" if cfg.n_labels else "lm"
    if cfg.n_labels:
        tensors["classifier.weight"] *= 20
    else:
        tensors["head.weight"] *= 10
    return tensors, discover(cfg, cfg.tensor_shapes(), kind)


def run(cfg: SpikeGPTConfig, how: QuantSetting, **changes):
    tensors, hierarchy = model(cfg)
    student = Student(tensors, hierarchy, how, dict)
    data = text_of("classification" if cfg.n_labels else "lm")
    config = TuneConfig(steps=how.tune, tokens=200, window=25, **changes)
    return student, tune(student, tensors, cfg, data, config, lambda _: None), hierarchy, tensors


@pytest.mark.parametrize("cfg", [CONFIG, CLASSES], ids=["lm", "classification"])
@pytest.mark.parametrize("text", ["int2/channel/midrise", "ternary/channel", "int3/group8/affine"])
def test_it_comes_nearer_and_stores_the_same_bytes(cfg, text):
    how = setting(text, 60)
    rates = {"code_rate": 0.05, "scale_rate": 0.02, "vector_rate": 0.01}
    student, report, hierarchy, tensors = run(cfg, how, **rates)
    assert report.steps == 60 and report.last_loss < 0.9 * report.first_loss
    assert 0 < report.changed_codes < 1
    stored = student.stored()
    formats = how.resolve(hierarchy)
    assert stored.keys() == formats.keys()
    made = {n: x for n, x in stored.items() if isinstance(x, QuantizedTensor)}
    size = sum(x.fmt.packed_bytes(x.shape) for x in made.values())
    size += sum(x.numel() * x.element_size() for n, x in stored.items() if n not in made)
    assert size == live_bytes(hierarchy, how)
    assert all(x.fmt == formats[n] for n, x in made.items())
    assert torch.equal(stored["emb.weight"].codes, (tensors["emb.weight"] >= 0).int() * 2 - 1)


def test_the_same_seed_gives_the_same_codes_and_another_seed_others():
    first, again, other = (run(CONFIG, setting(), seed=seed)[0].stored() for seed in (3, 3, 4))
    names = [n for n, x in first.items() if isinstance(x, QuantizedTensor)]
    assert all(torch.equal(first[n].codes, again[n].codes) for n in names)
    assert any(not torch.equal(first[n].codes, other[n].codes) for n in names)


def test_a_view_computes_with_what_the_tuner_stores():
    tensors, hierarchy = model(CONFIG)
    asked = []

    def tuner(how, given, moments, stop):
        asked.append(how)
        return tuned(how, given, moments, CONFIG, hierarchy, text_of("lm"), lambda _: None)

    view = QuantizedView(tensors, hierarchy, tuner=tuner)
    how = setting(steps=5)
    weights, codes = view.apply(how), view.codes(how)
    assert len(asked) == 1  # tuned once
    for name, made in codes.items():
        wanted = made.dequantize() if isinstance(made, QuantizedTensor) else made.float()
        assert torch.equal(weights[name], wanted)
    plain = view.apply(replace(how, tune=0))
    assert not torch.equal(plain["blocks.0.ffn.key.weight"], weights["blocks.0.ffn.key.weight"])
    with pytest.raises(SettingError, match="no calibration text"):
        QuantizedView(tensors, hierarchy).apply(how)


def test_a_stop_ends_it_and_bad_rates_are_refused():
    tensors, hierarchy = model(CONFIG)
    student = Student(tensors, hierarchy, setting(), dict)
    report = tune(
        student, tensors, CONFIG, text_of("lm"), TuneConfig(steps=30, tokens=50, window=25), lambda _: None,
        stop=lambda: True,
    )  # fmt: skip
    assert report.steps == 1
    with pytest.raises(UsageError, match="code_rate 2 is out of range"):
        TuneConfig(code_rate=2)
