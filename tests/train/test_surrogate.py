from __future__ import annotations

from math import pi

import pytest
import torch

from qslm_opt.kernels.lif.reference import lif_reference
from qslm_opt.kernels.ops import REFERENCE
from qslm_opt.kernels.wkv.reference import initial_state, wkv_reference
from qslm_opt.models.spikegpt import forward
from qslm_opt.models.spikegpt_config import SpikeGPTConfig
from qslm_opt.train.network import body, initial_tensors
from qslm_opt.train.neurons import atan_gradient, atan_spike, lif_scan
from qslm_opt.train.surrogate import wkv_window


def test_the_surrogate_is_the_derivative_of_a_scaled_arc_tangent() -> None:
    x = torch.linspace(-3, 3, 41, dtype=torch.float64, requires_grad=True)
    smooth = torch.atan(pi * x) / pi + 0.5
    (wanted,) = torch.autograd.grad(smooth.sum(), x)
    (found,) = torch.autograd.grad(atan_spike(x).sum(), x)
    torch.testing.assert_close(found, wanted)
    assert float(atan_gradient(torch.tensor(0.0))) == 1.0
    assert atan_spike(torch.tensor([-1e-6, -0.0, 0.0, 2.0])).tolist() == [0, 1, 1, 1]


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 17, 5), (2, 40, 7)])
@pytest.mark.parametrize("scale", [0.5, 2.0, 6.0])
def test_the_lif_scan_has_the_spikes_and_gradients_of_the_reference(
    shape: tuple[int, int, int], scale: float
) -> None:
    generator = torch.Generator().manual_seed(1)
    current = (torch.randn(shape, generator=generator, dtype=torch.float64) * scale).requires_grad_()
    weight = torch.randn(shape, generator=generator, dtype=torch.float64)
    wanted, _ = lif_reference(current, current.new_zeros(shape[0], shape[2]), atan_spike)
    found = lif_scan(current)
    assert torch.equal(found, wanted)
    for spikes in (wanted, found):
        assert spikes.requires_grad
    torch.testing.assert_close(
        torch.autograd.grad((found * weight).sum(), current)[0],
        torch.autograd.grad((wanted * weight).sum(), current)[0],
        rtol=1e-12, atol=1e-12,
    )  # fmt: skip


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 17, 5), (2, 64, 9)])
def test_wkv_as_a_matrix_product_equals_the_scan_and_its_gradients(shape: tuple[int, int, int]) -> None:
    generator = torch.Generator().manual_seed(2)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64)

    k, v, u = (3 * normal(*shape)).requires_grad_(), normal(*shape).requires_grad_(), normal(shape[2])
    decay = torch.linspace(-6, 4, shape[2], dtype=torch.float64).requires_grad_()
    u.requires_grad_()
    weight = normal(*shape)
    wanted, _ = wkv_reference(k, v, -decay.exp(), u, initial_state(shape[0], shape[2], k))
    found = wkv_window(k, v, -decay.exp(), u)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
    inputs = (k, v, decay, u)
    pairs = zip(
        torch.autograd.grad((found * weight).sum(), inputs, materialize_grads=True),
        torch.autograd.grad((wanted * weight).sum(), inputs, materialize_grads=True),
        strict=True,
    )
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


def test_wkv_stays_finite_where_keys_are_far_apart() -> None:
    k = torch.tensor([0.0, 80.0, -90.0, 5.0]).view(1, 4, 1).requires_grad_()
    v = torch.arange(4.0).view(1, 4, 1)
    y = wkv_window(k, v, torch.tensor([-0.1]), torch.tensor([0.0]))
    y.sum().backward()
    assert torch.isfinite(y).all()
    assert k.grad is not None
    assert torch.isfinite(k.grad).all()
    assert y[0, 3, 0].item() == pytest.approx(1.0)


@pytest.mark.parametrize("model_type", ["RWKV", "RWKV-ffnPre"])
def test_the_training_body_computes_what_the_model_computes(model_type: str) -> None:
    cfg = SpikeGPTConfig(50, 3, 24, model_type)
    p = {name: tensor.double() for name, tensor in initial_tensors(cfg, 3).items()}
    ids = torch.randint(50, (4, 33), generator=torch.Generator().manual_seed(0))
    wanted, _, spikes = forward(p, cfg, ids, REFERENCE)
    found, counted = body(p, cfg, ids)
    torch.testing.assert_close(found, wanted, rtol=1e-7, atol=1e-7)
    assert counted.tolist() == spikes.tolist()
    assert float(spikes.sum()) > 0


def test_every_weight_gets_a_gradient_through_the_spikes() -> None:
    cfg = SpikeGPTConfig(50, 2, 16)
    p = {name: tensor.requires_grad_() for name, tensor in initial_tensors(cfg, 3).items()}
    h, _ = body(p, cfg, torch.randint(50, (4, 20), generator=torch.Generator().manual_seed(0)))
    (h * torch.randn(h.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
    without = [name for name, tensor in p.items() if tensor.grad is None or not tensor.grad.abs().max() > 0]
    assert without == ["head.weight"], "only the head is not read here"


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 17, 65), (2, 40, 7)])
def test_the_float32_kernels_have_the_spikes_and_gradients_of_the_loop(
    shape: tuple[int, int, int], device: str
) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device")
    generator = torch.Generator().manual_seed(3)
    # Multiples of 1/64 and halvings over few steps: float32 and float64 see the same potentials.
    coarse = (torch.randn(shape, generator=generator) * 128).round() / 64
    weight = torch.randn(shape, generator=generator)
    current = coarse.to(device).requires_grad_()
    exact = coarse.double().requires_grad_()
    found, wanted = lif_scan(current), lif_scan(exact)
    assert float((found.detach().cpu() != wanted.detach()).float().mean()) == 0
    (one,) = torch.autograd.grad((found * weight.to(device)).sum(), current)
    (other,) = torch.autograd.grad((wanted * weight.double()).sum(), exact)
    torch.testing.assert_close(one.cpu().double(), other, rtol=1e-5, atol=1e-5)
