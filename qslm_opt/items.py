"""Items: what an evaluation found for each sentence or window, compact enough to be stored."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_LOSS, _TOKENS = "<f4", "<i4"
MOST = 10**8
"""Items of the longest stored list."""


@dataclass(frozen=True, eq=False)
class Items:
    """Outcomes by the number of the sentence or window in the task's data."""

    losses: NDArray[np.float32]
    """(N,) summed negative log likelihood, in nats; 0 where not ``seen``."""
    tokens: NDArray[np.int32] | None
    """(N,) predicted tokens of each window; None for sentences."""
    right: NDArray[np.bool_] | None
    """(N,) whether each sentence is; None for windows."""
    seen: NDArray[np.bool_]
    """(N,) whether it was computed before the run ended."""

    @classmethod
    def empty(cls, count: int, tokens: Sequence[int] | None) -> Items:
        """Return items of ``count`` sentences, or of windows with so many predicted ``tokens``."""
        return cls(
            np.zeros(count, np.float32),
            None if tokens is None else np.array(tokens, np.int32),
            np.zeros(count, bool) if tokens is None else None,
            np.zeros(count, bool),
        )

    def add(self, members: Sequence[int], losses: Any, right: Any) -> None:
        """Write what was found for ``members``: arrays (len(members),); ``right`` is None for windows."""
        places = list(members)
        self.losses[places] = losses
        self.seen[places] = True
        if self.right is not None:
            self.right[places] = right

    def __len__(self) -> int:
        return len(self.losses)

    @property
    def complete(self) -> bool:
        """Whether all were computed."""
        return bool(self.seen.all())

    @property
    def sums(self) -> tuple[Floats, Floats]:
        """Losses and tokens of each window, float64 (N,)."""
        assert self.tokens is not None
        return self.losses.astype(np.float64), self.tokens.astype(np.float64)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready object of a complete run: a bit and four bytes a sentence, eight a window."""
        assert self.complete
        found = {"n": len(self), "losses": _text(self.losses.astype(_LOSS))}
        if self.tokens is not None:
            return {**found, "tokens": _text(self.tokens.astype(_TOKENS))}
        assert self.right is not None
        return {**found, "right": _text(np.packbits(self.right))}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Items:
        """Rebuild from ``to_json``; ValueError or KeyError for what cannot be."""
        n = value["n"]
        if type(n) is not int or not 0 < n <= MOST or ("tokens" in value) == ("right" in value):
            raise ValueError(f"{str(n)[:20]} items")
        losses = _array(value["losses"], _LOSS, n).astype(np.float32)
        tokens = right = None
        if "tokens" in value:
            tokens = _array(value["tokens"], _TOKENS, n).astype(np.int32)
        else:
            right = np.unpackbits(_array(value["right"], "u1", -(-n // 8)), count=n).astype(bool)
        sound = bool(np.isfinite(losses).all() and (tokens is None or (tokens > 0).all()))
        if not sound:
            raise ValueError("a loss that is not finite, or a window without tokens")
        return cls(losses, tokens, right, np.ones(n, bool))


def _text(values: NDArray[Any]) -> str:
    return b64encode(values.tobytes()).decode("ascii")


def _array(text: Any, kind: str, count: int) -> NDArray[Any]:
    found = np.frombuffer(b64decode(text, validate=True), kind)
    if len(found) != count:
        raise ValueError(f"{len(found)} values for {count} items")
    return found
