"""Codes as bytes and back: the bit layout of the packed file.

Every code becomes a whole number u ≥ 0 of ``bits`` bits: affine, offset and midrise codes as they are,
symmetric ones plus 2^(bits-1) - 1, ternary ones plus 1, signs 1 for +1 and 0 for -1. The codes of a tensor
follow one another in row-major order as one stream of bits, least significant bit first: code i fills the
bits [i bits, (i + 1) bits) of the little-endian stream, and zeros fill the last byte. Ternary codes go five
to a byte: byte k is u[5k] + 3 u[5k+1] + 9 u[5k+2] + 27 u[5k+3] + 81 u[5k+4].
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from qslm_opt.errors import SettingError
from qslm_opt.formats import CODES_PER_BYTE

if TYPE_CHECKING:
    from torch import Tensor

    from qslm_opt.formats import Format

_AT_ONCE = 2**20
"""Codes that are spread into bits at once: a multiple of 8 and of 5 × 2^18."""
_POWERS = (1, 3, 9, 27, 81)


def code_offset(fmt: Format) -> int:
    """Return what is added to a code of ``fmt`` to make it a whole number of 0 or more."""
    if fmt.kind == "ternary":
        return 1
    if fmt.kind == "int" and fmt.layout is not None and fmt.layout.symmetry == "symmetric":
        return int(2 ** (fmt.bits - 1)) - 1
    return 0


def pack_codes(codes: Tensor, fmt: Format) -> Tensor:
    """Return the bytes (uint8, on the CPU) of int codes of any shape.

    Raises SettingError for a code that the format has not.
    """
    flat = codes.detach().reshape(-1).cpu().long()
    values = (flat > 0).long() if fmt.kind == "sign" else flat + code_offset(fmt)
    most = fmt.levels - 1
    if len(values) and (int(values.min()) < 0 or int(values.max()) > most):
        low, high = int(flat.min()), int(flat.max())
        raise SettingError(f"codes from {low} to {high} do not fit format {fmt}; quantize the weights again.")
    if fmt.kind == "ternary":
        return _pack_ternary(values)
    step = _AT_ONCE
    parts = [_pack_bits(values[i : i + step], int(fmt.bits)) for i in range(0, len(values), step)]
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.uint8)


def unpack_codes(data: Tensor, fmt: Format, count: int) -> Tensor:
    """Return the ``count`` int32 codes that ``pack_codes`` was given.

    Raises SettingError when the bytes are not as many as that needs.
    """
    needed = fmt.code_bytes(count)
    if data.numel() != needed:
        raise SettingError(
            f"{data.numel()} bytes cannot hold {count} codes of {fmt}: exactly {needed} do; "
            "the file is damaged, write it again."
        )
    data = data.cpu()
    if fmt.kind == "ternary":
        digits = data.long()[:, None] // torch.tensor(_POWERS) % 3
        return (digits.reshape(-1)[:count] - 1).to(torch.int32)
    bits, step = int(fmt.bits), _AT_ONCE
    parts = []
    for i in range(0, count, step):
        part = data[i * bits // 8 : -(-min(i + step, count) * bits // 8)]
        parts.append(_unpack_bits(part, bits, min(step, count - i)))
    values = torch.cat(parts) if parts else torch.empty(0, dtype=torch.int32)
    return 2 * values - 1 if fmt.kind == "sign" else values - code_offset(fmt)


def _pack_ternary(values: Tensor) -> Tensor:
    padded = torch.nn.functional.pad(values, (0, -len(values) % CODES_PER_BYTE))
    return (padded.reshape(-1, CODES_PER_BYTE) * torch.tensor(_POWERS)).sum(-1).to(torch.uint8)


def _pack_bits(values: Tensor, bits: int) -> Tensor:
    spread = (values[:, None] >> torch.arange(bits) & 1).reshape(-1)
    padded = torch.nn.functional.pad(spread, (0, -len(spread) % 8)).reshape(-1, 8)
    return (padded << torch.arange(8)).sum(-1).to(torch.uint8)


def _unpack_bits(data: Tensor, bits: int, count: int) -> Tensor:
    spread = (data.int()[:, None] >> torch.arange(8, dtype=torch.int32) & 1).reshape(-1)[: count * bits]
    return (spread.reshape(count, bits) << torch.arange(bits, dtype=torch.int32)).sum(-1).to(torch.int32)
