"""The engine on small random models: nothing it reuses or skips changes a number or a decision."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from qslm_opt.data.taskdata import build  # noqa: E402
from qslm_opt.errors import DeviceError, NumericsError, UsageError  # noqa: E402
from qslm_opt.evaluate.batches import make_batches  # noqa: E402
from qslm_opt.evaluate.bounds import MetricBound  # noqa: E402
from qslm_opt.evaluate.confidence import ConfidentBound  # noqa: E402
from qslm_opt.evaluate.device import pick_device  # noqa: E402
from qslm_opt.evaluate.engine import Engine  # noqa: E402
from qslm_opt.formats import FP32, SIGN, Format  # noqa: E402
from qslm_opt.hierarchy.discover import discover  # noqa: E402
from qslm_opt.models.loading import LoadedModel  # noqa: E402
from qslm_opt.models.spikegpt_config import SpikeGPTConfig  # noqa: E402
from qslm_opt.setting import UNQUANTIZED, QuantSetting  # noqa: E402

CONFIG = SpikeGPTConfig(60, 4, 32, n_labels=2)


def random_model(config: SpikeGPTConfig = CONFIG, seed: int = 0) -> LoadedModel:
    """Return a model at whose weights neurons both fire and stay silent."""
    g = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in config.tensor_shapes().items():
        noise = torch.randn(shape, generator=g)
        if ".ln" in name or name.startswith("ln"):
            noise = noise * 0.1 + (1.0 if name.endswith("weight") else 0.0)
        elif "time_mix" in name:
            noise = noise.sigmoid()
        elif len(shape) == 2:
            noise = noise * 2.0 / shape[1] ** 0.5
        tensors[name] = noise
    return LoadedModel(config, tensors, "random", "0" * 64, None)


def lm_data(windows: int = 9, length: int = 20):
    """Return random windows, the last one shorter."""
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 60, length + 1) for _ in range(windows)] + [rng.integers(0, 60, 8)]
    return build("wikitext2", "test", rows, source="random", window=length)


def class_data(n: int = 40):
    """Return random sentences of 1 to 15 tokens."""
    rng = np.random.default_rng(1)
    rows = [rng.integers(0, 60, rng.integers(1, 16)) for _ in range(n)]
    labels = rng.integers(0, 2, n)
    return build("sst2", "validation", rows, source="random", labels=labels, label_names=("0", "1"))


def engine(data, **options) -> Engine:
    """Return an engine in several batches on the CPU."""
    model = random_model()
    shapes = {k: tuple(v.shape) for k, v in model.tensors.items()}
    options = {"device": "cpu", "batch": 4, **options}
    return Engine(model, discover(CONFIG, shapes, data.kind), data, **options)


def numbers(run) -> tuple:
    """Return what must not depend on caches, batches kept or the clock."""
    return run.value, run.nll_sum, run.correct, run.used, run.firing_rate, run.live_bytes


def some_settings(count: int, hierarchy) -> list[QuantSetting]:
    """Return a random walk through settings as a search makes it."""
    rng = random.Random(5)
    units = [b.unit for b in hierarchy.blocks] + [m.unit for m in hierarchy.modules() if m.searched]
    setting = QuantSetting({"network": Format.parse("int8/channel/affine")})
    walk = [setting]
    for _ in range(count):
        fmt = Format.parse(f"int{rng.choice([2, 3, 4, 6])}/channel/affine")
        trial = setting.with_unit(rng.choice(units), fmt)
        walk.append(trial)
        if rng.random() < 0.5:
            setting = trial
    return walk


@pytest.mark.parametrize("data", [lm_data(), class_data()], ids=["lm", "classification"])
@pytest.mark.parametrize("budget", [10**9, 40_000])
def test_prefix_reuse_changes_no_bit(data, budget: int) -> None:
    """A walk of settings gives the same numbers with the cache off, roomy and tight."""
    plain, cached = engine(data, prefix_bytes=0), engine(data, prefix_bytes=budget)
    parent = UNQUANTIZED
    for setting in some_settings(25, plain.hierarchy):
        expected = plain.evaluate(setting, parent=parent)
        assert numbers(cached.evaluate(setting, parent=parent)) == numbers(expected)
        parent = setting


def test_prefix_reuse_starts_at_the_changed_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial that changes only the last block runs only that block."""
    from qslm_opt.models import spikegpt as module

    ran: list[int] = []
    real = module.run_block

    def spy(p, cfg, i, *args):
        ran.append(i)
        return real(p, cfg, i, *args)

    e = engine(lm_data(), batch=16)
    e.evaluate(UNQUANTIZED, parent=UNQUANTIZED)
    monkeypatch.setattr(module, "run_block", spy)
    e.evaluate(UNQUANTIZED.with_unit("attention.3", Format.parse("int4/channel/affine")), parent=UNQUANTIZED)
    assert ran == [3, 3]  # two batches: the full windows and the short one
    ran.clear()
    e.evaluate(UNQUANTIZED.with_unit("output/head", Format.parse("int4/channel/affine")), parent=UNQUANTIZED)
    assert ran == []


def test_a_setting_that_changes_nothing_is_the_baseline_bit_for_bit() -> None:
    """fp32 everywhere, and the sign format for an embedding of which only the sign matters."""
    data = lm_data()
    baseline = engine(data).evaluate(UNQUANTIZED)
    lossless = engine(data).evaluate(UNQUANTIZED.with_unit("input/emb", SIGN))
    assert numbers(lossless)[:5] == numbers(baseline)[:5]
    assert lossless.live_bytes == baseline.live_bytes - 60 * 32 * 4 + 60 * 32 // 8
    assert baseline.saving == 0


@pytest.mark.parametrize("data", [lm_data(), class_data()], ids=["lm", "classification"])
def test_stopping_at_a_certain_violation_never_changes_the_decision(data) -> None:
    """Whatever the bound, the stopped run and the full run agree on feasible or not."""
    stopped_once = False
    for setting in some_settings(12, engine(data).hierarchy):
        full = engine(data).evaluate(setting)
        assert full.value is not None
        limits = [full.value * share for share in (0.5, 0.999, 1.0, 1.01)]
        if full.correct is not None:
            limits = [full.correct + more for more in (-3, 0, 1, 9)]
        for limit in limits:
            bound = MetricBound(full.metric, data.n, limit)
            report = lambda progress, bound=bound: bound.certain(progress.best_case)  # noqa: E731
            early = engine(data).evaluate(setting, bound=bound, report=report)
            feasible = bound.slack(full.value) <= 0
            if early.stopped:
                assert not feasible
                assert early.used < data.n
                stopped_once = True
            else:
                assert numbers(early) == numbers(full)
    assert stopped_once


@pytest.mark.parametrize("data", [lm_data(), class_data(120)], ids=["lm", "classification"])
def test_items_are_those_of_the_data_however_it_is_cut(data) -> None:
    """Batch size, reordering and what is kept do not move an outcome to another sentence or window."""
    one, many = engine(data, batch=1, reorder=False), engine(data, batch=16)
    for setting in some_settings(3, one.hierarchy):
        alone = one.evaluate(setting, items=True)
        together = many.evaluate(setting, parent=UNQUANTIZED, items=True)
        assert alone.items is not None and together.items is not None
        np.testing.assert_allclose(together.items.losses, alone.items.losses, rtol=1e-4, atol=1e-5)
        assert float(alone.items.losses.sum()) == pytest.approx(alone.nll_sum, rel=1e-5)
        if alone.correct is not None:
            assert together.items.right.sum() == together.correct
            assert (together.items.right == alone.items.right).mean() > 0.98  # a loss may be a tie
        else:
            assert together.items.tokens.tolist() == [len(ids) - 1 for ids in data.sequences]


@pytest.mark.parametrize("data", [lm_data(30), class_data(120)], ids=["lm", "classification"])
def test_stopping_with_a_confidence_never_changes_the_decision(data) -> None:
    """The run that stops early and the full run agree on whether the confidence limit meets the bound."""
    stopped = 0
    base = engine(data).evaluate(UNQUANTIZED, parent=UNQUANTIZED, items=True)
    assert base.items is not None
    for setting in some_settings(8, engine(data).hierarchy):
        full = engine(data).evaluate(setting, items=True)
        for share in (0.8, 0.97, 1.03, 1.3):
            limit = base.correct * share if base.correct is not None else base.value * share
            bound = ConfidentBound(base.metric, data.n, limit, 0.9, baseline=base.items, absolute=False)
            violated = bound.slack(bound.judged(full.value, full.items)) > 0
            run = engine(data).evaluate(
                setting, parent=UNQUANTIZED, bound=bound, items=True,
                report=lambda p, bound=bound: bound.certain(p.best_case),
            )  # fmt: skip
            stopped += run.stopped
            if run.stopped:
                assert violated
            else:
                assert (bound.slack(bound.judged(run.value, run.items)) > 0) == violated
    assert stopped


def test_batches_hold_every_sequence_once_and_pad_little() -> None:
    """Sentences are sorted by length; windows keep their order; nothing is lost."""
    data, cpu = class_data(), torch.device("cpu")
    batches = make_batches(data, 32, None, cpu)
    seen = sorted(tuple(row[:n].tolist()) for b in batches for row, n in zip(b.ids, b.lengths, strict=True))
    assert seen == sorted(tuple(s.tolist()) for s in data.sequences)
    assert all(b.ids.numel() <= 32 or b.ids.shape[0] == 1 for b in batches)
    windows = make_batches(lm_data(), 60, None, cpu)
    assert sum(b.n for b in windows) == lm_data().n
    assert torch.equal(windows[0].ids[1:, 0], torch.tensor([s[0] for s in lm_data().sequences[1:3]]))


def test_nan_weights_become_an_error_not_a_number() -> None:
    """A model whose logits are NaN has no perplexity."""
    e = engine(lm_data())
    e._view = engine_with_nan()._view
    with pytest.raises(NumericsError, match="NaN or infinity"):
        e.evaluate(UNQUANTIZED)


def engine_with_nan() -> Engine:
    """Return an engine whose head holds NaN."""
    model = random_model()
    tensors = {**model.tensors, "head.weight": torch.full((60, 32), float("nan"))}
    data = lm_data()
    shapes = {k: tuple(v.shape) for k, v in tensors.items()}
    return Engine(replace(model, tensors=tensors), discover(CONFIG, shapes, "lm"), data, device="cpu")


def test_float64_runs_the_plain_operations() -> None:
    """The golden precision never takes a float32 kernel, and agrees with float32 closely."""
    data = lm_data()
    golden = engine(data, dtype=torch.float64).evaluate(UNQUANTIZED)
    assert (golden.dtype, golden.kernel) == ("fp64", "reference")
    assert engine(data).evaluate(UNQUANTIZED).value == pytest.approx(golden.value, rel=1e-3)


def test_a_missing_device_is_said() -> None:
    """No CUDA device, or a device that does not exist, is an error with exit code 5."""
    with pytest.raises(UsageError, match="unknown"):
        pick_device("gpu0")
    with pytest.raises(DeviceError, match="is not there"):
        pick_device("cuda:97")


def test_currents_beyond_the_largest_number_are_said_and_not_taken_for_silence() -> None:
    """Their neurons fire nothing more, and the logits stay finite."""
    model, data = random_model(), class_data()
    model.tensors["blocks.1.ffn.key.weight"] *= 1e25
    shapes = {k: tuple(v.shape) for k, v in model.tensors.items()}
    hot = Engine(model, discover(CONFIG, shapes, data.kind), data, device="cpu")
    with pytest.raises(NumericsError, match="the model's currents hold NaN or infinity"):
        hot.evaluate(UNQUANTIZED)


# --------------------------------------------------------------------------------------------- measuring


def test_a_fresh_evaluation_uses_nothing_that_is_kept_and_gives_the_same_numbers():
    made = engine(lm_data())
    setting = QuantSetting({"network": FP32, "attention.3": Format.parse("int4/channel/affine")}, fixed=FP32)
    made.evaluate(UNQUANTIZED, parent=UNQUANTIZED)
    assert not made.reused
    kept = made.evaluate(setting, parent=UNQUANTIZED)
    assert made.reused
    fresh = made.evaluate(setting, fresh=True)
    assert not made.reused
    assert numbers(fresh) == numbers(kept)
    made.evaluate(setting, parent=UNQUANTIZED)
    assert made.reused  # and what is kept is still there


@pytest.mark.parametrize("data", [lm_data(), class_data()], ids=["lm", "classification"])
def test_a_share_of_the_data_is_that_data_alone_and_leaves_the_whole_as_it_was(data) -> None:
    """Every third sequence gives the numbers of an engine on those; whole evaluations in between stay."""
    e, alone = engine(data), engine(data.every(3))
    whole = [numbers(engine(data).evaluate(s, parent=UNQUANTIZED)) for s in some_settings(4, e.hierarchy)]
    for setting, expected in zip(some_settings(4, e.hierarchy), whole, strict=True):
        part = e.evaluate(setting, parent=UNQUANTIZED, every=3)
        assert part.n == part.used == data.every(3).n < data.n
        assert part.loss == pytest.approx(alone.evaluate(setting).loss, rel=1e-6)
        assert part.data_hash == f"{data.data_hash}/3"
        assert numbers(e.evaluate(setting, parent=UNQUANTIZED)) == expected


def test_what_is_forgotten_is_computed_again_with_the_same_numbers() -> None:
    e, setting = engine(lm_data()), QuantSetting({"network": Format.parse("int3/channel/affine")})
    before = numbers(e.evaluate(setting, parent=UNQUANTIZED))
    e.evaluate(setting, parent=setting)
    assert e.reused
    e.forget()
    assert numbers(e.evaluate(setting, parent=UNQUANTIZED)) == before
    assert not e.reused
