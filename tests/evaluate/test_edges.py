"""Numbers at the edge: blocks that never fire, nothing to evaluate, tensors without a range, repetition."""

from __future__ import annotations

from dataclasses import replace
from math import isfinite

import pytest

torch = pytest.importorskip("torch")

from qslm_opt.errors import DataError, NumericsError, QslmError, SettingError  # noqa: E402
from qslm_opt.evaluate.engine import Engine  # noqa: E402
from qslm_opt.formats import Format, Layout  # noqa: E402
from qslm_opt.hierarchy.discover import discover  # noqa: E402
from qslm_opt.quant.base import get_quantizer, quantize_dequantize, quantizer_names  # noqa: E402
from qslm_opt.results import Baseline, Evaluation  # noqa: E402
from qslm_opt.setting import UNQUANTIZED, QuantSetting  # noqa: E402
from tests.evaluate.test_engine import CONFIG, class_data, engine, lm_data, random_model  # noqa: E402

# -- silence ---------------------------------------------------------------------------------------


def silenced(blocks: tuple[int, ...], data):
    """An engine on a model whose named blocks get no current: no neuron of theirs can fire."""
    model = random_model()
    tensors = dict(model.tensors)
    for i in blocks:
        for name in (f"blocks.{i}.att.output.weight", f"blocks.{i}.ffn.value.weight"):
            tensors[name] = torch.zeros_like(tensors[name])
    model = replace(model, tensors=tensors)
    shapes = {k: tuple(v.shape) for k, v in tensors.items()}
    return Engine(model, discover(CONFIG, shapes, data.kind), data, device="cpu", batch=4)


@pytest.mark.parametrize("data", [lm_data(), class_data()], ids=["lm", "classification"])
def test_a_block_that_never_fires_is_measured_as_it_is_and_named(data) -> None:
    run = silenced((1, 3), data).evaluate(UNQUANTIZED)
    assert run.silent == ("attention.1", "attention.3")
    assert run.value is not None
    assert isfinite(run.value)
    assert 0 < run.firing_rate < 1
    assert engine(data).evaluate(UNQUANTIZED).silent == ()
    assert Evaluation.from_json(run.to_json()) == run


def test_a_network_that_never_fires_has_a_firing_rate_of_zero_and_a_metric() -> None:
    run = silenced((0, 1, 2, 3), lm_data()).evaluate(UNQUANTIZED)
    assert run.firing_rate == 0.0
    assert run.silent == tuple(f"attention.{i}" for i in range(4))
    assert run.value is not None
    assert isfinite(run.value)
    assert Baseline.of(run).value == run.value


def test_blocks_in_front_of_a_reused_boundary_are_counted_too() -> None:
    """A trial that starts at block 3 knows from the boundary that block 1 was silent."""
    made = silenced((1,), lm_data())
    parent = QuantSetting({"network": Format.parse("int8/channel/affine")})
    child = parent.with_unit("attention.3", Format.parse("int4/channel/affine"))
    made.evaluate(parent, parent=parent)
    reused = made.evaluate(child, parent=parent)
    alone = silenced((1,), lm_data()).evaluate(child)
    assert reused.silent == alone.silent == ("attention.1",)
    assert reused.firing_rate == alone.firing_rate


# -- repetition ------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [lm_data(), class_data()], ids=["lm", "classification"])
def test_a_probe_is_the_same_in_every_process_and_state(data) -> None:
    made = engine(data)
    first = made.probe()
    assert made.probe() == first
    setting = QuantSetting({"network": Format.parse("int4/channel/affine")})
    before = made.evaluate(setting, parent=setting)
    assert made.probe() == first
    assert replace(made.evaluate(setting, parent=setting), seconds=0) == replace(before, seconds=0)
    assert engine(data, batch=None).probe() == first
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert engine(data).probe() == first
    finally:
        torch.set_num_threads(threads)


def test_a_probe_sees_one_bit_of_one_weight() -> None:
    made = engine(lm_data())
    model = random_model()
    tensors = dict(model.tensors)
    changed = tensors["blocks.0.att.key.weight"].clone()
    changed.view(torch.int32)[0, 0] ^= 1 << 20
    tensors["blocks.0.att.key.weight"] = changed
    shapes = {k: tuple(v.shape) for k, v in tensors.items()}
    data = lm_data()
    other = Engine(replace(model, tensors=tensors), discover(CONFIG, shapes, data.kind), data, device="cpu")
    assert other.probe() != made.probe()


# -- nothing to evaluate ---------------------------------------------------------------------------


def test_a_task_without_sequences_is_refused() -> None:
    for data in (lm_data(), class_data()):
        empty = replace(data, sequences=(), labels=None if data.labels is None else data.labels[:0])
        with pytest.raises(DataError, match=r"task \w+ has nothing to evaluate; .* --limit"):
            engine(empty)


# -- tensors without a range -----------------------------------------------------------------------

SHAPE = (6, 32)
TENSORS = {
    "zero": torch.zeros(SHAPE),
    "negative-zero": -torch.zeros(SHAPE),
    "constant": torch.full(SHAPE, 0.37),
    "negative-constant": torch.full(SHAPE, -2.5),
    "subnormal": torch.full(SHAPE, 1e-40),
    "least": torch.full(SHAPE, 1.4e-45),
    "one-in-zeros": torch.zeros(SHAPE).index_put((torch.tensor(2), torch.tensor(3)), torch.tensor(1.0)),
    "huge": torch.tensor([3e37, -3e37]).repeat(6, 16),
    "largest": torch.tensor([3.4e38, -3.4e38]).repeat(6, 16),
    "wide": torch.tensor([1e-30, 1e4]).repeat(6, 16),
    "nan": torch.full(SHAPE, float("nan")),
    "infinite": torch.full(SHAPE, float("-inf")),
}
REFUSED = {"nan", "infinite", "largest"}
LAYOUTS = (
    "tensor/affine", "tensor/symmetric", "channel/affine", "channel/symmetric", "group16/affine",
    "channel/offset", "channel/midrise",
)  # fmt: skip


@pytest.mark.parametrize("name", quantizer_names())
@pytest.mark.parametrize("what", TENSORS)
def test_a_tensor_without_a_range_stays_finite_or_is_refused_by_name(name: str, what: str) -> None:
    weight, tried = TENSORS[what], 0
    for layout in LAYOUTS:
        for bits in (1, 1.58, 2, 3, 4, 8, 16):
            try:
                fmt = Layout.parse(layout).with_bits(bits)
                get_quantizer(name).check(fmt)
            except SettingError:
                continue
            tried += 1
            before = weight.clone()
            try:
                found = quantize_dequantize(weight, fmt, name)
            except NumericsError as refusal:
                said = str(refusal)
            else:
                said = ""
            assert bool(said) == (what in REFUSED) or (what == "huge" and "float16" in said)
            if said:
                continue
            assert torch.equal(weight, before)
            assert bool(found.isfinite().all())
            if what in ("zero", "negative-zero"):
                has_zero = fmt.layout.symmetry != "midrise"
                least = 0.0 if has_zero else 2.0**-24
                assert float(found.abs().max()) <= least
            if what in ("constant", "negative-constant") and "affine" in layout and bits >= 2:
                assert torch.allclose(found, weight, rtol=2**-10)
    assert tried


@pytest.mark.parametrize("fmt", ["fp16", "fp32", "sign"])
def test_the_other_formats_have_a_verdict_for_each_of_them(fmt: str) -> None:
    for what, weight in TENSORS.items():
        try:
            found = quantize_dequantize(weight, Format.parse(fmt))
        except QslmError:
            found = None
        if found is None:
            assert what in REFUSED | {"huge"}
        else:
            assert fmt == "fp32" or bool(found.isfinite().all()), what
