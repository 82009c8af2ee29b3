"""The fast operations against the plain truth: odd sizes, states, padding, poisoned memory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

torch = pytest.importorskip("torch")

from qslm_opt.kernels.lif.reference import lif_reference  # noqa: E402
from qslm_opt.kernels.ops import REFERENCE, fast_ops  # noqa: E402
from qslm_opt.kernels.wkv.reference import initial_state, wkv_reference  # noqa: E402

SIZES = [(1, 1, 1), (2, 63, 65), (3, 500, 7), (1, 1000, 130), (5, 33, 64)]
IDS = [f"B{b}-T{t}-D{d}" for b, t, d in SIZES]


@pytest.fixture(params=["cpu", "cuda"], autouse=True)
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run every test on the CPU, and on a CUDA device where there is one."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device")
    with torch.device(request.param):
        yield request.param


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Uninitialised float tensors hold NaN, so reading one shows."""
    real = torch.Tensor.new_empty

    def poisoned(self, *args, **kwargs):
        out = real(self, *args, **kwargs)
        return out.fill_(float("nan")) if out.is_floating_point() else out

    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned)


def draw(seed: int, *shape: int, scale: float = 1.0) -> torch.Tensor:
    """Return float32 normal numbers."""
    generator = torch.Generator(device="cpu").manual_seed(seed)
    drawn = torch.randn(*shape, generator=generator, device="cpu") * scale
    return drawn.to(torch.get_default_device())


def wkv_inputs(batch: int, tokens: int, width: int) -> list[torch.Tensor]:
    """Return r, k, v [B, T, D], decay and bonus [D] over the range trained models use."""
    r, k, v = (draw(i, batch, tokens, width, scale=3.0) for i in range(3))
    return [r, k, v, -torch.exp(draw(3, width, scale=2.0)), draw(4, width)]


@pytest.mark.parametrize(("batch", "tokens", "width"), SIZES, ids=IDS)
def test_wkv_agrees_with_float64(batch: int, tokens: int, width: int, device: str) -> None:
    """Outputs and the carried state stay within float32 rounding of the float64 truth."""
    inputs = wkv_inputs(batch, tokens, width)
    y, state = fast_ops(device).gated_wkv(*inputs, initial_state(batch, width, inputs[0]))
    r, k, v, w, u = (t.double() for t in inputs)
    truth, truth_state = wkv_reference(k, v, w, u, initial_state(batch, width, r))
    torch.testing.assert_close(y.double(), torch.sigmoid(r) * truth, rtol=2e-4, atol=2e-5)
    torch.testing.assert_close(state.double(), truth_state, rtol=2e-4, atol=2e-4)


def test_wkv_survives_extreme_keys(device: str) -> None:
    """Keys of ±80 and decays near 0 overflow no exponential."""
    k = torch.tensor([80.0, -80.0, 80.0, 0.0]).reshape(1, 4, 1)
    v = draw(0, 1, 4, 1)
    w, u = torch.tensor([-1e-4]), torch.tensor([0.5])
    y, state = fast_ops(device).gated_wkv(torch.zeros(1, 4, 1), k, v, w, u, initial_state(1, 1, k))
    truth, _ = wkv_reference(k.double(), v.double(), w.double(), u.double(), initial_state(1, 1, k.double()))
    assert torch.isfinite(state).all()
    torch.testing.assert_close(y.double(), truth / 2, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize(("batch", "tokens", "width"), SIZES, ids=IDS)
def test_lif_fires_the_same_spikes(batch: int, tokens: int, width: int, gated: bool, device: str) -> None:
    """Spikes, membranes and spike counts equal the reference where no membrane is at the threshold."""
    x, current = draw(0, batch, tokens, width), draw(1, batch, tokens, width, scale=2.0)
    gate = draw(2, batch, tokens, width) if gated else None
    v0 = draw(3, batch, width).clamp(max=0.9)
    lengths = torch.arange(batch) % tokens + 1
    fast = fast_ops(device).lif_add(x, current, gate, v0, lengths)
    truth = REFERENCE.lif_add(x, current, gate, v0, lengths)
    if gated:
        spikes, true_spikes = (fast[0] - x).round(), (truth[0] - x).round()
        assert (spikes != true_spikes).float().mean() < 1e-4  # a sigmoid differs by an ulp
    else:
        assert torch.equal(fast[0], truth[0])
        assert torch.equal(fast[1], truth[1])
        assert torch.equal(fast[2], truth[2])


def test_a_membrane_exactly_at_the_threshold_fires_and_resets(device: str) -> None:
    """v = (0 + 2)/2 = 1 fires; the reset membrane then needs the same current again."""
    current = torch.full((1, 3, 1), 2.0)
    spikes, v = lif_reference(current, torch.zeros(1, 1))
    empty = torch.zeros(1, 1)
    out, fast_v, count = fast_ops(device).lif_add(torch.zeros(1, 3, 1), current, None, empty, None)
    assert spikes.flatten().tolist() == out.flatten().tolist() == [1.0, 1.0, 1.0]
    assert v.item() == fast_v.item() == 0.0
    assert count.item() == 3


def test_padding_is_not_counted(device: str) -> None:
    """Spikes at or beyond a sentence's length do not enter the count."""
    current = torch.full((2, 5, 4), 9.0)
    for ops in (REFERENCE, fast_ops(device)):
        lengths, empty = torch.tensor([5, 2]), torch.zeros(2, 4)
        _, _, count = ops.lif_add(torch.zeros(2, 5, 4), current, None, empty, lengths)
        assert count.tolist() == [20.0, 8.0]


@pytest.mark.parametrize(("batch", "tokens", "width"), SIZES, ids=IDS)
def test_norm_shift_mix_agrees_with_float64(batch: int, tokens: int, width: int, device: str) -> None:
    """All blends and the last normalised token are within float32 rounding of the truth."""
    x, weight, bias = draw(0, batch, tokens, width, scale=4.0) + 1, draw(1, width), draw(2, width)
    last, mixes = draw(3, batch, width), [draw(4 + i, width) for i in range(3)]
    outs, end = fast_ops(device).norm_shift_mix(x, weight, bias, last, mixes)
    truth, truth_end = REFERENCE.norm_shift_mix(
        x.double(), weight.double(), bias.double(), last.double(), [m.double() for m in mixes]
    )
    for out, true in zip(outs, truth, strict=True):
        torch.testing.assert_close(out.double(), true, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(end.double(), truth_end, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("cut", [1, 31, 32, 40])
def test_a_scan_cut_in_two_gives_the_same_end(cut: int, device: str) -> None:
    """State out of the first part and into the second: WKV, LIF and token shift go on unbroken."""
    ops = fast_ops(device)
    r, k, v, w, u = wkv_inputs(2, 64, 70)
    whole, end = ops.gated_wkv(r, k, v, w, u, initial_state(2, 70, k))
    first, state = ops.gated_wkv(r[:, :cut], k[:, :cut], v[:, :cut], w, u, initial_state(2, 70, k))
    second, state = ops.gated_wkv(r[:, cut:], k[:, cut:], v[:, cut:], w, u, state)
    assert torch.equal(torch.cat((first, second), 1), whole)
    assert torch.equal(state, end)
    zero = torch.zeros(2, 70)
    whole, end, _ = ops.lif_add(r, k, v, zero, None)
    first, state, _ = ops.lif_add(r[:, :cut], k[:, :cut], v[:, :cut], zero, None)
    second, state, _ = ops.lif_add(r[:, cut:], k[:, cut:], v[:, cut:], state, None)
    assert torch.equal(torch.cat((first, second), 1), whole)
    assert torch.equal(state, end)
    weight, mixes = torch.ones(70), [draw(9, 70)]
    (whole,), end = ops.norm_shift_mix(r, weight, u, zero, mixes)
    (first,), state = ops.norm_shift_mix(r[:, :cut], weight, u, zero, mixes)
    (second,), state = ops.norm_shift_mix(r[:, cut:], weight, u, state, mixes)
    assert torch.equal(torch.cat((first, second), 1), whole)
    assert torch.equal(state, end)


def test_the_vector_exponential_is_exact_to_two_ulp() -> None:
    """Over 0 … −87 the relative error stays below 2.4e-7."""
    import numpy as np
    from numba import vectorize

    from qslm_opt.kernels.vector import exp_nonpositive, sigmoid

    x = np.linspace(-87, 0, 200_001, dtype=np.float32)
    exp = vectorize(["float32(float32)"])(exp_nonpositive.py_func)
    assert np.max(np.abs(exp(x) / np.exp(x.astype(np.float64)) - 1)) < 2.4e-7
    gate = vectorize(["float32(float32)"])(sigmoid.py_func)
    z = np.linspace(-200, 200, 100_001, dtype=np.float32)
    truth = 1 / (1 + np.exp(-np.clip(z.astype(np.float64), -700, 700)))
    assert np.max(np.abs(gate(z) - truth)) < 2.4e-7


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("at", [0, 4, 8])
def test_a_current_that_is_no_number_shows_in_the_spikes_of_its_window(
    bad: float, at: int, device: str
) -> None:
    """The neuron would stay silent, and nothing else would tell."""
    current = draw(0, 3, 9, 70)
    current[1, at, 66] = bad
    for ops in (REFERENCE, fast_ops(device)):
        out, _, spikes = ops.lif_add(torch.zeros(3, 9, 70), current, None, torch.zeros(3, 70), None)
        assert torch.isfinite(spikes).tolist() == [True, False, True]
        assert bool(torch.isfinite(out).all())
