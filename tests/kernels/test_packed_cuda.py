"""Weights that stay packed on a CUDA device: every format and odd shapes against the plain truth."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("torch sees no CUDA device", allow_module_level=True)
pytest.importorskip("triton")

from qslm_opt.kernels.cuda import triton_ops  # noqa: E402
from qslm_opt.kernels.packed.cuda import FEW_ROWS, CudaWeight, packed_triton_ops  # noqa: E402
from qslm_opt.kernels.packed.place import hold  # noqa: E402
from qslm_opt.quant.packed_tensor import PackedTensor  # noqa: E402
from tests.kernels.packed_cases import FORMATS, SHAPES, activations, packed_case, tolerance  # noqa: E402

pytestmark = pytest.mark.gpu
CUDA = torch.device("cuda")
CASES = [(text, shape) for text in FORMATS for shape in SHAPES]


@pytest.mark.parametrize(("text", "shape"), CASES)
def test_the_weights_are_those_of_the_quantizer_bit_for_bit(text, shape):
    packed, true = packed_case(text, shape)
    weight = CudaWeight.of(packed, CUDA)
    assert torch.equal(weight.whole().cpu(), true)
    assert torch.equal(weight.vector().cpu(), true.reshape(-1))
    ids = torch.tensor([[0, shape[0] - 1, shape[0] // 2]], device=CUDA)
    assert torch.equal(weight.rows(ids).cpu(), true[ids.cpu()])


@pytest.mark.parametrize(("text", "shape"), CASES)
def test_products_stay_within_float32_rounding(text, shape):
    packed, true = packed_case(text, shape)
    weight = CudaWeight.of(packed, CUDA)
    for rows in (1, FEW_ROWS):
        x = activations(rows, shape[1])
        found = weight.product(x.to(CUDA)).cpu().double()
        assert bool(((found - x.double() @ true.double().T).abs() <= tolerance(x, true)).all())


@pytest.mark.parametrize("text", [text for text in FORMATS if not text.startswith(("fp", "sign"))])
def test_factors_are_those_of_the_quantizer(text):
    packed, _ = packed_case(text, (33, 257))
    assert isinstance(packed, PackedTensor)
    values, scale = packed.quantized().factors()
    found, found_scale = CudaWeight.of(packed, CUDA).factors()
    assert torch.equal(found.cpu(), values)
    assert (scale is None) == (found_scale is None)
    if scale is not None:
        assert torch.equal(found_scale.cpu(), scale)


@pytest.mark.parametrize("precision", ["fp32", "split"])
def test_large_products_are_those_of_dequantized_weights_bit_for_bit(precision):
    packed, _ = packed_case("int3/channel/midrise", (64, 128))
    base, packs = triton_ops(precision), packed_triton_ops(precision)
    weight = CudaWeight.of(packed, CUDA)
    values, scale = (None if t is None else t.to(CUDA) for t in packed.quantized().factors())
    from qslm_opt.kernels.mix.cuda import operand
    from qslm_opt.kernels.ops import plain
    from qslm_opt.kernels.terms import FP32, SPLIT

    x = operand(activations(300, 128).to(CUDA), FP32 if precision == "fp32" else SPLIT)
    wanted = plain(base.linear(x, base.weight(values, scale, head=False)))
    assert torch.equal(plain(packs.linear(x, weight)), wanted)
    h, targets = activations(300, 128).to(CUDA), torch.arange(300, device=CUDA) % 64
    wanted = base.nll(h, base.weight(values, scale, head=True), targets)
    assert torch.equal(packs.nll(h, weight, targets), wanted)


def test_what_is_held_is_what_is_stored():
    tensors = {"w": packed_case("int3/channel/affine", (256, 256))[0], "e": packed_case("sign", (99, 256))[0]}
    _, held = hold(tensors, CUDA, ())
    assert held == sum(tensor.nbytes for tensor in tensors.values())


@pytest.mark.parametrize("bits", [1.58, 3, 4])
def test_the_captured_step_says_what_the_cpu_says(bits):
    """First tokens only: a spike at its threshold may fall either way later."""
    from qslm_opt.evaluate.generate import CompiledStepper
    from qslm_opt.evaluate.generate_cuda import GraphStepper
    from tests.kernels.step_cases import small_model

    stored = small_model(bits)
    cpu, gpu = CompiledStepper(stored), GraphStepper(stored, CUDA)
    assert gpu.held_bytes <= 1.03 * stored.payload_bytes
    for token in (3, 1, 4, 1, 5, 9):
        wanted = torch.from_numpy(cpu.feed(token).copy())
        torch.testing.assert_close(torch.from_numpy(gpu.feed(token)), wanted, rtol=1e-3, atol=1e-3)
    gpu.restart()
    cpu.restart()
    wanted = torch.from_numpy(cpu.feed(3))
    torch.testing.assert_close(torch.from_numpy(gpu.feed(3)), wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_the_baselines_are_captured_too(precision):
    from qslm_opt.evaluate.generate import CompiledStepper
    from qslm_opt.evaluate.generate_cuda import GraphStepper
    from tests.kernels.step_cases import small_model

    stored = small_model(32)
    gpu = GraphStepper(stored, CUDA, precision)
    found = torch.from_numpy(gpu.feed(3))
    off = {"fp32": 1e-3, "tf32": 3e-2, "bf16": 2e-1}[precision]
    torch.testing.assert_close(found, torch.from_numpy(CompiledStepper(stored).feed(3)), rtol=off, atol=off)
    token = gpu.greedy(3)
    gpu.run_ahead(4)
    gpu.synchronise()
    assert 0 <= token < stored.config.vocab_size
