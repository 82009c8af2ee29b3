"""Multi-step neurons and ternary spikes: the kernels equal the reference bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from qslm_opt.kernels.cpu import NUMBA  # noqa: E402
from qslm_opt.kernels.fire.reference import (  # noqa: E402
    Neuron,
    bipolar_reference,
    fire_reference,
    ternary_reference,
)
from qslm_opt.kernels.ops import REFERENCE, fast_ops  # noqa: E402
from qslm_opt.kernels.packed.place import packed_ops  # noqa: E402
from tests.kernels.neuron_arms import ARMS, device_of  # noqa: E402

SHAPES = [(1, 1), (4, 3, 5, 7), (8, 2, 1030), (3, 0, 4), (13, 1, 65)]
NEURONS = {
    "lif": Neuron(),
    "lif-10": Neuron(tau=10.0, threshold=0.5),
    "if": Neuron(tau=None, threshold=1.0),
    "if-soft": Neuron(tau=None, soft=True),
    "if-soft-keep": Neuron(tau=None, threshold=1.1, soft=True, keep=0.99),
    "lif-soft-keep": Neuron(tau=1.7, threshold=0.3, soft=True, keep=0.9),
}
NAN = float("nan")


@pytest.fixture(params=ARMS)
def ops(request: pytest.FixtureRequest) -> Any:
    """Return fire, ternary and bipolar of a fast version, CPU tensors in and out."""
    device = device_of(request.param)

    def on(device: torch.device, module: Any) -> Any:
        class Moved:
            @staticmethod
            def fire(current: torch.Tensor, neuron: Neuron) -> tuple[torch.Tensor, torch.Tensor]:
                with np.errstate(all="ignore"):  # the interpreter computes with numpy
                    spikes, v = module.fire(current.to(device), neuron)
                return spikes.cpu(), v.cpu()

            @staticmethod
            def ternary(x: torch.Tensor, a: list[torch.Tensor], leak: float) -> torch.Tensor:
                with np.errstate(all="ignore"):
                    return module.ternary(x.to(device), [one.to(device) for one in a], leak).cpu()

            @staticmethod
            def bipolar(x: torch.Tensor, a: list[torch.Tensor], leak: float) -> torch.Tensor:
                with np.errstate(all="ignore"):
                    return module.bipolar(x.to(device), [one.to(device) for one in a], leak).cpu()

        return Moved

    if request.param == "cpu":
        return on(device, NUMBA)
    from qslm_opt.kernels import cuda

    return on(device, cuda)


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Uninitialised float tensors hold NaN, so leaving one unwritten shows."""
    real = torch.Tensor.new_empty

    def poisoned(self, *args, **kwargs):
        out = real(self, *args, **kwargs)
        return out.fill_(NAN) if out.is_floating_point() else out

    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned)


def draw(seed: int, *shape: int, scale: float = 2.0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def assert_same(found: torch.Tensor, wanted: torch.Tensor) -> None:
    """Equal bit for bit, signs of zeros included; NaN is NaN."""
    assert found.dtype == wanted.dtype and found.shape == wanted.shape
    both = [torch.where(t.isnan(), NAN, t).contiguous().view(torch.int32) for t in (found, wanted)]
    assert torch.equal(*both)


def assert_fires_as_reference(ops: Any, current: torch.Tensor, neuron: Neuron) -> None:
    spikes, v = ops.fire(current, neuron)
    wanted, wanted_v = fire_reference(current, neuron)
    assert_same(spikes, wanted)
    assert_same(v, wanted_v)


def amplitudes_of(steps: int) -> list[torch.Tensor]:
    return [torch.tensor(0.37 + 0.211 * t) for t in range(steps)]


@pytest.mark.parametrize("name", NEURONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_neuron_fires_as_the_reference(ops: Any, shape: tuple[int, ...], name: str) -> None:
    current = draw(1, *shape)
    assert_fires_as_reference(ops, current, NEURONS[name])
    if current.numel() > 100:
        spikes, _ = ops.fire(current, NEURONS[name])
        assert 0.02 < float(spikes.mean()) < 0.98


@pytest.mark.parametrize("soft", [False, True])
def test_every_step_may_have_its_own_threshold(ops: Any, soft: bool) -> None:
    neuron = Neuron(tau=None, threshold=(0.3, 1.7, 0.9, 5.0, 0.1), soft=soft)
    assert_fires_as_reference(ops, draw(2, 5, 4, 130), neuron)
    with pytest.raises(ValueError, match="5 thresholds do not fit 4 steps"):
        ops.fire(draw(2, 4, 130), neuron)


@pytest.mark.parametrize("neuron", [Neuron(tau=2.0), Neuron(tau=None, soft=True)])
def test_a_potential_at_the_threshold_fires(ops: Any, neuron: Neuron) -> None:
    """Also one a rounding below it does not: the last bit decides."""
    tie = 2.0 if neuron.tau else 1.0
    below = float(torch.nextafter(torch.tensor(tie), torch.tensor(0.0)))
    current = torch.tensor([tie, below]).expand(3, 2)
    spikes, _ = ops.fire(current[:1], neuron)
    assert spikes.tolist() == [[1.0, 0.0]]
    assert_fires_as_reference(ops, current, neuron)


def test_strided_currents_are_read_as_they_lie(ops: Any) -> None:
    neuron, base = Neuron(tau=3.0), draw(3, 6, 5, 4, 70)
    for current in (
        base[0].expand(4, 5, 4, 70), base[::2], base[1:4], base.transpose(1, 2), base[..., ::3],
        base.transpose(0, 1), base.flatten(1)[:, 5:],
    ):  # fmt: skip
        before = current.clone()
        assert_fires_as_reference(ops, current, neuron)
        a = amplitudes_of(len(current))
        assert_same(ops.ternary(current, a, 0.25), ternary_reference(current, a, 0.25))
        assert_same(ops.bipolar(current, a, 0.25), bipolar_reference(current, a, 0.25))
        assert torch.equal(current, before)


@pytest.mark.parametrize("neuron", NEURONS.values(), ids=NEURONS)
@pytest.mark.parametrize("bad", [NAN, float("inf"), float("-inf")])
def test_a_current_that_is_no_number_shows_in_its_potential_alone(
    ops: Any, neuron: Neuron, bad: float
) -> None:
    current = draw(4, 4, 3, 50)
    current[1, 2, 7] = bad
    _, v = ops.fire(current, neuron)
    assert not bool(torch.isfinite(v[2, 7]))
    assert int(torch.isfinite(v).sum()) == v.numel() - 1
    assert_fires_as_reference(ops, current, neuron)


@pytest.mark.parametrize("leak", [0.0, 0.25, 0.3])
@pytest.mark.parametrize("shape", SHAPES)
def test_ternary_spikes_are_those_of_the_reference(ops: Any, shape: tuple[int, ...], leak: float) -> None:
    x, a = draw(5, *shape, scale=0.9), amplitudes_of(shape[0])
    found = ops.ternary(x, a, leak)
    assert_same(found, ternary_reference(x, a, leak))
    if x.numel() > 100:
        assert {int(one) for one in (found / a[0]).sign().unique()} == {-1, 0, 1}


def test_ternary_halves_are_rounded_to_even(ops: Any) -> None:
    x = torch.tensor([[-1.5, -0.5, -0.0, 0.5, 1.5, NAN, float("inf"), 0.50000006]])
    found = ops.ternary(x, [torch.tensor(1.0)], 0.25)
    assert_same(found, ternary_reference(x, [torch.tensor(1.0)], 0.25))
    assert found[0, :5].tolist() == [-1, 0, 0, 0, 1]
    assert found[0, 7] == 1


@pytest.mark.parametrize("leak", [0.0, 0.25, 0.3])
@pytest.mark.parametrize("shape", SHAPES)
def test_bipolar_spikes_are_those_of_the_reference(ops: Any, shape: tuple[int, ...], leak: float) -> None:
    x, a = draw(5, *shape, scale=0.9), amplitudes_of(shape[0])
    x[..., ::7] = 0
    found = ops.bipolar(x, a, leak)
    assert_same(found, bipolar_reference(x, a, leak))
    if x.numel() > 100:
        assert {int(one) for one in (found / a[0]).sign().unique()} == {-1, 0, 1}


def test_bipolar_spikes_of_the_written_equations_worked_by_hand(ops: Any) -> None:
    """``m_t = m_{t−1}·(a_{t−1} − o_{t−1})/4 + x_t``, ``o_t = a_t·sign(m_t)`` for a = 1, 2, 4.

    Up, down, down: m = 0.5; then 0.5·(1 − 1)/4 − 3 = −3; then −3·(2 + 2)/4 + 0 = −3.
    Down, silent, up: m = −0.5; then −0.5·(1 + 1)/4 + 0.25 = 0; then 0·(2 − 0)/4 + 1 = 1.
    Down, down, up: m = −1; then −1·(1 + 1)/4 + 0.25 = −0.25; then −0.25·(2 + 2)/4 + 0.5 = 0.25 with 0.5.
    """
    x = torch.tensor([[0.5, -0.5, -1.0], [-3.0, 0.25, 0.25], [0.0, 1.0, 0.5]])
    a = [torch.tensor(one) for one in (1.0, 2.0, 4.0)]
    wanted = torch.tensor([[1.0, -1.0, -1.0], [-2.0, 0.0, -2.0], [-4.0, 4.0, 4.0]])
    assert_same(ops.bipolar(x, a, 0.25), wanted)
    assert_same(ops.bipolar(x.double(), a, 0.25), wanted.double())
    alone = torch.tensor([[1.0, -1.0, -1.0], [-2.0, 2.0, 2.0], [0.0, 4.0, 4.0]])
    assert_same(ops.bipolar(x, a, 0.0), alone)


def test_bipolar_spikes_at_the_edges_of_the_numbers(ops: Any) -> None:
    x = torch.tensor([[-0.0, 0.0, NAN, float("inf"), float("-inf"), 1e-45, -1e-45, 3e38]]).repeat(3, 1)
    for a in (0.5, 1.0, 3.0):  # 1e-45 / 3 is 0
        steps = [torch.tensor(a)] * 3
        found = ops.bipolar(x, steps, 0.25)
        assert_same(found, bipolar_reference(x, steps, 0.25))
        assert found[0, :2].tolist() == [0, 0] and found[0, 3:5].tolist() == [a, -a]
        assert bool(found[:, 2].isnan().all())
        assert bool(found[1, 3].isnan()) and found[1, 4] == -a  # ∞·(a − a); −∞·(a + a)


def test_an_amplitude_is_needed_for_each_step(ops: Any) -> None:
    with pytest.raises(ValueError, match="2 amplitudes do not fit 3 steps"):
        ops.ternary(draw(0, 3, 4), amplitudes_of(2), 0.25)


def test_other_dtypes_are_computed_by_the_reference(ops: Any) -> None:
    current, a = draw(6, 4, 33).double(), [one.double() for one in amplitudes_of(4)]
    for found, wanted in zip(ops.fire(current, Neuron()), fire_reference(current, Neuron()), strict=True):
        assert found.dtype == torch.float64 and torch.equal(found, wanted)
    assert torch.equal(ops.ternary(current, a, 0.25), ternary_reference(current, a, 0.25))
    assert torch.equal(ops.bipolar(current, a, 0.25), bipolar_reference(current, a, 0.25))


def test_packed_weights_fire_through_the_same_kernels() -> None:
    packed = packed_ops("cpu", "fp32")
    assert packed.fire is NUMBA.fire is not None and packed.ternary is NUMBA.ternary
    assert packed.bipolar is NUMBA.bipolar is not REFERENCE.bipolar


@pytest.mark.parametrize("arm", ARMS)
def test_steps_may_lie_further_apart_than_32_bits_count(arm: str, tmp_path: Path) -> None:
    """Steps 2^30 numbers apart, of which only the first few are there: a file with holes, or memory."""
    device, apart = device_of(arm), 2**30
    if arm == "triton" and device.type == "cpu":
        pytest.skip("the interpreter copies whole storages")
    numbers = 3 * apart + 64
    if device.type == "cpu":
        with (tmp_path / "holes").open("wb") as file:
            file.truncate(4 * numbers)
        whole = torch.from_file(str(tmp_path / "holes"), shared=True, size=numbers)
    elif torch.cuda.mem_get_info(device)[0] < 5 * numbers:
        pytest.skip("the device has too little memory free")
    else:
        whole = torch.empty(numbers, device=device)
    current, known, a = whole.as_strided((4, 64), (apart, 1)), draw(11, 4, 64), amplitudes_of(4)
    current.copy_(known)
    ops = fast_ops(device.type)
    assert_same(ops.fire(current, Neuron())[0].cpu(), fire_reference(known, Neuron())[0])
    on_device = [one.to(device) for one in a]
    assert_same(ops.ternary(current, on_device, 0.25).cpu(), ternary_reference(known, a, 0.25))
    assert_same(ops.bipolar(current, on_device, 0.25).cpu(), bipolar_reference(known, a, 0.25))


def test_more_sequences_than_a_grid_has_rows_are_scanned() -> None:
    """A grid has at most 65,535 of everything but its first axis."""
    device = device_of("triton")
    if device.type == "cpu":
        pytest.skip("the interpreter knows no such bound")
    from qslm_opt.kernels.fire import cuda

    current = draw(12, 70_000, 2, 1)
    spikes, _, _ = cuda.fire(current.to(device), Neuron(), windows=True)
    wanted, _ = fire_reference(current.transpose(0, 1), Neuron())
    assert_same(spikes.cpu(), wanted.transpose(0, 1))
