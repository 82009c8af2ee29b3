"""The quantized model in training: its tensors as the setting stores them, all of which may learn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from qslm_opt.formats import FP16
from qslm_opt.quant.base import QuantizedTensor, quantize, quantize_dequantize
from qslm_opt.tune.latent import Latent, is_tunable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from qslm_opt.hierarchy.tree import Hierarchy
    from qslm_opt.setting import QuantSetting

Stored = QuantizedTensor | torch.Tensor


class Student:
    """Matrices of codes are Latents; what the setting stores as floats learns as it is.

    What stays: a tensor of which the model reads only the sign, a number that neurons compute with, and one
    that the task never reads.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        hierarchy: Hierarchy,
        setting: QuantSetting,
        moments: Callable[[], Mapping[str, Tensor]],
    ) -> None:
        """Begin with what ``setting`` makes of ``tensors``; ``moments`` is asked by calibrated quantizers."""
        self._formats = setting.resolve(hierarchy)
        self._stays = {t.name for t in hierarchy.tensors() if t.sign_only or t.exact}
        self._ties = {t.name: t.tied_to for t in hierarchy.tensors() if t.live and t.tied_to is not None}
        self._tensors = {name: tensor.detach() for name, tensor in tensors.items()}
        self.latents: dict[str, Latent] = {}
        self.floats: dict[str, Tensor] = {}
        self._constant: dict[str, QuantizedTensor] = {}
        for name, fmt in self._formats.items():
            weight = self._tensors[name]
            if fmt.layout is None and fmt.kind == "float":
                if name not in self._stays:
                    start = quantize_dequantize(weight, fmt, setting.quantizer).float().clone()
                    self.floats[name] = start.requires_grad_()
                continue
            made = quantize(weight, fmt, setting.quantizer, moments().get(name))
            if is_tunable(fmt, tuple(weight.shape)) and name not in self._stays:
                self.latents[name] = Latent(weight, made)
            else:
                self._constant[name] = made
        self._fixed = {name: made.dequantize() for name, made in self._constant.items()}

    def parameters(self) -> list[Tensor]:
        """Return everything that learns."""
        latents = self.latents.values()
        return [*(x.steps for x in latents), *(x.growth for x in latents), *self.floats.values()]

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor that the model computes with, by name."""
        found: dict[str, Tensor] = {**self._tensors, **self._fixed, **self.floats}
        found.update({name: latent.value() for name, latent in self.latents.items()})
        found.update({name: found[source] for name, source in self._ties.items()})
        return found

    def stored(self) -> dict[str, Stored]:
        """Return every live tensor as a file holds it: codes with scales, or floats in their format."""
        found: dict[str, Stored] = dict(self._constant)
        found.update({name: latent.quantized() for name, latent in self.latents.items()})
        for name, fmt in self._formats.items():
            if name not in found:
                value = self.floats.get(name, self._tensors[name]).detach()
                found[name] = value.half() if fmt == FP16 else value.float()
        return found

    def changed_codes(self) -> float:
        """Return the share of the codes that are others than at the start."""
        count = sum(x.steps.numel() for x in self.latents.values())
        return sum(x.changed() for x in self.latents.values()) / max(1, count)
