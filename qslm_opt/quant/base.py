"""What a quantizer is, what it returns, and the registry of names.

An integer format sees a tensor as (rows, groups, size): weights that share a scale lie along the last
axis. A scale per tensor is one group of one row; a scale per channel is one group a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, log10
from typing import TYPE_CHECKING, Protocol, runtime_checkable

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
    """int32, shape of the weight, each as ``qslm_opt.formats`` describes; -1, 0 or 1 for ternary."""
    scale: Tensor
    """(rows, groups) in the precision that is stored: float16 or float32. Empty for ``sign``."""
    zero: Tensor | None
    """(rows, groups): the code of 0.0, int32 for affine, stored as a scale is for offset; None without."""
    fmt: Format
    shape: tuple[int, ...]

    def dequantize(self) -> Tensor:
        """Return the float32 weights that the codes stand for, in the shape of the weight."""
        if self.fmt.layout is None:
            return self.codes.float()
        return join_groups(self._steps() * self.scale.float()[..., None], self.shape)

    def factors(self) -> tuple[Tensor, Tensor | None]:
        """Return (values, scale) whose product is ``dequantize``: float32 [N, K], and float32 [N] or None.

        Whole numbers and one scale a row where the scales are per tensor or per row; with scales inside a
        row, and with zero points that are not whole, the dequantized values and None.
        """
        layout = self.fmt.layout
        if layout is None or layout.granularity == "group" or layout.symmetry == "offset":
            return self.dequantize(), None
        values = join_groups(self._steps(), self.shape)
        return values, self.scale.float().flatten().expand(values.shape[0])

    def _steps(self) -> Tensor:
        """Return the weights in units of their scales: float32 (rows, groups, size)."""
        assert self.fmt.layout is not None
        groups = split_groups(self.codes, self.fmt.layout)
        if self.zero is not None:
            return groups.float() - self.zero.float()[..., None]
        if self.fmt.layout.symmetry == "midrise":
            groups = 2 * groups - (self.fmt.levels - 1)
        return groups.float()


class Quantizer(Protocol):
    """An algorithm that chooses the scales and codes of integer formats."""

    @property
    def name(self) -> str:
        """What ``--quantizer`` and settings call it."""

    def check(self, fmt: Format) -> None:
        """Raise SettingError, naming the fix, unless the algorithm has the integer format ``fmt``."""

    def quantize(self, weight: Tensor, fmt: Format) -> QuantizedTensor:
        """Quantize a float tensor of any shape and device; never changes ``weight``.

        Raises SettingError as ``check`` does, NumericsError for weights that ``fmt`` cannot hold.
        """


@runtime_checkable
class CalibratedQuantizer(Quantizer, Protocol):
    """A quantizer that also looks at what the matrix reads."""

    calibrated: bool

    def quantize(self, weight: Tensor, fmt: Format, moment: Tensor | None = None) -> QuantizedTensor:
        """See Quantizer; ``moment`` [K, K] is the mean of x xᵀ over the inputs x of a matrix [N, K]."""


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


def is_calibrated(name: str) -> bool:
    """Whether the quantizer of that name looks at what matrices read."""
    return isinstance(get_quantizer(name), CalibratedQuantizer)


def quantize(
    weight: Tensor, fmt: Format, quantizer: str = "rtn", moment: Tensor | None = None
) -> QuantizedTensor:
    """Return the codes of ``weight`` in a format with codes.

    ``moment`` is what a CalibratedQuantizer takes; others leave it aside.
    """
    algorithm = get_quantizer(quantizer)
    if fmt.kind == "sign":
        codes = sign_codes(weight)
        return QuantizedTensor(codes, codes.new_empty(0, dtype=torch.float32), None, fmt, tuple(weight.shape))
    if isinstance(algorithm, CalibratedQuantizer):
        return algorithm.quantize(weight, fmt, moment)
    return algorithm.quantize(weight, fmt)


def quantize_dequantize(
    weight: Tensor, fmt: Format, quantizer: str = "rtn", moment: Tensor | None = None
) -> Tensor:
    """Return the float32 values that a model in format ``fmt`` computes with.

    ``fp32`` returns ``weight`` itself; every other format a new tensor of its shape and device.
    """
    if fmt == FP32:
        get_quantizer(quantizer)
        return weight
    if fmt == FP16:
        get_quantizer(quantizer)
        return _through_float16(weight)
    return quantize(weight, fmt, quantizer, moment).dequantize()


def sqnr_db(weight: Tensor, dequantized: Tensor) -> float:
    """Return 10 log10(sum w² / sum (w - dq)²) in dB; infinite when nothing was lost."""
    reference = weight.detach().double()
    noise = float((reference - dequantized.detach().double()).square().sum())
    signal = float(reference.square().sum())
    if noise == 0.0:
        return inf
    return 10.0 * log10(signal / noise) if signal > 0.0 else -inf


def int_layout(fmt: Format) -> Layout:
    """Return the layout of a format with codes and scales; raise SettingError for any other."""
    if fmt.layout is None:
        raise SettingError(
            f"format {fmt} has no codes with a scale; use intBITS/GRANULARITY/SYMMETRY "
            "or ternary/GRANULARITY."
        )
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


def inside_groups(weight: Tensor, layout: Layout) -> Tensor | None:
    """Return float32 (1, groups, size): 1 for weights, 0 for what fills a short last group; None: all are."""
    columns = matrix_shape(tuple(weight.shape))[1]
    if layout.granularity != "group" or columns % min(layout.group_size, columns) == 0:
        return None
    return split_groups(torch.ones(1, columns, device=weight.device), layout)


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
