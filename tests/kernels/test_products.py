"""Matrix products in float16 terms, and the operations that hand them their operands."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

torch = pytest.importorskip("torch")

from qslm_opt.kernels.ops import REFERENCE, fast_ops, pick_precision, plain  # noqa: E402
from qslm_opt.kernels.products import (  # noqa: E402
    Scaled,
    half_product,
    half_terms,
    half_weight,
    whole_activation,
    whole_weight,
)
from qslm_opt.kernels.wkv.reference import initial_state  # noqa: E402

FLOAT16 = 2.0**-11
FLOAT32 = 2.0**-23
TWO_TERMS = 2.0**-21
"""Relative rounding of one float16 term, of float32, and of two terms."""


@pytest.fixture(params=["cpu", "cuda"], autouse=True)
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run every test on the CPU, and on a CUDA device where there is one."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device")
    with torch.device(request.param):
        yield request.param


def draw(seed: int, *shape: int) -> torch.Tensor:
    """Return float32 normal numbers."""
    drawn = torch.randn(*shape, generator=torch.Generator(device="cpu").manual_seed(seed), device="cpu")
    return drawn.to(torch.get_default_device())


def codes(seed: int, bits: int, *shape: int) -> torch.Tensor:
    """Return whole numbers as a ``bits``-wide affine format has them less their zero points."""
    top = 2**bits - 1
    generator = torch.Generator(device="cpu").manual_seed(seed)
    drawn = torch.randint(-top, top + 1, shape, generator=generator, device="cpu").float()
    drawn.view(-1)[0] = top
    return drawn.to(torch.get_default_device())


@pytest.mark.parametrize("factor", [1.0, 1e-5, 1e-3, 3e3])
def test_two_terms_keep_an_activation_to_22_bits(factor: float) -> None:
    x = draw(0, 40, 33) * factor
    error = (whole_activation(half_terms(x, 2), 2).double() - x.double()).abs()
    assert bool((error <= TWO_TERMS * x.abs().double() + 2.0**-31).all())
    one = (whole_activation(half_terms(x, 1), 1).double() - x.double()).abs()
    assert bool((one <= FLOAT16 * x.abs().double() + 2.0**-20).all())


def test_values_beyond_float16_become_infinite_not_wrong() -> None:
    far = whole_activation(half_terms(torch.tensor([[1.0e6, 2.0e6]]), 2), 2)
    assert far[0, 0] == 1.0e6
    assert not torch.isfinite(far[0, 1])


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8, 10, 11])
def test_codes_up_to_11_bits_are_one_exact_term(bits: int) -> None:
    values, scale = codes(bits, bits, 30, 17), draw(1, 30).abs()
    made = half_weight(values, scale, terms=2)
    assert made.rest is None
    assert torch.equal(whole_weight(made, 2), values * scale[:, None])


@pytest.mark.parametrize("bits", [12, 16])
def test_codes_beyond_11_bits_are_two_exact_terms(bits: int) -> None:
    values = codes(bits, bits, 30, 17)
    made = half_weight(values, None, terms=2)
    assert made.rest is not None
    assert torch.equal(whole_weight(made, 2), values)


def test_weights_stored_as_float16_are_exact_whatever_their_size() -> None:
    for factor in (1.0, 2.0**-9, 2.0**9):
        weight = (draw(3, 30, 17).half() * factor).float()
        made = half_weight(weight, None, terms=2)
        lost = (whole_weight(made, 2) - weight).abs().max() / weight.abs().max()
        assert float(lost) <= 2.0**-33


@pytest.mark.parametrize("kind", ["codes", "codes16", "float32", "zero"])
def test_a_split_product_is_as_good_as_a_float32_one(kind: str) -> None:
    x, scale = draw(4, 3, 50, 300) * 7, None
    if kind == "float32":
        weight = draw(5, 64, 300)
    elif kind == "zero":
        weight = torch.zeros(64, 300)
    else:
        weight, scale = codes(5, 16 if kind == "codes16" else 8, 64, 300), draw(6, 64).abs()
    whole = weight.double() if scale is None else weight.double() * scale.double()[:, None]
    truth = x.double() @ whole.t()
    bound = x.double().abs() @ whole.abs().t()  # what rounding errors are relative to
    got = half_product(half_terms(x, 2), half_weight(weight, scale, terms=2)).whole()
    assert got.shape == truth.shape
    assert bool(((got.double() - truth).abs() <= 4 * TWO_TERMS * bound).all())
    one = half_product(half_terms(x, 1), half_weight(weight, scale, terms=1)).whole()
    assert bool(((one.double() - truth).abs() <= 2.1 * FLOAT16 * bound + 1e-6).all())


@pytest.mark.parametrize("vocab", [2, 53, 64, 2049])
def test_the_loss_of_each_target_agrees_with_float64(vocab: int, device: str) -> None:
    h, weight = draw(7, 37, 24), draw(8, vocab, 24) * 3
    targets = torch.arange(37) % vocab
    truth = REFERENCE.nll(h.double(), weight.double(), targets)
    got = fast_ops(device).nll(h, weight, targets)
    torch.testing.assert_close(got.double(), truth, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_show_in_the_loss(bad: float, device: str) -> None:
    h, weight = draw(9, 5, 8), draw(10, 70, 8)
    weight[69, 3] = bad
    assert not bool(torch.isfinite(fast_ops(device).nll(h, weight, torch.zeros(5, dtype=torch.long))).any())


@pytest.mark.parametrize(("precision", "count"), [("fp16", 1), ("split", 2)])
@pytest.mark.parametrize(("batch", "tokens", "width"), [(1, 1, 8), (2, 63, 65), (3, 17, 130)])
def test_operands_carry_what_the_plain_operations_return(
    precision: str, count: int, batch: int, tokens: int, width: int, device: str
) -> None:
    if device == "cpu":
        pytest.skip("the CPU computes in float32 throughout")
    ops, close = fast_ops(device, precision), FLOAT16 if count == 1 else 4 * FLOAT32

    def same(operand: torch.Tensor, truth: torch.Tensor) -> None:
        torch.testing.assert_close(whole_activation(operand, count), truth, rtol=4 * close, atol=2e-6)

    x, last = draw(0, batch, tokens, width), draw(1, batch, width)
    weight, bias, mixes = draw(2, width), draw(3, width), [draw(i, width).sigmoid() for i in (4, 5, 6)]
    found, end = ops.norm_shift_mix(x, weight, bias, last, mixes)
    wanted, wanted_end = REFERENCE.norm_shift_mix(x, weight, bias, last, mixes)
    torch.testing.assert_close(end, wanted_end)
    for one, other in zip(found, wanted, strict=True):
        same(one, other)
    r, k, v = (Scaled(draw(i, batch, tokens, width), draw(i + 20, width).abs() + 0.1) for i in (7, 8, 9))
    w, u, state = -draw(10, width).exp(), draw(11, width), initial_state(batch, width, x)
    y, after = ops.gated_wkv(r, k, v, w, u, state)
    truth, wanted_after = REFERENCE.gated_wkv(r, k, v, w, u, state)
    same(y, truth)
    torch.testing.assert_close(after, wanted_after, rtol=1e-5, atol=1e-5)
    same(ops.relu2(Scaled(r.values.clone(), r.scale)), REFERENCE.relu2(r))
    out, membrane, spikes = ops.lif_add(x, k, v, torch.zeros(batch, width), None)
    fired = (out - x).round()
    assert torch.equal(fired.sum(dim=(1, 2)).double(), spikes)
    wanted_out, _, _ = REFERENCE.lif_add(x, k, v, torch.zeros(batch, width), None)
    assert float(((wanted_out - x).round() != fired).float().mean()) < 1e-3  # a last bit decides few spikes
    assert bool(torch.isfinite(membrane).all())
    made = ops.weight(codes(12, 8, 40, width), draw(13, 40).abs(), head=False)
    product = plain(ops.linear(found[0], made))
    torch.testing.assert_close(
        product, whole_activation(found[0], count) @ whole_weight(made, count).t(), rtol=1e-4, atol=1e-2
    )


def test_the_precision_that_is_picked_is_one_the_device_has(device: str) -> None:
    assert pick_precision("cpu") == "fp32"
    assert pick_precision("cpu", "fp32") == "fp32"
    if device == "cuda":
        assert pick_precision("cuda") == "split"
        assert [pick_precision("cuda", p) for p in ("fp32", "tf32", "fp16")] == ["fp32", "tf32", "fp16"]
