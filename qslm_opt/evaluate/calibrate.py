"""Calibration: what the matrices of the unquantized model read on text that no study is measured on."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from qslm_opt.errors import NumericsError
from qslm_opt.evaluate.batches import make_batches
from qslm_opt.kernels.ops import fast_ops
from qslm_opt.kernels.products import float32_products
from qslm_opt.models.family import Fired
from qslm_opt.models.registry import family_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qslm_opt.data import TaskData
    from qslm_opt.kernels.ops import Operand, Weight
    from qslm_opt.kernels.products import Current
    from qslm_opt.models.config import ModelConfig

ROWS = 4096
"""Most token positions per batch, of all time steps together."""


class _Recorder:
    """Sums x xᵀ of every matrix product; products know their weight only as an object."""

    def __init__(self, names: Mapping[int, str]) -> None:
        self._names = names
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        self.weights: Tensor | None = None
        """(B, T) tokens that each position stands for, 0 on padding; None when all for one."""

    def add(self, x: Tensor, weight: Weight) -> None:
        name, count, x = self._names[id(weight)], x.numel() // x.shape[-1], x.float()
        if self.weights is not None and x.shape[-3:-1] == self.weights.shape:
            inside, x = self.weights > 0, x.reshape(-1, *self.weights.shape, x.shape[-1])
            x = x[:, inside] * self.weights[inside].sqrt()[:, None]
            count = len(x) * int(self.weights.sum())
        rows = x.flatten(0, -2)
        moment = (rows.T @ rows).double()
        self.sums[name] = self.sums[name] + moment if name in self.sums else moment
        self.counts[name] = self.counts.get(name, 0) + count


def input_moments(
    tensors: Mapping[str, Tensor], config: ModelConfig, data: TaskData, device: torch.device
) -> dict[str, Tensor]:
    """Return the mean of x xᵀ, float32 [K, K] on ``device``, over the inputs x of every matrix product.

    By the name of the matrix. Computed with float32 products, padding left out. Raises NumericsError when an
    input is not finite.
    """
    p = {name: tensor.to(device, torch.float32) for name, tensor in tensors.items()}
    family = family_of(config)
    recorder = _Recorder({id(p[name]): name for name in family.products(config)})
    ops = fast_ops(device.type, "fp32")
    compute = ops.linear

    def linear(x: Operand, weight: Weight) -> Current:
        recorder.add(x, weight)
        return compute(x, weight)

    ops = replace(ops, linear=linear, weight=None)
    most, strata = max(1, ROWS // config.timesteps), _of_one_length(data) if family.tokens_anywhere else None
    with torch.inference_mode(), float32_products(tf32=False):
        for batch in make_batches(data, most, None, device, strata):
            recorder.weights = batch.inputs.weights()
            h = family.forward(p, config, batch.inputs, ops, Fired(None))
            if data.kind == "lm":
                recorder.add(h, p[family.head(config)])
            else:
                family.class_logits(p, config, h, batch.inputs, ops)
    return {name: _mean(name, total, recorder.counts[name]) for name, total in recorder.sums.items()}


def _of_one_length(data: TaskData) -> list[list[int]]:
    """Return the numbers of the sentences of each length: batches of them have no padding."""
    found: dict[int, list[int]] = {}
    for number, ids in enumerate(data.sequences):
        found.setdefault(data.places(ids), []).append(number)
    return list(found.values())


def _mean(name: str, total: Tensor, count: int) -> Tensor:
    mean = (total / count).float()
    if not bool(torch.isfinite(mean).all()):
        raise NumericsError(
            f"what {name!r} reads on the calibration text is not finite; repair the checkpoint, or use a "
            "quantizer without calibration such as mse."
        )
    return mean
