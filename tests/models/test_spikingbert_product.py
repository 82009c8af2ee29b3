"""SpikingBERT through the whole product: studies, calibration, tuning, packing, drift, reuse."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from qslm_opt.errors import NumericsError
from qslm_opt.evaluate.calibrate import input_moments
from qslm_opt.evaluate.engine import Engine
from qslm_opt.evaluate.memory import live_bytes
from qslm_opt.formats import FP32, Format
from qslm_opt.hierarchy.discover import discover
from qslm_opt.hierarchy.tree import NETWORK
from qslm_opt.kernels.ops import REFERENCE
from qslm_opt.models.family import Fired, Inputs
from qslm_opt.models.packed import load_packed
from qslm_opt.models.packing import Origin, pack_model
from qslm_opt.pipeline import Session
from qslm_opt.setting import UNQUANTIZED, QuantSetting
from qslm_opt.spec import StudySpec
from qslm_opt.train.surrogate import TRAINING
from tests.models.spikingbert_case import CONFIG, FAMILY, model_of, spec_of, write_checkpoint, write_data


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("spikingbert")
    write_checkpoint(made / "model")
    write_data(made / "data")
    return made


@pytest.fixture(scope="module")
def session(folder) -> Session:
    return Session.open(spec_of(folder, quantizer="gptq", layout="channel/midrise", calibration=16))


def setting(text: str, **keys) -> QuantSetting:
    return QuantSetting({NETWORK: Format.parse(text)}, **keys)


def test_the_tree(session):
    tree = session.hierarchy
    assert [b.unit for b in tree.blocks] == ["input", "attention.0", "attention.1", "output", "aux"]
    searched = [m.unit for m in tree.modules() if m.searched and m.unit.startswith("attention.1")]
    names = ("attn.key", "attn.value", "attn.query", "attn.self_output", "ffn.intermediate", "ffn.output")
    assert searched == [f"attention.1/{name}" for name in names]
    assert not any(m.searched for m in tree.modules() if m.unit.startswith("aux"))
    assert {t.role for t in tree.tensors()} == {"embedding", "matrix", "head", "norm", "bias"}


def test_precisions_by_the_core(session):
    values, sizes = [], []
    for text in ("int4/channel/midrise", "int2/channel/midrise", "int1/channel/midrise"):
        result, _ = session.run(setting(text, quantizer="gptq"))
        values.append(result.nll_sum)
        sizes.append(result.live_bytes)
        assert result.n == 24 and set(result.rates) == set(CONFIG.sites()) and not result.silent
        assert all(0 < rate < 1 for rate in result.rates.values())
    assert len(set(values)) == 3 and sizes == sorted(sizes, reverse=True)


def test_sentences_are_encoded_with_special_tokens_and_cut(session):
    first = session.data.sequences
    assert all(ids[0] == 2 and ids[-1] == 3 for ids in first)
    assert max(map(len, first)) <= CONFIG.longest


def test_reuse_equals_fresh_computation_bit_for_bit(session):
    parent = setting("int4/channel/midrise", quantizer="rtn")
    engine = session.engine
    engine.evaluate(parent, parent=parent)
    for unit in ("attention.1/ffn.intermediate", "output/classification", "attention.0/attn.key"):
        child = parent.with_unit(unit, Format.parse("int2/channel/midrise"))
        found = engine.evaluate(child, parent=parent)
        assert engine.reused is (unit != "attention.0/attn.key")
        fresh = engine.evaluate(child, fresh=True)
        assert (found.nll_sum, found.correct, found.rates) == (fresh.nll_sum, fresh.correct, fresh.rates)


def test_the_stream_is_a_byte_a_spike(session):
    model, ids = session.model, torch.tensor([[2, 9, 8, 3]])
    p, inputs = model.tensors, Inputs(ids, None)
    x = FAMILY.embed(p, model.config, inputs, REFERENCE, Fired(None))
    y = FAMILY.run_block(p, model.config, 0, x, inputs, REFERENCE, Fired(None))
    for stream in (x, y):
        assert stream.dtype == torch.uint8 and stream.shape == (5, 1, 4, 16)
        assert stream.nbytes / 4 <= 4 * CONFIG.stream_width
    assert torch.equal(
        FAMILY.run_block(p, model.config, 1, y, inputs, REFERENCE, Fired(None)),
        FAMILY.run_block(p, model.config, 1, y.float(), inputs, REFERENCE, Fired(None)),
    )


def test_moments_are_of_every_product_and_of_no_padding(session):
    moments = session.engine._input_moments()
    assert moments.keys() == FAMILY.products(CONFIG).keys()
    cut = replace(session.calibration, sequences=session.calibration.sequences[:3])
    together = input_moments(session.model.tensors, CONFIG, cut, torch.device("cpu"))
    total: dict[str, torch.Tensor] = {}
    for i, ids in enumerate(cut.sequences):
        one = replace(cut, sequences=(ids,), labels=cut.labels[i : i + 1])
        alone = input_moments(session.model.tensors, CONFIG, one, torch.device("cpu"))
        for name, moment in alone.items():
            weight = 1 if name.startswith("classification") else len(ids)
            total[name] = total.get(name, 0) + moment * weight
    tokens = sum(map(len, cut.sequences))
    for name, moment in together.items():
        count = 3 if name.startswith("classification") else tokens
        torch.testing.assert_close(moment, total[name] / count, rtol=1e-4, atol=1e-5)


def test_tuning_reaches_every_searched_tensor_and_the_floats():
    model = model_of()
    p = {name: tensor.clone().requires_grad_() for name, tensor in model.tensors.items()}
    ids, lengths = torch.arange(2, 26).reshape(3, 8), torch.tensor([8, 5, 3])
    logits = FAMILY.logits(p, CONFIG, Inputs(ids, lengths), TRAINING, Fired(None))
    torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 0])).backward()
    tree = discover(CONFIG, model.shapes, "classification")
    for tensor in tree.tensors():
        reached = p[tensor.name].grad is not None and bool(p[tensor.name].grad.any())
        assert reached == tensor.live, tensor.name
    with torch.inference_mode():
        plain = FAMILY.logits(model.tensors, CONFIG, Inputs(ids, lengths), REFERENCE, Fired(None))
    torch.testing.assert_close(logits.detach(), plain)


def test_a_tuned_setting_comes_nearer(session):
    texts: list[str] = []
    session._narrate = texts.append
    plain = session.codes(setting("int2/channel/midrise", quantizer="mse"))
    tuned = session.codes(setting("int2/channel/midrise", quantizer="mse", tune=30))
    assert plain.keys() == tuned.keys()
    first, last = (float(x) for x in texts[-1].split("divergence ")[1].split(" nats")[0].split(" → "))
    assert last < first


def packed_spec(session: Session, folder: Path, made: QuantSetting) -> StudySpec:
    """Pack ``made`` and return what opens it."""
    origin = Origin("sst2", "classification", "0/0")
    pack_model(folder, session.model, session.hierarchy, made, session.codes(made), origin)
    return replace(session.spec, model=str(folder), tokenizer=None, timesteps=None, quantizer="rtn",
                   calibration=None)  # fmt: skip


def test_a_packed_model_gives_the_very_number(session, tmp_path):
    made = setting("int3/channel/midrise", quantizer="mse")
    wanted, _ = session.run(made)
    spec = packed_spec(session, tmp_path / "p", made)
    packed = load_packed(tmp_path / "p")
    assert packed.payload_bytes == live_bytes(session.hierarchy, made)
    assert set(packed.weights()) == set(CONFIG.lean("classification").tensor_shapes())
    again = Session.open(spec, packed=True)
    assert again.model.config.timesteps == 5
    found, _ = again.run(again.model.packed.setting)
    assert (found.nll_sum, found.correct, found.rates) == (wanted.nll_sum, wanted.correct, wanted.rates)


@pytest.mark.slow
def test_codes_that_stay_packed_come_close(session, tmp_path):
    made = setting("int3/channel/midrise", quantizer="mse")
    wanted, _ = session.run(made)
    spec = packed_spec(session, tmp_path / "p", made)
    resident = Session.open(spec, packed=True, stay_packed=True)
    close, _ = resident.run(resident.model.packed.setting)
    assert close.nll_sum == pytest.approx(wanted.nll_sum, rel=0.05)
    assert resident.engine.weight_bytes < session.hierarchy.fp32_bytes() / 2


def test_drift_is_none_without_a_change_and_grows_with_fewer_bits(session):
    drifts = [session.drift(UNQUANTIZED)[0]]
    drifts += [session.drift(setting(f"int{bits}/channel/midrise"))[0] for bits in (8, 4, 2)]
    assert drifts[0] == 0 < drifts[1] < drifts[2] < drifts[3]


def test_a_current_that_is_no_number_is_told(session):
    tensors = {**session.model.tensors}
    tensors["network_s11.dense.bias"] = torch.full_like(tensors["network_s11.dense.bias"], float("nan"))
    model = replace(session.model, tensors=tensors)
    engine = Engine(model, session.hierarchy, session.data, device="cpu")
    with pytest.raises(NumericsError, match="NaN or infinity"):
        engine.evaluate(QuantSetting({NETWORK: FP32}, fixed=FP32))


def test_more_time_steps_make_smaller_batches(folder):
    few, many = (Session.open(spec_of(folder, timesteps=steps)) for steps in (1, 400))
    assert few.engine.batches == 1 and many.engine.batches == 24
