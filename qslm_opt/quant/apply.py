"""From a setting to the tensors that a model computes with; the originals are never touched."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from qslm_opt.errors import ModelError, NumericsError
from qslm_opt.formats import FP32, Format
from qslm_opt.quant.base import get_quantizer, quantize_dequantize

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from qslm_opt.hierarchy.tree import Hierarchy
    from qslm_opt.setting import QuantSetting

CACHE_BYTES = 2**30


class QuantizedView:
    """A model's tensors as any setting makes them, with the quantized ones cached.

    The cache keeps the tensors used last, up to ``cache_bytes``, so that settings which differ in one
    unit quantize one unit. What ``apply`` returned stays valid when the cache drops it.
    """

    def __init__(
        self, tensors: Mapping[str, Tensor], hierarchy: Hierarchy, cache_bytes: int = CACHE_BYTES
    ) -> None:
        """Keep a reference to ``tensors``; raise ModelError when one of the hierarchy is missing."""
        missing = [t.name for t in hierarchy.tensors() if t.name not in tensors]
        if missing:
            raise ModelError(
                f"the model has no tensor {missing[0]!r} ({len(missing)} missing in all); "
                "load the checkpoint that the hierarchy was made from."
            )
        self._tensors = dict(tensors)
        self._hierarchy = hierarchy
        self._ties = {t.name: t.tied_to for t in hierarchy.tensors() if t.live and t.tied_to is not None}
        self._cache: OrderedDict[tuple[str, Format, str], Tensor] = OrderedDict()
        self._cache_limit = cache_bytes
        self._cached = 0

    @property
    def cached_bytes(self) -> int:
        """Bytes of the quantized tensors that are kept."""
        return self._cached

    def apply(self, setting: QuantSetting) -> dict[str, Tensor]:
        """Return every tensor of the model by name.

        The original object where the format is fp32 and where the task never reads the tensor; a tied
        tensor is the same object as its source. Dtype and device are the originals'. Raises SettingError
        for an unknown unit, quantizer or format, NumericsError with the tensor's name.
        """
        get_quantizer(setting.quantizer)
        result = dict(self._tensors)
        for name, fmt in setting.resolve(self._hierarchy).items():
            result[name] = self._quantized(name, fmt, setting.quantizer)
        for name, source in self._ties.items():
            result[name] = result[source]
        return result

    def _quantized(self, name: str, fmt: Format, quantizer: str) -> Tensor:
        if fmt == FP32:
            return self._tensors[name]
        key = (name, fmt, quantizer if fmt.kind == "int" else "")
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        weight = self._tensors[name]
        try:
            value = quantize_dequantize(weight, fmt, quantizer).to(weight.dtype)
        except NumericsError as error:
            raise NumericsError(f"tensor {name!r}: {error}") from None
        self._keep(key, value)
        return value

    def _keep(self, key: tuple[str, Format, str], value: Tensor) -> None:
        """Cache a tensor and drop those unused for longest beyond the limit."""
        if _bytes(value) > self._cache_limit:
            return
        self._cache[key] = value
        self._cached += _bytes(value)
        while self._cached > self._cache_limit:
            _, dropped = self._cache.popitem(last=False)
            self._cached -= _bytes(dropped)


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
