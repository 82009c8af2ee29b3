"""What the student sees: random windows or sentences of the calibration text, in fixed tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from qslm_opt.errors import DataError
from qslm_opt.models.family import Inputs

if TYPE_CHECKING:
    from torch import Tensor

    from qslm_opt.data import TaskData
    from qslm_opt.tune.config import TuneConfig

_LONGEST = 0.995
"""Sentences are cut to the length that this share of them does not exceed: few long ones pad all."""


class Batches:
    """Draws the next batch: ``ids`` [B, T] and, for sentences with padding, their ``lengths`` [B]."""

    def __init__(self, data: TaskData, config: TuneConfig, device: torch.device) -> None:
        self._generator = torch.Generator().manual_seed(config.seed)
        self.lengths: Tensor | None = None
        self._pad_to = data.pad_to if data.pads_alike else None
        if data.kind == "lm":
            rows = _windows(data, config.window)
            self._rows = torch.from_numpy(rows).to(device)
            self._lengths = None
        else:
            rows, lengths = _sentences(data)
            self._rows = torch.from_numpy(rows).to(device)
            whole = data.pad_to is not None and not data.pads_alike
            self._lengths = None if whole else torch.from_numpy(lengths).to(device)
        width = self._rows.shape[1]
        count = max(1, min(config.tokens // width, len(self._rows)))
        self.ids = self._rows.new_zeros(count, width)
        if self._lengths is not None:
            self.lengths = self._lengths.new_ones(count)

    @property
    def inputs(self) -> Inputs:
        """The batch; its tensors are the same ones in every step."""
        return Inputs(self.ids, self.lengths, pad_to=self._pad_to)

    def draw(self) -> None:
        """Fill the tensors with other rows."""
        chosen = torch.randint(len(self._rows), (len(self.ids),), generator=self._generator)
        chosen = chosen.to(self._rows.device)
        self.ids.copy_(self._rows[chosen])
        if self.lengths is not None and self._lengths is not None:
            self.lengths.copy_(self._lengths[chosen])


def _windows(data: TaskData, window: int) -> np.ndarray:
    """Cut the text into windows, [N, T]; the last ids, too few for one, are left out."""
    stream = np.concatenate([ids[:-1] for ids in data.sequences])
    size = min(window, len(stream))
    if not size:
        raise DataError(f"the calibration text of split {data.split!r} is empty; give one with text.")
    count = len(stream) // size
    return stream[: count * size].reshape(count, size)


def _sentences(data: TaskData) -> tuple[np.ndarray, np.ndarray]:
    """Return padded ids [N, T] and lengths [N]."""
    longest = data.pad_to or int(np.quantile([len(ids) for ids in data.sequences], _LONGEST))
    cut = [ids[:longest] for ids in data.sequences]
    rows = np.zeros((len(cut), max(map(data.places, cut))), np.int64)
    for row, ids in zip(rows, cut, strict=True):
        row[: len(ids)] = ids
    return rows, np.array([len(ids) for ids in cut], np.int64)
