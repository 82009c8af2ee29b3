"""What a quantizer is, what it returns, and the registry of names.

An integer format sees a tensor as (rows, groups, size): weights that share a scale lie along the last
axis. A scale per tensor is one group of one row; a scale per channel is one group a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, log10
from typing import TYPE_CHECKING, Protocol

import torch
from torch.nn.functional import pad
from torch.utils.weak import WeakIdKeyDictionary

from qslm_opt.errors import NumericsError, SettingError, did_you_mean
from qslm_opt.formats import FP16, FP32, Format, Layout, matrix_shape
from qslm_opt.quant.sign import sign_codes

if TYPE_CHECKING:
    from torch import Tensor

FP16_MAX = 65504.0
LARGEST_WEIGHT = 2.0**126
"""Largest magnitude that an integer format takes: the span of two such weights is still a float32."""


@dataclass(frozen=True, eq=False)
class QuantizedTensor:
    """Integer codes with what is needed to read them: what a packed file stores of one tensor."""

    codes: Tensor
    """int32, shape of the weight."""
    scale: Tensor
    """(rows, groups) in the precision that is stored: float16 or float32. Empty for ``sign``."""
    zero: Tensor | None
    """int32 (rows, groups): the code of 0.0; None for symmetric and ``sign`` formats."""
    fmt: Format
    shape: tuple[int, ...]

    def dequantize(self) -> Tensor:
        """Return float32 (codes - zero) * scale in the shape of the weight."""
        if self.fmt.layout is None:
            return self.codes.float()
        groups = split_groups(self.codes, self.fmt.layout)
        if self.zero is not None:
            groups = groups - self.zero[..., None]
        return join_groups(groups.float() * self.scale.float()[..., None], self.shape)

    def factors(self) -> tuple[Tensor, Tensor | None]:
        """Return (values, scale) whose product is ``dequantize``: float32 [N, K], and float32 [N] or None.

        Whole numbers and one scale a row where the scales are per tensor or per row; with scales inside a
        row the dequantized values and None.
        """
        layout = self.fmt.layout
        if layout is None or layout.granularity not in ("tensor", "channel"):
            return self.dequantize(), None
        groups = split_groups(self.codes, layout)
        if self.zero is not None:
            groups = groups - self.zero[..., None]
        values = join_groups(groups.float(), self.shape)
        return values, self.scale.float().flatten().expand(values.shape[0])


class Quantizer(Protocol):
    """An algorithm that chooses the scales and codes of integer formats."""

    name: str

    def check(self, fmt: Format) -> None:
        """Raise SettingError, naming the fix, unless the algorithm has the integer format ``fmt``."""

    def quantize(self, weight: Tensor, fmt: Format) -> QuantizedTensor:
        """Quantize a float tensor of any shape and device; never changes ``weight``.

        Raises SettingError as ``check`` does, NumericsError for weights that ``fmt`` cannot hold.
        """


_REGISTRY: dict[str, Quantizer] = {}


def register(quantizer: Quantizer) -> Quantizer:
    """Make ``quantizer`` known under its name."""
    _REGISTRY[quantizer.name] = quantizer
    return quantizer


def quantizer_names() -> tuple[str, ...]:
    """Return the known names, sorted."""
    return tuple(sorted(_REGISTRY))


def get_quantizer(name: str) -> Quantizer:
    """Return the quantizer of that name; raise SettingError with the nearest one."""
    if name not in _REGISTRY:
        known = ", ".join(quantizer_names())
        raise SettingError(
            f"quantizer {name!r} is unknown; use one of {known}.{did_you_mean(name, _REGISTRY)}"
        )
    return _REGISTRY[name]


def quantize(weight: Tensor, fmt: Format, quantizer: str = "rtn") -> QuantizedTensor:
    """Return the codes of ``weight`` in an integer or sign format."""
    algorithm = get_quantizer(quantizer)
    if fmt.kind == "sign":
        codes = sign_codes(weight)
        return QuantizedTensor(codes, codes.new_empty(0, dtype=torch.float32), None, fmt, tuple(weight.shape))
    return algorithm.quantize(weight, fmt)


def quantize_dequantize(weight: Tensor, fmt: Format, quantizer: str = "rtn") -> Tensor:
    """Return the float32 values that a model in format ``fmt`` computes with.

    ``fp32`` returns ``weight`` itself; every other format a new tensor of its shape and device.
    """
    if fmt == FP32:
        get_quantizer(quantizer)
        return weight
    if fmt == FP16:
        get_quantizer(quantizer)
        return _through_float16(weight)
    return quantize(weight, fmt, quantizer).dequantize()


def sqnr_db(weight: Tensor, dequantized: Tensor) -> float:
    """Return 10 log10(sum w² / sum (w - dq)²) in dB; infinite when nothing was lost."""
    reference = weight.detach().double()
    noise = float((reference - dequantized.detach().double()).square().sum())
    signal = float(reference.square().sum())
    if noise == 0.0:
        return inf
    return 10.0 * log10(signal / noise) if signal > 0.0 else -inf


def int_layout(fmt: Format) -> Layout:
    """Return the layout of an integer format; raise SettingError for any other."""
    if fmt.layout is None:
        raise SettingError(f"format {fmt} has no integer codes; use intBITS/GRANULARITY/SYMMETRY.")
    return fmt.layout


def split_groups(values: Tensor, layout: Layout) -> Tensor:
    """Return ``values`` as (rows, groups, size); zeros fill a short last group."""
    rows, columns = matrix_shape(tuple(values.shape))
    if layout.granularity == "tensor":
        return values.reshape(1, 1, -1)
    matrix = values.reshape(rows, columns)
    if layout.granularity == "channel":
        return matrix.unsqueeze(1)
    size = min(layout.group_size, columns)
    short = -columns % size
    return (pad(matrix, (0, short)) if short else matrix).reshape(rows, -1, size)


def join_groups(groups: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Undo ``split_groups``: return a contiguous tensor of ``shape``."""
    rows, columns = matrix_shape(shape)
    return groups.reshape(rows, -1)[:, :columns].reshape(shape).contiguous()


_RANGES: WeakIdKeyDictionary = WeakIdKeyDictionary()
"""Tensor → (version, lowest, highest): asking a GPU makes it wait, once a tensor is enough."""


def weight_range(weight: Tensor) -> tuple[float, float]:
    """Return the lowest and the highest weight; NaN where one is."""
    version = None if weight.is_inference() else weight._version
    known = _RANGES.get(weight)
    if version is None or known is None or known[0] != version:
        low, high = (float(x) for x in torch.aminmax(weight.detach()))
        known = version, low, high
        _RANGES[weight] = known
    return known[1], known[2]


def check_weights(weight: Tensor, fmt: Format) -> tuple[float, float]:
    """Return ``weight_range``; raise NumericsError unless there are weights, all finite, within ±2¹²⁶."""
    if weight.numel() == 0:
        raise NumericsError(f"a tensor of shape {tuple(weight.shape)} has no weights for format {fmt}.")
    low, high = weight_range(weight)
    if not (-inf < low and high < inf):
        raise NumericsError(
            f"weights range from {low:g} to {high:g}, which {fmt} cannot hold; "
            "it needs finite numbers: repair the checkpoint."
        )
    if max(-low, high) > LARGEST_WEIGHT:
        raise NumericsError(
            f"weights range from {low:g} to {high:g}, beyond the ±{LARGEST_WEIGHT:.2g} of {fmt}; "
            "keep this tensor in fp32."
        )
    return low, high


def _through_float16(weight: Tensor) -> Tensor:
    """Round to float16 and back; raise NumericsError beyond ±65504."""
    low, high = check_weights(weight, FP16)
    if max(-low, high) > FP16_MAX:
        raise NumericsError(
            f"weights range from {low:g} to {high:g}, beyond the ±65504 of fp16; keep this tensor in fp32."
        )
    return weight.detach().half().float()
