"""Simulated weight quantization: one algorithm a file, all behind ``quantize_dequantize``.

``rtn`` is the correct round-to-nearest, ``mse`` clips where the squared error is least, ``hqq`` fits float
zero points, ``gptq`` makes up for errors over calibration text, ``paper`` is the published quantizer with
its faults. Float and sign formats do not depend on the algorithm.
"""

from __future__ import annotations

from qslm_opt.quant import gptq as _gptq  # noqa: F401  registers "gptq"
from qslm_opt.quant import hqq as _hqq  # noqa: F401  registers "hqq"
from qslm_opt.quant import mse as _mse  # noqa: F401  registers "mse"
from qslm_opt.quant import paper as _paper  # noqa: F401  registers "paper"
from qslm_opt.quant import rtn as _rtn  # noqa: F401  registers "rtn"
from qslm_opt.quant.apply import QuantizedView
from qslm_opt.quant.base import (
    QuantizedTensor,
    Quantizer,
    get_quantizer,
    is_calibrated,
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
    "is_calibrated",
    "quantize",
    "quantize_dequantize",
    "quantizer_names",
    "sqnr_db",
]
