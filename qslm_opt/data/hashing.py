"""A short hash that names evaluation data: the same hash, the same tokens in the same order."""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

HASH_DIGITS = 16


def data_hash(
    task: str,
    split: str,
    window: int | None,
    sequences: Sequence[NDArray[np.int64]],
    labels: NDArray[np.int64] | None,
) -> str:
    """Return the first 16 hex digits of SHA-256 over task, split, window, every id and every label.

    Each sequence is preceded by its length, so that moving a boundary changes the hash; integers are
    little-endian 64 bit on every machine.
    """
    digest = sha256(json.dumps([task, split, window, len(sequences)]).encode())
    for ids in sequences:
        digest.update(_bytes(np.array([ids.size])))
        digest.update(_bytes(ids))
    if labels is not None:
        digest.update(b"labels")
        digest.update(_bytes(labels))
    return digest.hexdigest()[:HASH_DIGITS]


def _bytes(values: NDArray[np.int64]) -> bytes:
    return np.ascontiguousarray(values, dtype="<i8").tobytes()
