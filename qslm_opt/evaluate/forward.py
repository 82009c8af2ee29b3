"""One batch through the model, from the deepest kept activations on, and what it came to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import cross_entropy

from qslm_opt.errors import NumericsError
from qslm_opt.evaluate.prefix import Boundary
from qslm_opt.evaluate.sums import Result, Spikes
from qslm_opt.models.family import Fired
from qslm_opt.models.registry import family_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from qslm_opt.evaluate.batches import Batch
    from qslm_opt.evaluate.plan import Part
    from qslm_opt.evaluate.prefix import PrefixCache
    from qslm_opt.kernels.ops import Ops, Weight
    from qslm_opt.models.config import ModelConfig
    from qslm_opt.models.family import Inputs

    Weights = Mapping[str, Weight]


class Forward:
    """Computes batches of one model with one set of operations."""

    def __init__(self, config: ModelConfig, ops: Ops) -> None:
        self._config, self._ops = config, ops
        self._family, self._spikes = family_of(config), Spikes(config)
        self.reused = False
        """Whether any batch since this was set to False began behind kept activations."""

    def body(
        self,
        tensors: Weights,
        inputs: Inputs,
        prefix: PrefixCache | None = None,
        index: int = -1,
        keys: Sequence[str] = (),
        *,
        keep: bool = False,
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return the stream behind the last block, and the spikes of each site, float64 scalars.

        Args:
            prefix: where to begin behind what ``keys`` name for batch number ``index``; None: nowhere.
            keep: keep the stream in front of each block there.
        """
        family, cfg, ops = self._family, self._config, self._ops
        fired = Fired(inputs)
        found = prefix.deepest(index, keys) if prefix else None
        if found:
            self.reused = True
            first, x = found[0], found[1].x
            fired.counts.update(found[1].spikes)
        else:
            first, x = 0, family.embed(tensors, cfg, inputs, ops, fired)
        for i in range(first, cfg.blocks):
            x = family.run_block(tensors, cfg, i, x, inputs, ops, fired)
            if prefix and keep:
                prefix.put(index, i + 1, Boundary(keys[i + 1], x, dict(fired.counts)))
        return x, fired.counts

    def result(
        self, tensors: Weights, keys: Sequence[str], part: Part, index: int, *, keep: bool, items: bool
    ) -> Result:
        """Compute batch number ``index`` of ``part``.

        Args:
            keys: ``boundary_keys`` of the setting whose weights these are; none: compute every block.
            keep: keep the stream in front of each block for later settings.
            items: give the loss of each window, too; a sentence's is always there.

        Raises:
            NumericsError: the logits hold NaN or infinity.
        """
        batch = part.batches[index]
        x, counts = self.body(tensors, batch.inputs, part.prefix, index, keys, keep=keep)
        h = self._family.finish(tensors, self._config, x, batch.inputs, self._ops)
        if part.data.kind == "lm":
            losses = self._token_losses(tensors, h, batch)
            correct, right = 0, None
            each = losses.reshape(batch.targets.shape).sum(1, dtype=torch.float64) if items else None
        else:
            losses, right = self._class_losses(tensors, h, batch)
            each, correct = losses, int(right.sum())
        nll = float(losses.sum(dtype=torch.float64))
        by_site = self._spikes.stacked(counts)
        fired = sum(by_site)
        if not (nll < float("inf") and fired < float("inf")):
            what = "logits" if fired < float("inf") else "currents"
            raise self._not_finite(f"{what} hold NaN or infinity (batch {index} of {len(part.batches)})")
        return Result(nll, correct, by_site, each, right)

    def _token_losses(self, tensors: Weights, h: Tensor, batch: Batch) -> Tensor:
        head = tensors[self._family.head(self._config)]
        return self._ops.nll(h.flatten(0, 1), head, batch.targets.flatten())

    def _class_losses(self, tensors: Weights, h: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the loss of each sentence, and whether it is right."""
        logits = self._family.class_logits(tensors, self._config, h, batch.inputs, self._ops)
        right = logits.argmax(dim=-1) == batch.targets
        return cross_entropy(logits, batch.targets, reduction="none"), right

    def _not_finite(self, what: str) -> NumericsError:
        precision = self._ops.precision
        narrow = precision in ("fp16", "split")  # float16 ends at 65504
        return NumericsError(
            f"the model's {what}; check the checkpoint, or raise the bits of the setting"
            + (f", or use --matmul fp32 instead of {precision}." if narrow else ".")
        )
