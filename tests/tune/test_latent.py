"""Latents: they begin as the quantizer's codes, learn inside the grid, and store what they compute."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from qslm_opt.formats import Format  # noqa: E402
from qslm_opt.quant import quantize  # noqa: E402
from qslm_opt.tune.latent import Latent  # noqa: E402

FORMATS = [
    "int1/channel/midrise", "int2/channel/midrise", "int3/tensor/affine", "int2/group8/offset",
    "int3/channel/symmetric", "ternary/channel", "ternary/group5", "int8/channel/affine",
]  # fmt: skip


def latent(text: str, seed: int = 0) -> tuple[Latent, torch.Tensor]:
    weight = torch.randn(6, 19, generator=torch.Generator().manual_seed(seed))
    return Latent(weight, quantize(weight, Format.parse(text), "mse")), weight


@pytest.mark.parametrize("text", FORMATS)
def test_it_begins_with_the_codes_and_scales_of_the_quantizer(text):
    made, weight = latent(text)
    start = quantize(weight, Format.parse(text), "mse")
    torch.testing.assert_close(made.value(), start.dequantize(), rtol=1e-6, atol=1e-6)
    stored = made.quantized()
    assert torch.equal(stored.codes, start.codes) and torch.equal(stored.scale, start.scale)
    assert made.changed() == 0


@pytest.mark.parametrize("text", FORMATS)
def test_what_is_stored_after_some_steps_is_what_computes(text):
    made, weight = latent(text)
    optimizer = torch.optim.Adam([made.steps, made.growth], lr=0.05)
    for _ in range(30):
        optimizer.zero_grad()
        (made.value() - weight.roll(1, 0)).square().sum().backward()
        optimizer.step()
    stored = made.quantized()
    low, high = (0, made.fmt.levels - 1)
    offset = {"ternary": 1}.get(made.fmt.kind, made.fmt.levels // 2 if "symmetric" in text else 0)
    assert int(stored.codes.min()) + offset >= low and int(stored.codes.max()) + offset <= high
    assert made.changed() > 0
    with torch.no_grad():  # scales are stored in float16, to 11 bits
        torch.testing.assert_close(stored.dequantize(), made.value(), rtol=1e-3, atol=1e-6)


def test_gradients_pass_the_rounding_but_not_the_ends_of_the_grid():
    made, _ = latent("ternary/channel")
    with torch.no_grad():
        made.steps[0, 0, :3] = torch.tensor([0.3, 1.4, 1.6])
    made.value().sum().backward()
    scale = float(made._scale[0, 0])
    assert made.steps.grad[0, 0, :3].tolist() == pytest.approx([scale, scale, 0.0])
