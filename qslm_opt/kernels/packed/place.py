"""Which packed kernels a device has, and a model's tensors in its memory."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from qslm_opt.errors import DeviceError

if TYPE_CHECKING:
    from qslm_opt.kernels.ops import Ops
    from qslm_opt.kernels.packed.reference import Packed
    from qslm_opt.kernels.products import Precision


def packed_ops(device: str, precision: Precision) -> Ops:
    """Return the operations over weights that stay packed on a device type (``cpu`` or ``cuda``).

    DeviceError for a CUDA device without Triton.
    """
    if device == "cpu":
        from qslm_opt.kernels.packed.held import PACKED_NUMBA

        return PACKED_NUMBA
    if device == "cuda" and find_spec("triton"):
        from qslm_opt.kernels.packed.cuda import packed_triton_ops

        return packed_triton_ops(precision)
    raise DeviceError(f"packed kernels for device {device!r} need Triton; install it, or use --device cpu.")


def hold(
    tensors: Mapping[str, Packed | Tensor], device: torch.device, alone: Collection[str]
) -> tuple[dict[str, Any], int]:
    """Return name → what ``packed_ops`` take, and the bytes that all of it holds on ``device``.

    Tensors that are one object are held once; the rows of those in ``alone`` are read one by one.
    """
    if device.type == "cpu":
        from qslm_opt.kernels.packed.arena import build_arena
        from qslm_opt.kernels.packed.held import Buffer, HeldWeight

        arena, buffer = build_arena(tensors, alone), Buffer()
        return {n: HeldWeight(arena, row, buffer) for n, row in arena.index.items()}, arena.held_bytes
    from qslm_opt.kernels.packed.cuda import CudaWeight

    once = {id(tensor): CudaWeight.of(tensor, device) for tensor in tensors.values()}
    return {n: once[id(t)] for n, t in tensors.items()}, sum(weight.held_bytes for weight in once.values())
