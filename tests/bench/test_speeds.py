"""Speeds of small models: rows are consistent, one that fails does not end the others."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from qslm_opt.bench import rates, speeds
from qslm_opt.bench.compiled import CannotCompileError, compiled_ops
from qslm_opt.bench.forward import Forward, Load
from qslm_opt.bench.model_cost import floor_seconds, flop_per_token, kernels
from qslm_opt.bench.rates import GemmRate, Probes, Rates, gemm_seconds, mode_ops
from qslm_opt.bench.scaling import measure_scaling, slope
from qslm_opt.bench.shapes import SHAPES, Subject, random_model, shape_of
from qslm_opt.bench.speeds import OUT_OF_MEMORY, Row, compared, measure_speeds
from qslm_opt.bench.timing import Timing
from qslm_opt.errors import DeviceError, UsageError
from qslm_opt.kernels.ops import REFERENCE, available_precisions
from qslm_opt.models import spikegpt
from qslm_opt.models.spikegpt_config import SpikeGPTConfig

CPU = torch.device("cpu")
CONFIG = SpikeGPTConfig(60, 2, 16, n_labels=2)
RATES = Rates({"fp32": GemmRate("fp32", 1e9, (8, 8, 8), 1e9, 8)}, 1e9)


def nothing() -> None:
    """Wait for nothing."""


@pytest.fixture(autouse=True)
def small_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "COPY_BYTES", {"cpu": 2**16, "cuda": 2**16})


@pytest.fixture
def subject() -> Subject:
    return Subject(random_model(CONFIG), CPU, 8)


def speeds_of(subject: Subject, *loads: Load, versions: tuple[str, ...] = ("reference", "fast")) -> list[Row]:
    return measure_speeds(
        subject, loads, modes=["fp32"], versions=versions, rates=RATES, repeats=2, seconds_limit=5,
        synchronise=nothing, tell=lambda text: None,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["lm", "classification"])
def test_rows_are_positive_and_all_versions_compute_the_same_loss(subject: Subject, kind: str) -> None:
    rows = speeds_of(subject, Load(kind, 2, 12), Load(kind, 3, 12))  # type: ignore[arg-type]
    assert [(r.load.batch, r.version) for r in rows] == [
        (2, "reference"), (2, "fast"), (3, "reference"), (3, "fast")
    ]  # fmt: skip
    for row in rows:
        value = row.to_json()
        assert value["tokens_per_s"] > 0 and value["gemm_share"] > 0 and value["floor_share"] > 0
        assert value["pass"]["low_s"] <= value["pass"]["median_s"] <= value["pass"]["high_s"]
        assert value["note"] == "" and (row.peak_memory_bytes or 1) > 0
    for plain, fast in (rows[:2], rows[2:]):
        assert fast.loss_nats == pytest.approx(plain.loss_nats, rel=0.05)
        assert fast.ratio_to_reference == plain.timing.median_s / fast.timing.median_s
        assert plain.ratio_to_reference == 1.0


def test_ratios_and_shares_by_hand(subject: Subject) -> None:
    load = Load("lm", 4, 25)
    rows = [
        Row(load, "reference", "fp32", Timing(8.0, 8.0, 8.0, 1)),
        Row(load, "compiled", "fp32", Timing(4.0, 4.0, 4.0, 1)),
        Row(load, "fast", "fp32", Timing(2.0, 2.0, 2.0, 1)),
        Row(load, "fast", "fp32", note=OUT_OF_MEMORY),
    ]
    found = compared(rows, subject, RATES)
    assert [row.ratio_to_reference for row in found] == [1.0, 2.0, 4.0, None]
    assert [row.ratio_to_compiled for row in found] == [0.5, 1.0, 2.0, None]
    fast = found[2]
    assert fast.tokens_per_s == 50 and fast.sentences_per_s == 2
    assert fast.gemm_share == pytest.approx(50 / (1e9 / flop_per_token(CONFIG, "lm")))
    floor = floor_seconds(kernels(CONFIG, "lm", "fp32"), 100, 1e9, 1e9)
    assert fast.floor_share == pytest.approx(50 / (100 / floor))


def test_a_row_that_runs_out_of_memory_says_so_and_the_rest_goes_on(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Forward.__call__

    def short(self: Forward, blocks: int | None = None) -> float:
        if self.load.batch == 3 and self.ops is REFERENCE:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return real(self, blocks)

    monkeypatch.setattr(Forward, "__call__", short)
    rows = speeds_of(subject, Load("lm", 3, 8), Load("lm", 2, 8))
    assert [row.note for row in rows] == [OUT_OF_MEMORY, "", "", ""]
    assert rows[0].to_json()["tokens_per_s"] is None
    assert rows[1].ratio_to_reference is None and rows[1].tokens_per_s


def test_what_is_compiled_computes_what_the_truth_does(subject: Subject) -> None:
    """Also with sentences that are padded; the compiler is left out here."""
    ops = compiled_ops(CONFIG, 3, 12, CPU, compiler=lambda function, dynamic: function)
    for kind in ("lm", "classification"):
        load = Load(kind, 3, 12)  # type: ignore[arg-type]
        assert Forward(subject, load, ops)() == pytest.approx(Forward(subject, load, REFERENCE)(), rel=1e-6)
    p, ids = subject.model.tensors, torch.arange(36).reshape(3, 12)
    lengths = torch.tensor([12, 5, 1])
    ours, truth = (spikegpt.forward(p, CONFIG, ids, o, lengths=lengths) for o in (ops, REFERENCE))
    assert torch.equal(ours[2], truth[2])


def test_a_compiler_that_fails_is_a_note(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(function: object, dynamic: bool) -> object:
        def call(*args: object) -> object:
            raise RuntimeError("Failed to find C compiler.\nPlease specify via CC")

        return call

    monkeypatch.setattr(
        speeds, "compiled_ops", lambda *args: compiled_ops(*args, compiler=broken)
    )
    rows = speeds_of(subject, Load("lm", 2, 4), versions=("reference", "compiled", "fast"))
    assert [row.version for row in rows if row.timing] == ["reference", "fast"]
    assert "Failed to find C compiler" in rows[1].note and "\n" not in rows[1].note
    assert rows[2].ratio_to_compiled is None


def test_compiling_ends_when_it_takes_too_long() -> None:
    with pytest.raises(CannotCompileError, match="more than 0 s"):
        compiled_ops(CONFIG, 2, 4, CPU, compiler=lambda function, dynamic: function, seconds_limit=0)


def test_scaling_has_a_point_for_each_part_and_positive_figures(subject: Subject) -> None:
    found = measure_scaling(
        subject, Load("lm", 2, 16), mode_ops("cpu", "fp32"), repeats=1, seconds_limit=5, synchronise=nothing
    )
    assert [(p.blocks, p.window) for p in found.points] == [(1, 16), (2, 4), (2, 8), (2, 16)]
    assert all(p["evaluation"]["median_s"] > 0 for p in found.to_json()["points"])


def test_slope() -> None:
    assert slope([(1, 5.0), (2, 7.0), (4, 11.0)]) == pytest.approx(2.0)
    assert slope([(1, 5.0)]) is None


def test_rates_of_a_product_and_modes_of_this_device() -> None:
    assert gemm_seconds(mode_ops("cpu", "fp32"), CPU, 8, 4, 6, nothing) > 0
    assert list(available_precisions("cpu")) == ["fp32"]
    with pytest.raises(DeviceError, match="'split' needs a CUDA device"):
        mode_ops("cpu", "split")


def test_probes_give_the_rates_of_their_times() -> None:
    probes = Probes(RATES, CPU, ["fp32", "fp32"])
    assert sorted(probes.calls) == ["copy", "fp32"]
    found = probes.rates({"copy": 0.5, "fp32": 0.25})
    assert found.gemm["fp32"].flop_per_s == 2 * 8**3 / 0.25
    assert found.copy_bytes_per_s == 2 * 2**16 / 0.5


def test_shapes_are_seeded_and_neurons_fire_and_stay_silent(subject: Subject) -> None:
    again = random_model(CONFIG).tensors
    assert all(torch.equal(again[name], tensor) for name, tensor in subject.model.tensors.items())
    ids = torch.randint(60, (2, 20))
    spikes = spikegpt.forward(subject.model.tensors, CONFIG, ids, REFERENCE)[2].sum() / (2 * 20 * 2 * 2 * 16)
    assert 0.02 < spikes < 0.98
    assert SHAPES["216m"].n_embd == 768 and SHAPES["14m"].vocab_size == 8192
    with pytest.raises(UsageError, match=r"'14' is unknown; use 14m, 216m"):
        shape_of("14")


def test_weights_are_those_of_a_setting_and_shared_by_versions(subject: Subject) -> None:
    fast = subject.weights("lm", mode_ops("cpu", "fp32"))
    assert fast is subject.weights("lm", REFERENCE)
    assert not torch.equal(fast["head.weight"], subject.model.tensors["head.weight"])
    whole = replace(subject, bits=32, _weights={}).weights("lm", REFERENCE)
    assert torch.equal(whole["head.weight"], subject.model.tensors["head.weight"])
