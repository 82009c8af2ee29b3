"""What a packed model computes with: the codes as they are stored, quantized once and for all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from qslm_opt.errors import SettingError
from qslm_opt.quant.apply import NO_PRODUCTS, held_bytes
from qslm_opt.quant.base import QuantizedTensor
from qslm_opt.quant.packed_tensor import PackedTensor

if TYPE_CHECKING:
    from qslm_opt.kernels.ops import MakeWeight, Weight
    from qslm_opt.setting import QuantSetting


class PackedView:
    """A packed model's tensors, in the form in which a ``QuantizedView`` gives those of its setting.

    The same codes reach the same functions: what is computed is bit for bit what the simulation computes.
    """

    def __init__(
        self,
        tensors: Mapping[str, PackedTensor | Tensor],
        setting: QuantSetting,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        weight: MakeWeight | None = None,
        products: Mapping[str, bool] = NO_PRODUCTS,
    ) -> None:
        """Keep the codes; ``weight`` and ``products`` are those of ``QuantizedView``."""
        self._packed, self._setting = dict(tensors), setting
        self._device, self._dtype = device, dtype
        self._weight = weight
        self._products = products if weight is not None else NO_PRODUCTS
        self._made: dict[str, Weight] = {}

    @property
    def cached_bytes(self) -> int:
        """Bytes of the tensors that are kept to compute with."""
        return sum(held_bytes(value) for value in {id(v): v for v in self._made.values()}.values())

    def clear(self) -> None:
        """Drop what is kept; the codes stay."""
        self._made.clear()

    def apply(self, setting: QuantSetting) -> dict[str, Weight]:
        """Return every tensor by name; raise SettingError for another setting than the packed one."""
        self._check(setting)
        if not self._made:
            plain: dict[int, Tensor] = {}
            for name, tensor in self._packed.items():
                if name in self._products:
                    self._made[name] = self._product(tensor, self._products[name])
                else:
                    if id(tensor) not in plain:
                        plain[id(tensor)] = self._dequantized(tensor).to(self._dtype)
                    self._made[name] = plain[id(tensor)]
        return dict(self._made)

    def codes(self, setting: QuantSetting) -> dict[str, QuantizedTensor | Tensor]:
        """Return name → codes, as ``QuantizedView.codes`` does; a tie has its source's."""
        self._check(setting)
        return {n: t.quantized() if isinstance(t, PackedTensor) else t for n, t in self._packed.items()}

    def _check(self, setting: QuantSetting) -> None:
        if setting.to_json() != self._setting.to_json():
            raise SettingError(
                "a packed model has the setting that it was packed with, and no other; give the original."
            )

    def _product(self, tensor: PackedTensor | Tensor, head: bool) -> Weight:
        assert self._weight is not None
        if isinstance(tensor, PackedTensor) and tensor.fmt.layout is not None:
            values, scale = tensor.quantized().factors()
            scale = None if scale is None else scale.to(self._device)
            return self._weight(values.to(self._device), scale, head=head)
        return self._weight(self._dequantized(tensor), None, head=head)

    def _dequantized(self, tensor: PackedTensor | Tensor) -> Tensor:
        values = tensor.dequantize() if isinstance(tensor, PackedTensor) else tensor.float()
        return values.to(self._device)
