"""A task's data as an engine computes it: cut into batches, with what is kept of earlier runs over them."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qslm_opt.evaluate.batches import Batch, make_batches
from qslm_opt.evaluate.order import Evidence
from qslm_opt.evaluate.prefix import PrefixCache

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch

    from qslm_opt.data import TaskData
    from qslm_opt.models.config import ModelConfig

ROWS = {"lm": {"cpu": 4096, "cuda": 2**19}, "classification": {"cpu": 768, "cuda": 2**19}}
"""Most token positions per batch, by task kind and device type, of all time steps together. Small batches of
sentences pad little."""
PREFIX_BYTES = {"cpu": 2 * 10**9, "cuda": 32 * 10**9}
"""Most memory of the activations kept at block boundaries."""
BATCH_SHARE, PREFIX_SHARE = 0.25, 0.35
"""Most of a GPU's memory for one batch's activations, and of what is free of it for the boundaries."""


@dataclass(frozen=True)
class Part:
    """Data that is computed together: all of it, or an even share."""

    data: TaskData
    batches: list[Batch]
    evidence: Evidence
    prefix: PrefixCache
    strata: Sequence[Sequence[int]] | None
    """Groups of sentence numbers, each in batches of its own; None: the data's order."""


class Plan:
    """Which batches there are now; all sizes of a GPU's memory are decided here."""

    def __init__(
        self,
        data: TaskData,
        config: ModelConfig,
        device: torch.device,
        memory: tuple[int, int],
        *,
        batch: int | None,
        itemsize: int,
        prefix_bytes: int | None,
    ) -> None:
        """Cut ``data`` into batches.

        Args:
            memory: free and all bytes of the device.
            batch: windows or sentences per batch; None packs about ``ROWS`` token positions, fewer where
                memory is short.
            itemsize: bytes of one activation.
            prefix_bytes: bound of the boundary cache; None takes ``PREFIX_BYTES``.
        """
        free, total = memory
        kind = device.type
        most = min(PREFIX_BYTES[kind], int(PREFIX_SHARE * free))
        self._config, self._device, self._itemsize = config, device, itemsize
        self._prefix_limit = most if prefix_bytes is None else prefix_bytes
        fitting = max(1, int(BATCH_SHARE * total / (itemsize * config.widest)))
        self._size, self._rows = batch, min(max(1, ROWS[data.kind][kind] // config.timesteps), fitting)
        self._shares: dict[int, Part] = {}
        self._now = self._part(data)

    def _part(self, data: TaskData, strata: Sequence[Sequence[int]] | None = None) -> Part:
        batches = make_batches(data, self._rows, self._size, self._device, strata)
        positions = sum(b.ids.numel() for b in batches)
        width = self._config.stream_width * self._itemsize
        prefix = PrefixCache(self._prefix_limit, positions * width, self._config.blocks)
        return Part(data, batches, Evidence(batches), prefix, strata)

    @property
    def now(self) -> Part:
        """What is computed now."""
        return self._now

    @property
    def batches(self) -> list[Batch]:
        """The batches that are computed now."""
        return self._now.batches

    def stratify(self, strata: Sequence[Sequence[int]]) -> None:
        """Put each group of sentence numbers into batches of its own."""
        self._now = self._part(self._now.data, strata)

    @contextmanager
    def on_share(self, every: int) -> Iterator[None]:
        """Stand on every so many-th sequence inside: with batches and kept activations of its own."""
        if every == 1:
            yield
            return
        whole = self._now
        try:
            if every not in self._shares:
                self._shares[every] = self._part(whole.data.every(every))
            self._now = self._shares[every]
            yield
        finally:
            self._now = whole

    def forget(self) -> None:
        """Cut all data into batches again; nothing kept fits them any more."""
        self._shares.clear()
        self._now = self._part(self._now.data, self._now.strata)

    def largest(self) -> tuple[int, int]:
        """Return sequences and tokens of the batch with the most positions."""
        sequences, length = max(self.batches, key=lambda batch: batch.ids.numel()).ids.shape
        return sequences, length

    def halve(self, positions: int) -> None:
        """Cut batches to half of ``positions``, what the largest had, and keep half as much."""
        if self._size is not None:
            self._size = max(1, self._size // 2)
        self._rows = max(1, min(self._rows, positions) // 2)
        self._prefix_limit //= 2
        self.forget()
