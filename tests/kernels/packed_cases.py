"""Formats and shapes of packed weights that the tests of every device share."""

from __future__ import annotations

import torch

from qslm_opt.formats import Format
from qslm_opt.kernels.packed.reference import as_packed
from qslm_opt.quant import quantize
from qslm_opt.quant.packed_tensor import PackedTensor

FORMATS = (
    "sign", "int1/channel/midrise", "int1/group32/midrise", "ternary/channel", "ternary/tensor",
    "ternary/group32", "int2/channel/midrise", "int2/tensor/affine", "int2/group7/offset",
    "int3/channel/midrise", "int3/channel/symmetric", "int3/group64/affine", "int4/channel/affine",
    "int4/channel/offset", "int4/tensor/symmetric", "int5/channel/midrise", "int5/tensor/affine",
    "int6/channel/symmetric", "int6/group32/offset", "int7/channel/affine", "int8/channel/affine",
    "int8/tensor/symmetric", "int8/group64/offset", "int10/channel/midrise", "int12/group32/affine",
    "int16/channel/affine", "int16/tensor/symmetric", "fp16", "fp32",
)  # fmt: skip
SHAPES = ((1, 1), (5, 13), (33, 257), (64, 64), (3, 2050))


def quantizer_of(fmt: Format) -> str:
    """Return a quantizer that has the format."""
    symmetry = fmt.layout.symmetry if fmt.layout else ""
    if symmetry == "offset":
        return "hqq"
    return "mse" if fmt.kind == "ternary" or symmetry == "midrise" else "rtn"


def packed_case(text: str, shape: tuple[int, ...], seed: int = 0):
    """Return a packed tensor of random weights, and the float32 weights that it stands for."""
    fmt = Format.parse(text)
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    if fmt.kind == "float":
        stored = weight.half() if fmt.bits == 16 else weight
        return as_packed(stored), stored.float()
    made = quantize(weight, fmt, quantizer_of(fmt))
    return PackedTensor.of(made), made.dequantize()


def activations(rows: int, columns: int, seed: int = 1) -> torch.Tensor:
    """Return float32 normal numbers [rows, columns]."""
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def tolerance(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return what float32 sums in any order may be off by: 8 ε Σ|x||w| and the rounding of the result."""
    return 8 * torch.finfo(torch.float32).eps * (x.double().abs() @ weight.double().abs().T) + 1e-30
