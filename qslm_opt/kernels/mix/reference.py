"""LayerNorm and token-shift mixes in plain torch: the truth. Any float dtype, differentiable."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

EPS = 1e-5


def norm_shift_mix_reference(
    x: Tensor, weight: Tensor, bias: Tensor, last: Tensor, mixes: Sequence[Tensor]
) -> tuple[list[Tensor], Tensor]:
    """Normalise, then blend every token with the one before it, once per mix.

    Args:
        x: residual stream [B, T, D].
        weight, bias: LayerNorm parameters [D], eps 1e-5.
        last: normalised token before the first [B, D]; zeros at the start of a window.
        mixes: blend factors m [D] each: ``h·m + shift(h)·(1 − m)``.

    Returns:
        One [B, T, D] tensor per mix, and the normalised last token [B, D].
    """
    h = layer_norm(x, x.shape[-1:], weight, bias, EPS)
    before = torch.cat((last.unsqueeze(1), h[:, :-1]), dim=1)
    return [h * m + before * (1 - m) for m in mixes], h[:, -1]
