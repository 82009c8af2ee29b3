"""Number formats of stored weights as frozen values, and the bytes they need.

A format is written ``int4/channel/affine``, ``int3/group64/symmetric``, ``int8/tensor/affine``,
``sign``, ``fp16`` or ``fp32``. The bytes are those of the packed file:

* codes: ``ceil(numel * bits / 8)`` bytes per tensor;
* scales: one per tensor, per output channel (row) or per group of a row. Four bytes (float32) for a
  whole tensor or above 8 bits, else two (float16);
* zero points (affine only): one code per scale, in one byte up to 8 bits and two above.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import ceil, prod
from typing import Literal

from qslm_opt.errors import SettingError

Kind = Literal["int", "sign", "float"]
Granularity = Literal["tensor", "channel", "group"]

MIN_BITS, MAX_BITS = 2, 16
_INT = re.compile(r"int([0-9]{1,3})/(tensor|channel|group([0-9]{1,9}))/(affine|symmetric)")
_LAYOUT = re.compile(r"(tensor|channel|group([0-9]{1,9}))/(affine|symmetric)")


@dataclass(frozen=True)
class Layout:
    """How an integer format shares its scales, without the number of bits."""

    granularity: Granularity = "channel"
    group_size: int = 0
    """Weights of one row that share a scale; 0 unless ``granularity`` is ``group``."""
    symmetric: bool = False
    """True: no zero point, codes are centred on 0. False: affine with an exact zero."""

    def __post_init__(self) -> None:
        grouped = self.granularity == "group"
        if self.group_size < 0 or grouped != (self.group_size > 0):
            raise SettingError(
                f"group size {self.group_size} does not go with granularity {self.granularity!r}; "
                "write for instance 'group64/affine'."
            )

    def __str__(self) -> str:
        where = f"group{self.group_size}" if self.granularity == "group" else self.granularity
        return f"{where}/{'symmetric' if self.symmetric else 'affine'}"

    @classmethod
    def parse(cls, text: str) -> Layout:
        """Read ``channel/affine``, ``tensor/symmetric``, ``group64/affine``, …"""
        match = _LAYOUT.fullmatch(text)
        if not match:
            raise SettingError(
                f"layout {text!r} is not GRANULARITY/SYMMETRY; write tensor, channel or groupN, "
                "then affine or symmetric, for instance 'channel/affine'."
            )
        return _layout(match[1], match[2], match[3])

    def with_bits(self, bits: int) -> Format:
        """Return the integer format of ``bits`` in this layout (32 bits mean float32)."""
        return FP32 if bits == 32 else Format("int", bits, self)


def _layout(where: str, group: str | None, symmetry: str) -> Layout:
    granularity: Granularity = "group" if group else where  # type: ignore[assignment]
    return Layout(granularity, int(group or 0), symmetry == "symmetric")


@dataclass(frozen=True)
class Format:
    """One number format: what a stored weight looks like."""

    kind: Kind
    bits: int
    """Bits per weight: 2-16 for ``int``, 1 for ``sign``, 16 or 32 for ``float``."""
    layout: Layout | None = None
    """Scales of an ``int`` format; None otherwise."""

    def __post_init__(self) -> None:
        allowed = {"int": range(MIN_BITS, MAX_BITS + 1), "sign": (1,), "float": (16, 32)}[self.kind]
        if self.bits not in allowed:
            wanted = {"int": f"{MIN_BITS} to {MAX_BITS}", "sign": "1", "float": "16 or 32"}[self.kind]
            raise SettingError(
                f"{self.bits} bits is not a width of a format of kind {self.kind!r}; use {wanted} bits."
            )
        if (self.kind == "int") != (self.layout is not None):
            raise SettingError(f"format {self.kind}{self.bits} and its layout do not fit.")

    def __str__(self) -> str:
        if self.kind == "int":
            return f"int{self.bits}/{self.layout}"
        return "sign" if self.kind == "sign" else f"fp{self.bits}"

    @classmethod
    def parse(cls, text: str) -> Format:
        """Read a format as ``str()`` writes it; raise SettingError that lists what is allowed."""
        if text in _NAMED:
            return _NAMED[text]
        match = _INT.fullmatch(text)
        if not match:
            raise SettingError(
                f"format {text!r} is unknown; write fp32, fp16, sign, or intBITS/GRANULARITY/SYMMETRY "
                "such as 'int4/channel/affine'."
            )
        return cls("int", int(match[1]), _layout(match[2], match[3], match[4]))

    @property
    def scale_bytes(self) -> int:
        """Bytes of one stored scale; 0 for formats without one."""
        if self.layout is None:
            return 0
        return 4 if self.layout.granularity == "tensor" or self.bits > 8 else 2

    @property
    def zero_bytes(self) -> int:
        """Bytes of one stored zero point; 0 for formats without one."""
        if self.layout is None or self.layout.symmetric:
            return 0
        return 1 if self.bits <= 8 else 2

    def scales(self, shape: tuple[int, ...]) -> int:
        """Return how many scales a tensor of ``shape`` has in this format."""
        rows, columns = matrix_shape(shape)
        if self.layout is None:
            return 0
        if self.layout.granularity == "tensor":
            return 1
        if self.layout.granularity == "channel":
            return rows
        return rows * ceil(columns / self.layout.group_size)

    def packed_bytes(self, shape: tuple[int, ...]) -> int:
        """Return the bytes of a tensor of ``shape`` in the packed file, scales and zeros included."""
        codes = -(-prod(shape) * self.bits // 8)
        return codes + self.scales(shape) * (self.scale_bytes + self.zero_bytes)


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return (rows, columns) as the quantizers see a tensor: a vector is one row."""
    if len(shape) < 2:
        return 1, prod(shape)
    return shape[0], prod(shape[1:])


FP32 = Format("float", 32)
FP16 = Format("float", 16)
SIGN = Format("sign", 1)
_NAMED = {"fp32": FP32, "fp16": FP16, "sign": SIGN}
