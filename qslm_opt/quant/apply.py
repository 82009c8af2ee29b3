"""From a setting to what a model computes with; the originals are never touched."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from qslm_opt.errors import ModelError, NumericsError, SettingError
from qslm_opt.formats import FP32, Format
from qslm_opt.quant.base import (
    QuantizedTensor,
    get_quantizer,
    is_calibrated,
    quantize,
    quantize_dequantize,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qslm_opt.hierarchy.tree import Hierarchy
    from qslm_opt.kernels.ops import MakeWeight, Weight
    from qslm_opt.setting import QuantSetting

NO_PRODUCTS: Mapping[str, bool] = MappingProxyType({})
Moments = Callable[[], "Mapping[str, Tensor]"]
"""Gives the mean of x xᵀ over the inputs x of each matrix, by its name."""
Stop = Callable[[], bool]
"""Says whether what takes long is to be given up."""
Tuner = Callable[
    ["QuantSetting", "Mapping[str, Tensor]", Moments, Stop], "Mapping[str, QuantizedTensor | Tensor]"
]
"""Gives the stored tensors of a tuned setting, by name, from the originals; StoppedError when it stops."""


def never() -> bool:
    """Say that nothing is to be given up."""
    return False


_KEPT_TUNED = 8
"""Tuned settings whose codes are kept: they are measured on the searched data, then on held-back data."""
CACHE_BYTES = {"cpu": 2**31, "cuda": 2**34}
"""Most memory of the quantized tensors that are kept, by device type."""


class QuantizedView:
    """A model's tensors as any setting makes them, with the quantized ones cached.

    The cache keeps the tensors used last, up to ``cache_bytes``, so that settings which differ in one
    unit quantize one unit. What ``apply`` returned stays valid when the cache drops it.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        hierarchy: Hierarchy,
        cache_bytes: int = CACHE_BYTES["cpu"],
        weight: MakeWeight | None = None,
        products: Mapping[str, bool] = NO_PRODUCTS,
        moments: Moments = dict,
        tuner: Tuner | None = None,
    ) -> None:
        """Keep a reference to ``tensors``; raise ModelError when one of the hierarchy is missing.

        With ``weight`` the live tensors of ``products`` (name → whether it is the language-model head) come
        out as what it makes of them: codes keep their scale apart, so that products see whole numbers.
        ``moments`` is asked by quantizers that are calibrated, ``tuner`` for settings that are tuned.
        """
        missing = [t.name for t in hierarchy.tensors() if t.name not in tensors]
        if missing:
            raise ModelError(
                f"the model has no tensor {missing[0]!r} ({len(missing)} missing in all); "
                "load the checkpoint that the hierarchy was made from."
            )
        self._tensors = dict(tensors)
        self._hierarchy = hierarchy
        self._ties = {t.name: t.tied_to for t in hierarchy.tensors() if t.live and t.tied_to is not None}
        self._readers = {s: [s, *(n for n, o in self._ties.items() if o == s)] for s in self._ties.values()}
        live = {t.name for t in hierarchy.tensors() if t.live}
        self._weight, self._moments, self._tuner = weight, moments, tuner
        self._tuned: OrderedDict[str, Mapping[str, QuantizedTensor | Tensor]] = OrderedDict()
        self._products = {n: head for n, head in products.items() if weight is not None and n in live}
        self._cache: OrderedDict[tuple[str, Format, str], Weight] = OrderedDict()
        self._cache_limit = cache_bytes
        self._cached = 0

    @property
    def cached_bytes(self) -> int:
        """Bytes of the quantized tensors that are kept."""
        return self._cached

    def clear(self) -> None:
        """Drop what is cached."""
        self._cache.clear()
        self._tuned.clear()
        self._cached = 0

    def apply(self, setting: QuantSetting) -> dict[str, Weight]:
        """Return every tensor of the model by name.

        The original object where the format is fp32 and where the task never reads the tensor; a tied
        tensor is the same object as its source. Dtype and device are the originals'. What products read is
        instead what ``weight`` made of it, where the view has one. Raises SettingError
        for an unknown unit, quantizer or format, NumericsError with the tensor's name.
        """
        get_quantizer(setting.quantizer)
        if setting.tune:
            return self._apply_tuned(setting)
        result: dict[str, Weight] = dict(self._tensors)
        formats = setting.resolve(self._hierarchy)
        for name, fmt in formats.items():
            result[name] = self._quantized(name, name, fmt, setting.quantizer)
        for name, source in self._ties.items():
            alike = name not in self._products and source not in self._products
            result[name] = (
                result[source] if alike else self._quantized(name, source, formats[source], setting.quantizer)
            )
        return result

    def codes(self, setting: QuantSetting) -> dict[str, QuantizedTensor | Tensor]:
        """Return what ``apply`` computes with, as a packed file stores it: counted name → codes.

        A tensor in a float format comes in that type. Raises as ``apply`` does.
        """
        get_quantizer(setting.quantizer)
        if setting.tune:
            return dict(self._tuned_codes(setting))
        return {
            name: self._codes(name, fmt, setting.quantizer)
            for name, fmt in setting.resolve(self._hierarchy).items()
        }

    def tune(self, setting: QuantSetting, stop: Stop = never) -> None:
        """Tune a setting that says so, unless its codes are kept; StoppedError when ``stop`` says so."""
        if setting.tune:
            self._tuned_codes(setting, stop)

    def _tuned_codes(
        self, setting: QuantSetting, stop: Stop = never
    ) -> Mapping[str, QuantizedTensor | Tensor]:
        """Return the codes of a tuned setting; the last few are kept, tuning takes long."""
        key = setting.to_json()
        if key not in self._tuned:
            if self._tuner is None:
                raise SettingError(
                    f"the setting is tuned by {setting.tune} steps, and here is no calibration text to tune "
                    "on; give the task and data of its study."
                )
            self._tuned[key] = self._tuner(setting, self._tensors, self._moments, stop)
            if len(self._tuned) > _KEPT_TUNED:
                self._tuned.popitem(last=False)
        return self._tuned[key]

    def _apply_tuned(self, setting: QuantSetting) -> dict[str, Weight]:
        result: dict[str, Weight] = dict(self._tensors)
        for source, made in self._tuned_codes(setting).items():
            for name in self._readers.get(source, [source]):
                result[name] = self._made(name, made)
        return result

    def _made(self, name: str, made: QuantizedTensor | Tensor) -> Weight:
        """Return what ``name`` computes with in these codes."""
        if name in self._products and isinstance(made, QuantizedTensor) and made.fmt.layout is not None:
            assert self._weight is not None
            return self._weight(*made.factors(), head=self._products[name])
        values = made.dequantize() if isinstance(made, QuantizedTensor) else made.float()
        if name in self._products:
            assert self._weight is not None
            return self._weight(values, None, head=self._products[name])
        return values.to(self._tensors[name].dtype)

    def _codes(self, name: str, fmt: Format, quantizer: str) -> QuantizedTensor | Tensor:
        weight = self._tensors[name]
        try:
            if fmt.kind == "float":
                dtype = torch.float16 if fmt.bits == 16 else torch.float32
                return quantize_dequantize(weight, fmt, quantizer).to(dtype)
            return quantize(weight, fmt, quantizer, self._moment(name, fmt, quantizer))
        except NumericsError as error:
            raise NumericsError(f"tensor {name!r}: {error}") from None

    def _quantized(self, name: str, source: str, fmt: Format, quantizer: str) -> Weight:
        """Return what ``name`` is in a format that ``source``, itself or what it is tied to, has."""
        product = name in self._products
        if fmt == FP32 and not product:
            return self._tensors[source]
        key = (name if product else source, fmt, quantizer if fmt.layout is not None else "")
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        weight = self._tensors[source]
        try:
            if product:
                value = self._product(name, source, fmt, quantizer)
            else:
                moment = self._moment(source, fmt, quantizer)
                value = quantize_dequantize(weight, fmt, quantizer, moment).to(weight.dtype)
        except NumericsError as error:
            raise NumericsError(f"tensor {source!r}: {error}") from None
        self._keep(key, value)
        return value

    def _product(self, name: str, source: str, fmt: Format, quantizer: str) -> Weight:
        assert self._weight is not None
        weight, head = self._tensors[source], self._products[name]
        if fmt.layout is None:
            return self._weight(quantize_dequantize(weight, fmt, quantizer), None, head=head)
        moment = self._moment(source, fmt, quantizer)
        return self._weight(*quantize(weight, fmt, quantizer, moment).factors(), head=head)

    def _moment(self, source: str, fmt: Format, quantizer: str) -> Tensor | None:
        """Return the moment of what reads ``source``, itself or a tie to it: one set of codes is stored."""
        if fmt.layout is None or not is_calibrated(quantizer):
            return None
        moments = self._moments()
        return next((moments[n] for n in self._readers.get(source, [source]) if n in moments), None)

    def _keep(self, key: tuple[str, Format, str], value: Weight) -> None:
        """Cache a tensor and drop those unused for longest beyond the limit."""
        if held_bytes(value) > self._cache_limit:
            return
        self._cache[key] = value
        self._cached += held_bytes(value)
        while self._cached > self._cache_limit:
            _, dropped = self._cache.popitem(last=False)
            self._cached -= held_bytes(dropped)


def held_bytes(value: object) -> int:
    """Return the bytes of the tensors that a weight holds."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if is_dataclass(value):
        return sum(held_bytes(getattr(value, field.name)) for field in fields(value))
    return 0
