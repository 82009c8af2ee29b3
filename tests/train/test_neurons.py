"""Spikes and gradients of the training kernels against the reference under torch's autograd."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from qslm_opt.kernels.fire.reference import (
    Neuron,
    bipolar_reference,
    fire_reference,
    ternary_reference,
)
from qslm_opt.kernels.lif.reference import lif_reference
from qslm_opt.train import neurons
from qslm_opt.train.neurons import atan_spike, straight_round, straight_sign
from qslm_opt.train.surrogate import TRAINING
from tests.kernels.neuron_arms import ARMS, device_of

SHAPES = [(1, 1), (4, 2, 3, 5), (9, 1100), (3, 0, 2)]
NEURONS = {
    "lif": Neuron(),
    "lif-3": Neuron(tau=3.0, threshold=0.6),
    "if": Neuron(tau=None),
    "if-soft-keep": Neuron(tau=None, soft=True, keep=0.9),
    "lif-soft": Neuron(tau=1.5, threshold=0.4, soft=True),
}


@pytest.fixture(params=ARMS)
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """Return the device of an arm; Triton's interpreter takes tensors of the CPU."""
    found = device_of(request.param)
    if request.param == "triton" and found.type == "cpu":
        from qslm_opt.kernels.fire import cuda, gradient_cuda

        monkeypatch.setattr(neurons, "_forward", lambda x: cuda)
        monkeypatch.setattr(neurons, "_backward", lambda x: gradient_cuda)
    return found


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gradients(loss: Tensor, inputs: Sequence[Tensor]) -> list[Tensor]:
    found = torch.autograd.grad(loss, list(inputs), materialize_grads=True)
    return [one.detach().cpu() for one in found]


def assert_close(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> None:
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("name", NEURONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_fire_has_the_spikes_and_gradients_of_the_reference(
    shape: tuple[int, ...], name: str, device: torch.device
) -> None:
    base, weights = normal(1, *shape) * 2, (normal(2, *shape), normal(3, *shape[1:]))
    current, other = base.clone().requires_grad_(), base.to(device).requires_grad_()
    wanted = fire_reference(current, NEURONS[name], atan_spike)
    found = TRAINING.fire(other, NEURONS[name])
    for one, true in zip(found, wanted, strict=True):
        assert one.requires_grad and torch.equal(one.detach().cpu(), true.detach())
    for part in ((0,), (1,), (0, 1)):
        losses = [
            sum((pair[i] * weights[i].to(pair[i].device)).sum() for i in part) for pair in (found, wanted)
        ]
        one, true = torch.autograd.grad(losses[0], other, retain_graph=True)[0], torch.autograd.grad(
            losses[1], current, retain_graph=True
        )[0]  # fmt: skip
        assert_close([one.cpu()], [true])
        assert not true.numel() or float(true.abs().max()) > 0


def test_each_step_has_its_threshold_in_the_gradient(device: torch.device) -> None:
    for soft in (False, True):
        neuron = Neuron(tau=None, threshold=(0.2, 3.0, 0.9), soft=soft)
        base = normal(4, 3, 40)
        current, other = base.clone().requires_grad_(), base.to(device).requires_grad_()
        wanted = fire_reference(current, neuron, atan_spike)[0].square().sum()
        found = TRAINING.fire(other, neuron)[0].square().sum()
        assert_close(gradients(found, [other]), gradients(wanted, [current]))


@pytest.mark.parametrize("bipolar", [False, True])
@pytest.mark.parametrize("leak", [0.0, 0.25])
@pytest.mark.parametrize("shape", SHAPES)
def test_signed_spikes_and_their_gradients_are_those_of_the_reference(
    shape: tuple[int, ...], leak: float, bipolar: bool, device: torch.device
) -> None:
    base, weight = normal(5, *shape), normal(6, *shape)
    amplitudes = [torch.tensor(0.4 + 0.3 * t) for t in range(shape[0])]

    def inputs(device: torch.device) -> tuple[Tensor, list[Tensor]]:
        x = base.clone().to(device).requires_grad_()
        return x, [a.clone().to(device).requires_grad_() for a in amplitudes]

    x, a = inputs(torch.device("cpu"))
    other, b = inputs(device)
    if bipolar:
        wanted, found = bipolar_reference(x, a, leak, straight_sign), TRAINING.bipolar(other, b, leak)
    else:
        wanted, found = ternary_reference(x, a, leak, straight_round), TRAINING.ternary(other, b, leak)
    assert torch.equal(found.detach().cpu(), wanted.detach())
    losses = (found * weight.to(device)).sum(), (wanted * weight).sum()
    got, true = gradients(losses[0], [other, *b]), gradients(losses[1], [x, *a])
    assert_close(got[:1], true[:1])
    scale = max(1.0, base[0].numel() ** 0.5)
    assert_close([one / scale for one in got[1:]], [one / scale for one in true[1:]])
    if base.numel() > 1:  # one bipolar neuron alone may lie beyond its amplitude, where nothing passes
        assert float(true[0].abs().max()) > 0


def test_the_gradient_of_bipolar_spikes_worked_by_hand(device: torch.device) -> None:
    """Of the sum of both steps' spikes, a = 1 and 2, leak 1/4; the identity where |m/a| ≤ 1.

    (m₁, m₂) are (1, 2), where both pass, at the edge; (−3, 2.5), where none does; (0.5, 5), the first alone.
    With d = ∂o₂/∂m₂: ∂x₂ = d; ∂o₁ = 1 − m₁·d/4; ∂x₁ = inside₁·∂o₁ + d·(a₁ − o₁)/4;
    ∂a₂ = o₂/a₂ − inside₂·m₂/a₂; ∂a₁ = (o₁/a₁ − inside₁·m₁/a₁)·∂o₁ + m₁·d/4.
    """
    x = torch.tensor([[1.0, -3.0, 0.5], [2.0, 4.0, 5.0]], device=device, requires_grad=True)
    a = [torch.tensor(one, device=device, requires_grad=True) for one in (1.0, 2.0)]
    spikes = TRAINING.bipolar(x, a, 0.25)
    # m₂: 1·0/4 + 2 = 2; −3·2/4 + 4 = 2.5; 0.5·0/4 + 5 = 5
    assert spikes.tolist() == [[1.0, -1.0, 1.0], [2.0, 2.0, 2.0]]
    of_x, *of_a = gradients(spikes.sum(), [x, *a])
    assert of_x.tolist() == [[0.75, 0.0, 1.0], [1.0, 0.0, 0.0]]
    assert [float(one) for one in of_a] == [0 + 0.25 - 1 + 0.5, 0 + 1 + 1]


def test_windows_are_scanned_along_their_tokens(device: torch.device) -> None:
    base, weight = normal(7, 3, 20, 70) * 2, normal(8, 3, 20, 70)
    current, other = base.clone().requires_grad_(), base.to(device).requires_grad_()
    wanted, _ = lif_reference(current, torch.zeros(3, 70), atan_spike)
    found = neurons.lif_scan(other)
    assert torch.equal(found.detach().cpu(), wanted.detach())
    loss = (found * weight.to(device)).sum()
    assert_close(gradients(loss, [other]), gradients((wanted * weight).sum(), [current]))


@pytest.mark.parametrize("name", NEURONS)
def test_float64_goes_through_the_reference(name: str) -> None:
    base = normal(9, 4, 30).double() * 2
    current, other = base.clone().requires_grad_(), base.clone().requires_grad_()
    wanted, found = fire_reference(current, NEURONS[name], atan_spike), TRAINING.fire(other, NEURONS[name])
    assert torch.equal(found[0], wanted[0])
    one, true = (torch.autograd.grad(pair[0].sum(), x)[0] for pair, x in ((found, other), (wanted, current)))
    assert torch.equal(one, true)


def test_a_device_without_kernels_goes_through_the_reference() -> None:
    """The meta device has no memory; a kernel would read some."""
    x = torch.empty(3, 5, device="meta", requires_grad=True)
    a = [torch.empty((), device="meta")] * 3
    for out in (TRAINING.fire(x, Neuron())[0], TRAINING.ternary(x, a, 0.25), TRAINING.bipolar(x, a, 0.25)):
        assert out.shape == x.shape and torch.autograd.grad(out.sum(), x)[0].shape == x.shape
