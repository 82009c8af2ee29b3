"""Number formats of stored weights as frozen values, and the bytes they need.

A format is written ``int4/channel/affine``, ``int3/group64/midrise``, ``int8/tensor/symmetric``,
``ternary/channel``, ``sign``, ``fp16`` or ``fp32``. What a code c stands for:

* ``affine``: (c - z) s with a whole zero point z, so that 0 is exact;
* ``offset``: (c - z) s with a float zero point z;
* ``symmetric``: c s for -(2^(b-1) - 1) ≤ c ≤ 2^(b-1) - 1, one code of 2^b unused;
* ``midrise``: (2c - (2^b - 1)) s for 0 ≤ c < 2^b: every code is used and none is 0; at 1 bit ±s;
* ``ternary``: -s, 0 or s.

The bytes are those of the packed file:

* codes: ``ceil(numel * bits / 8)`` bytes per tensor; ternary five to a byte;
* scales: one per tensor, per output channel (row) or per group of a row. Four bytes (float32) for a
  whole tensor or above 8 bits, else two (float16);
* zero points, one per scale: of ``affine`` one byte up to 8 bits and two above, of ``offset`` as a scale.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import ceil, prod
from typing import Literal, cast

from qslm_opt.errors import SettingError

Kind = Literal["int", "ternary", "sign", "float"]
Granularity = Literal["tensor", "channel", "group"]
Symmetry = Literal["affine", "offset", "symmetric", "midrise"]
SYMMETRIES: tuple[Symmetry, ...] = ("affine", "offset", "symmetric", "midrise")

Bits = float
"""A width: a whole number as int, or ``TERNARY_BITS``."""
TERNARY_BITS: Bits = 1.58
"""How the width log2(3) of a ternary weight is written."""
CODES_PER_BYTE = 5
"""Ternary codes in a byte: 3^5 = 243 of its 256 values."""
MAX_BITS = 16
WIDTHS: tuple[Bits, ...] = (*range(MAX_BITS, 1, -1), TERNARY_BITS, 1)
"""Every width that a search may try, falling."""
_SHARED_BITS: dict[Symmetry, range] = {
    "affine": range(2, MAX_BITS + 1),
    "offset": range(2, 9),  # float16 holds zero points of 8 bits to an eighth of a step
    "symmetric": range(2, MAX_BITS + 1),
    "midrise": range(1, MAX_BITS + 1),
}
_SCOPE = "(tensor|channel|group([0-9]{1,9}))"
_SYMMETRY = f"({'|'.join(SYMMETRIES)})"
_INT = re.compile(f"int([0-9]{{1,3}})/{_SCOPE}/{_SYMMETRY}")
_TERNARY = re.compile(f"ternary/{_SCOPE}")
_LAYOUT = re.compile(f"{_SCOPE}/{_SYMMETRY}")


def plain_bits(bits: Bits) -> Bits:
    """Return a width as it is written: whole numbers as int."""
    return int(bits) if float(bits).is_integer() else bits


@dataclass(frozen=True)
class Layout:
    """How an integer format shares its scales and places its codes, without the number of bits."""

    granularity: Granularity = "channel"
    group_size: int = 0
    """Weights of one row that share a scale; 0 unless ``granularity`` is ``group``."""
    symmetry: Symmetry = "affine"

    def __post_init__(self) -> None:
        grouped = self.granularity == "group"
        if self.group_size < 0 or grouped != (self.group_size > 0):
            raise SettingError(
                f"group size {self.group_size} does not go with granularity {self.granularity!r}; "
                "write for instance 'group64/affine'."
            )

    def __str__(self) -> str:
        return f"{self.scope}/{self.symmetry}"

    @property
    def scope(self) -> str:
        """What shares a scale: ``tensor``, ``channel`` or ``groupN``."""
        return f"group{self.group_size}" if self.granularity == "group" else self.granularity

    @property
    def has_zeros(self) -> bool:
        """Whether zero points are stored beside the scales."""
        return self.symmetry in ("affine", "offset")

    @classmethod
    def parse(cls, text: str) -> Layout:
        """Read ``channel/affine``, ``tensor/symmetric``, ``group64/midrise``, …"""
        match = _LAYOUT.fullmatch(text)
        if not match:
            raise SettingError(
                f"layout {text!r} is not GRANULARITY/SYMMETRY; write tensor, channel or groupN, "
                f"then {' or '.join(SYMMETRIES)}, for instance 'channel/affine'."
            )
        return _layout(match[1], match[2], match[3])

    def with_bits(self, bits: Bits) -> Format:
        """Return the format of ``bits`` with these scales.

        32 bits mean float32, 1.58 ternary, and 1 the two levels of a midrise grid, whatever the symmetry.
        """
        if bits == 32:
            return FP32
        if bits == TERNARY_BITS:
            return Format("ternary", TERNARY_BITS, Layout(self.granularity, self.group_size, "symmetric"))
        symmetry = "midrise" if bits == 1 else self.symmetry
        return Format("int", plain_bits(bits), Layout(self.granularity, self.group_size, symmetry))


def _layout(where: str, group: str | None, symmetry: str) -> Layout:
    granularity: Granularity = "group" if group else cast(Granularity, where)
    return Layout(granularity, int(group or 0), cast(Symmetry, symmetry))


@dataclass(frozen=True)
class Format:
    """One number format: what a stored weight looks like."""

    kind: Kind
    bits: Bits
    """Bits per weight: 1-16 for ``int``, 1.58 for ``ternary``, 1 for ``sign``, 16 or 32 for ``float``."""
    layout: Layout | None = None
    """Scales of an ``int`` or ``ternary`` format; None otherwise."""

    def __post_init__(self) -> None:
        allowed, wanted = self._widths()
        if self.bits not in allowed:
            shape = self.layout.symmetry if self.kind == "int" and self.layout else ""
            article = "an" if shape in ("affine", "offset") else "a"
            name = f"{article} {shape} format" if shape else "a format"
            raise SettingError(
                f"{self.bits} bits is not a width of {name} of kind {self.kind!r}; use {wanted} bits"
                f"{', 1.58 (ternary) or 1 (midrise)' if self.kind == 'int' else ''}."
            )
        if (self.kind in ("int", "ternary")) != (self.layout is not None):
            raise SettingError(f"format {self.kind}{self.bits} and its layout do not fit.")

    def _widths(self) -> tuple[tuple[Bits, ...] | range, str]:
        if self.kind == "int":
            widths = _SHARED_BITS[self.layout.symmetry if self.layout else "affine"]
            return widths, f"{widths[0]} to {widths[-1]}"
        widest = {"ternary": (TERNARY_BITS,), "sign": (1,), "float": (16, 32)}[self.kind]
        return widest, " or ".join(str(width) for width in widest)

    def __str__(self) -> str:
        if self.layout is None:
            return "sign" if self.kind == "sign" else f"fp{self.bits}"
        return f"ternary/{self.layout.scope}" if self.kind == "ternary" else f"int{self.bits}/{self.layout}"

    @classmethod
    def parse(cls, text: str) -> Format:
        """Read a format as ``str()`` writes it; raise SettingError that lists what is allowed."""
        if text in _NAMED:
            return _NAMED[text]
        if match := _TERNARY.fullmatch(text):
            return cls("ternary", TERNARY_BITS, _layout(match[1], match[2], "symmetric"))
        match = _INT.fullmatch(text)
        if not match:
            raise SettingError(
                f"format {text!r} is unknown; write fp32, fp16, sign, ternary/GRANULARITY, or "
                "intBITS/GRANULARITY/SYMMETRY such as 'int4/channel/affine'."
            )
        return cls("int", int(match[1]), _layout(match[2], match[3], match[4]))

    @property
    def levels(self) -> int:
        """How many values a code can have; 0 for floats."""
        if self.kind == "float":
            return 0
        if self.kind == "ternary":
            return 3
        unused = self.layout is not None and self.layout.symmetry == "symmetric"
        return int(2**self.bits) - unused

    @property
    def scale_bytes(self) -> int:
        """Bytes of one stored scale; 0 for formats without one."""
        if self.layout is None:
            return 0
        return 4 if self.layout.granularity == "tensor" or self.bits > 8 else 2

    @property
    def zero_bytes(self) -> int:
        """Bytes of one stored zero point; 0 for formats without one."""
        if self.layout is None or not self.layout.has_zeros:
            return 0
        if self.layout.symmetry == "offset":
            return self.scale_bytes
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

    def code_bytes(self, count: int) -> int:
        """Return the bytes of ``count`` packed codes."""
        if self.kind == "ternary":
            return -(-count // CODES_PER_BYTE)
        return -(-count * int(self.bits) // 8)

    def packed_bytes(self, shape: tuple[int, ...]) -> int:
        """Return the bytes of a tensor of ``shape`` in the packed file, scales and zeros included."""
        return self.code_bytes(prod(shape)) + self.scales(shape) * (self.scale_bytes + self.zero_bytes)


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return (rows, columns) as the quantizers see a tensor: a vector is one row."""
    if len(shape) < 2:
        return 1, prod(shape)
    return shape[0], prod(shape[1:])


FP32 = Format("float", 32)
FP16 = Format("float", 16)
SIGN = Format("sign", 1)
_NAMED = {"fp32": FP32, "fp16": FP16, "sign": SIGN}
