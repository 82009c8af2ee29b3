"""What gives the engine the tensors of a setting: of a model, of a packed file, or codes that stay packed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from qslm_opt.errors import UsageError
from qslm_opt.kernels.packed.place import hold
from qslm_opt.models.registry import family_of
from qslm_opt.quant.apply import QuantizedView
from qslm_opt.quant.packed_view import PackedView
from qslm_opt.quant.resident_view import ResidentTensors, ResidentView

if TYPE_CHECKING:

    from qslm_opt.hierarchy.tree import Hierarchy
    from qslm_opt.kernels.ops import Ops
    from qslm_opt.models.loading import LoadedModel
    from qslm_opt.quant.apply import Moments, Tuner

View = QuantizedView | PackedView | ResidentView


def view_of(
    model: LoadedModel,
    hierarchy: Hierarchy,
    device: torch.device,
    dtype: torch.dtype,
    ops: Ops,
    cache_bytes: int,
    moments: Moments,
    tuner: Tuner | None,
) -> View:
    """Place a model on ``device`` for any setting; a packed one has the tensors of one setting."""
    products, weight = family_of(model.config).products(model.config), ops.weight
    if model.packed is not None:
        packed = model.packed
        return PackedView(packed.tensors, packed.setting, device, dtype, weight, products)
    on_device = {k: v.to(device, dtype) for k, v in model.tensors.items()}
    return QuantizedView(on_device, hierarchy, cache_bytes, weight, products, moments, tuner)


def resident_view(model: LoadedModel, device: torch.device, dtype: torch.dtype) -> ResidentView:
    """Place a packed model on ``device`` so that its codes are what is held; UsageError for another."""
    if model.packed is None or dtype != torch.float32:
        raise UsageError(
            f"packed kernels need a packed model and float32, not {model.source!r} in {dtype}; "
            "write one with 'qslm-opt model pack'."
        )
    packed, cfg = model.packed, model.config
    family = family_of(cfg)
    by_row = family.read_by_row(cfg)
    held, size = hold(packed.tensors, device, by_row)
    tensors = ResidentTensors(held, cfg.tensor_shapes(), {*family.products(cfg), *by_row})
    return ResidentView(tensors, packed.setting, size)
