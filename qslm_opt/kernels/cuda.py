"""The Triton version of the operations: float32 on a CUDA device."""

from __future__ import annotations

from qslm_opt.kernels.lif.cuda import lif_add
from qslm_opt.kernels.mix.cuda import norm_shift_mix, relu2
from qslm_opt.kernels.ops import Ops
from qslm_opt.kernels.wkv.cuda import gated_wkv

TRITON = Ops("triton", norm_shift_mix, gated_wkv, lif_add, relu2)
