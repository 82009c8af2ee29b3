"""Simulated weight quantization: one algorithm a file, all behind ``quantize_dequantize``.

``rtn`` is the correct round-to-nearest, ``paper`` the published quantizer with its faults; float and
sign formats do not depend on the algorithm.
"""

from __future__ import annotations

from qslm_opt.quant import paper as _paper  # noqa: F401  registers "paper"
from qslm_opt.quant import rtn as _rtn  # noqa: F401  registers "rtn"
from qslm_opt.quant.apply import QuantizedView
from qslm_opt.quant.base import (
    QuantizedTensor,
    Quantizer,
    get_quantizer,
    quantize,
    quantize_dequantize,
    quantizer_names,
    sqnr_db,
)

__all__ = [
    "QuantizedTensor",
    "QuantizedView",
    "Quantizer",
    "get_quantizer",
    "quantize",
    "quantize_dequantize",
    "quantizer_names",
    "sqnr_db",
]
