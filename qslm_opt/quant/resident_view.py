"""What a packed model computes with where its codes stay packed: nothing is dequantized beforehand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from qslm_opt.errors import SettingError

if TYPE_CHECKING:
    from qslm_opt.kernels.ops import Weight
    from qslm_opt.quant.base import QuantizedTensor
    from qslm_opt.setting import QuantSetting


class Held(Protocol):
    """A packed weight in the memory of a device."""

    def vector(self) -> Tensor:
        """All its weights, float32 and flat."""


class ResidentTensors(Mapping[str, "Weight"]):
    """Name → weight: matrices as they are held, everything else dequantized anew whenever it is asked for."""

    def __init__(
        self, held: Mapping[str, Held], shapes: Mapping[str, tuple[int, ...]], asis: set[str]
    ) -> None:
        """Keep references; those named in ``asis`` are read by products or by rows."""
        self._held, self._shapes, self._asis = held, shapes, asis

    def __getitem__(self, name: str) -> Weight:
        held = self._held[name]
        return held if name in self._asis else held.vector().reshape(self._shapes[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)


class ResidentView:
    """In place of a ``PackedView``: the tensors of the one setting that a packed model has."""

    def __init__(self, tensors: ResidentTensors, setting: QuantSetting, held_bytes: int) -> None:
        """Take tensors, their setting, and the bytes that they hold in memory."""
        self._tensors, self._setting, self.held_bytes = tensors, setting, held_bytes

    cached_bytes = 0
    """Nothing is kept besides the codes."""

    def clear(self) -> None:
        """Do nothing: there is nothing to drop."""

    def apply(self, setting: QuantSetting) -> ResidentTensors:
        """Return every tensor by name; raise SettingError for another setting than the packed one."""
        if setting.to_json() != self._setting.to_json():
            raise SettingError(
                "a packed model has the setting it was packed with and no other; give the original model."
            )
        return self._tensors

    def codes(self, setting: QuantSetting) -> dict[str, QuantizedTensor | Tensor]:
        """Refuse: the codes lie in the order in which they are read fastest."""
        raise SettingError(
            "weights that run packed are laid out for speed and give no codes back; load the file without "
            "packed kernels."
        )
