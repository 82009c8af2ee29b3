"""The 1-bit format: only the sign is kept, as +1 or -1.

It is lossless for a tensor that the model reads through H(x) = 1 if x >= 0 else 0: both zeros fire,
so both are stored as +1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from qslm_opt.errors import NumericsError

if TYPE_CHECKING:
    from torch import Tensor


def sign_codes(weight: Tensor) -> Tensor:
    """Return int32 codes of ``weight``'s shape: +1 where it is >= 0 (0 and -0.0 too), else -1.

    Raises NumericsError when a weight is NaN; infinities have a sign and pass.
    """
    bad = int(weight.isnan().sum())
    if bad:
        raise NumericsError(
            f"{bad} of {weight.numel()} weights are NaN, which has no sign; repair the checkpoint."
        )
    fires = (weight.detach() >= 0).to(torch.int32)
    return fires * 2 - 1
