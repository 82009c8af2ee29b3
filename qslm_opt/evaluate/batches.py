"""Task data as batches: enumerated, never random, the same for the same rows, size and strata."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from qslm_opt.models.family import Inputs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qslm_opt.data import TaskData

PAD = 0
"""Token id on padded positions; what a model computes from it counts only where the data says ``pad_to``."""


@dataclass(frozen=True)
class Batch:
    """Windows or sentences that are computed together."""

    inputs: Inputs
    targets: Tensor  # (B, T) next tokens, or (B,) labels
    n: int
    """Predicted tokens or sentences."""
    tokens: int
    """Tokens computed, padding left out."""
    members: tuple[int, ...]
    """Numbers of its sequences in the task's data."""

    @property
    def ids(self) -> Tensor:
        """Token ids [B, T] int64, padded on the right."""
        return self.inputs.ids

    @property
    def lengths(self) -> Tensor | None:
        """Tokens of each sentence [B]; None when nothing is padded."""
        return self.inputs.lengths


def make_batches(
    data: TaskData,
    rows: int,
    size: int | None,
    device: torch.device,
    strata: Sequence[Sequence[int]] | None = None,
) -> list[Batch]:
    """Cut ``data`` into batches of at most ``rows`` token positions, or of exactly ``size`` sequences.

    Windows keep their order, sentences are sorted by length so that little is padded. With ``strata``, groups
    of sentence numbers, a batch holds sentences of one group only.
    """
    if data.kind == "lm":
        groups = _windows(data.sequences, rows, size)
        return [_lm_batch(data, group, device) for group in groups]
    groups = []
    for stratum in strata or [range(len(data.sequences))]:
        groups += _sentences(data, stratum, rows, size)
    return [_class_batch(data, group, device) for group in groups]


def first_batch(data: TaskData, rows: int, device: torch.device) -> Batch:
    """Return the first sequences within ``rows`` positions: those no longer than the very first one."""
    longest = data.places(data.sequences[0])
    members = [0]
    for i in range(1, max(1, min(len(data.sequences), rows // longest))):
        length = data.places(data.sequences[i])
        if length > longest or (data.kind == "lm" and length != longest):
            break
        members.append(i)
    return _lm_batch(data, members, device) if data.kind == "lm" else _class_batch(data, members, device)


def _windows(sequences: Sequence[np.ndarray], rows: int, size: int | None) -> list[list[int]]:
    groups = []
    for length, run in groupby(range(len(sequences)), key=lambda i: len(sequences[i])):
        members = list(run)
        step = size or max(1, rows // max(1, length - 1))
        groups += [members[s : s + step] for s in range(0, len(members), step)]
    return groups


def _sentences(
    data: TaskData, members: Sequence[int], rows: int, size: int | None
) -> list[list[int]]:
    lengths = [data.places(ids) for ids in data.sequences]
    groups: list[list[int]] = []
    for i in sorted(members, key=lambda i: lengths[i]):
        full = not groups or (
            len(groups[-1]) == size if size else (len(groups[-1]) + 1) * lengths[i] > rows
        )
        if full:
            groups.append([])
        groups[-1].append(i)
    return groups


def _lm_batch(data: TaskData, members: list[int], device: torch.device) -> Batch:
    windows = np.stack([data.sequences[i] for i in members])
    ids = torch.from_numpy(windows.astype(np.int64)).to(device)
    n = ids.shape[0] * (ids.shape[1] - 1)
    return Batch(Inputs(ids[:, :-1].contiguous(), None), ids[:, 1:].contiguous(), n, n, tuple(members))


def _class_batch(data: TaskData, members: list[int], device: torch.device) -> Batch:
    assert data.labels is not None
    sentences = [data.sequences[i] for i in members]
    own = np.array([len(s) for s in sentences], np.int64)
    ids = np.full((len(sentences), max(map(data.places, sentences))), PAD, np.int64)
    for row, sentence in zip(ids, sentences, strict=True):
        row[: len(sentence)] = sentence
    labels = torch.from_numpy(np.asarray(data.labels)[members].astype(np.int64)).to(device)
    whole = data.pad_to is not None and not data.pads_alike
    lengths = None if whole else torch.from_numpy(own).to(device)
    tokens = len(sentences) * data.pad_to if data.pad_to else int(own.sum())
    pad_to = data.pad_to if data.pads_alike else None
    inputs = Inputs(torch.from_numpy(ids).to(device), lengths, pad_to=pad_to)
    return Batch(inputs, labels, len(members), tokens, tuple(members))
