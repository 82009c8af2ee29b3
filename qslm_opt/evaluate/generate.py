"""Text from a language model, one token at a time: batch 1, the state carried along."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Protocol

import numpy as np

from qslm_opt.errors import NumericsError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qslm_opt.models.resident import StoredModel


class Stepper(Protocol):
    """A model that reads one token after the other."""

    kernel: str
    """``compiled`` or ``graph``, and what the weights are multiplied by."""
    dtype: str
    """Precision of the products."""

    @property
    def held_bytes(self) -> int:
        """Bytes that the weights take in the memory of the device, scales and tables included."""

    @property
    def device_name(self) -> str:
        """As results name it."""

    def restart(self) -> None:
        """Begin a new text."""

    def feed(self, token: int) -> NDArray[np.float32]:
        """Read a token and return the next one's logits [V], valid until the next call."""

    def greedy(self, token: int) -> int:
        """Read a token and return the most likely next one."""

    def synchronise(self) -> None:
        """Wait until the device has done what was asked of it."""


@dataclass(frozen=True)
class Generation:
    """What was generated, and how long it took."""

    tokens: tuple[int, ...]
    prompt_tokens: int
    prompt_seconds: float
    seconds: tuple[float, ...]
    """Of each generated token: choosing it and reading it."""

    @property
    def total_seconds(self) -> float:
        """Seconds of all generated tokens."""
        return sum(self.seconds)

    @property
    def ms_per_token(self) -> float:
        """Mean milliseconds of a token."""
        return 1e3 * self.total_seconds / len(self.seconds)

    @property
    def ms_median(self) -> float:
        """Median milliseconds of a token."""
        return 1e3 * median(self.seconds)

    @property
    def tokens_per_s(self) -> float:
        """Tokens per second."""
        return len(self.seconds) / self.total_seconds


def generate(
    stepper: Stepper,
    prompt: Sequence[int],
    tokens: int,
    *,
    temperature: float = 0.0,
    seed: int = 0,
    told: Callable[[int], None] = lambda token: None,
) -> Generation:
    """Continue a prompt by ``tokens`` tokens.

    Args:
        prompt: token ids, at least one.
        temperature: 0 always takes the most likely token; else logits are divided by it and drawn from.
        seed: of the drawing.
        told: called with each generated token.

    Raises:
        UsageError: the prompt has no token.
        NumericsError: the logits hold NaN or infinity.
    """
    if not len(prompt):
        raise UsageError("the prompt has no tokens; give --prompt a text that is not empty.")
    generator = np.random.default_rng(seed)
    stepper.restart()
    start = perf_counter()
    for token in prompt[:-1]:
        stepper.feed(token)
    stepper.synchronise()
    prompt_seconds = perf_counter() - start
    found: list[int] = []
    seconds: list[float] = []
    last = prompt[-1]
    for _ in range(tokens):
        start = perf_counter()
        last = stepper.greedy(last) if temperature == 0 else draw(stepper.feed(last), temperature, generator)
        seconds.append(perf_counter() - start)
        found.append(last)
        told(last)
    return Generation(tuple(found), len(prompt), prompt_seconds, tuple(seconds))


def draw(logits: NDArray[np.float32], temperature: float, generator: np.random.Generator) -> int:
    """Return a token drawn from ``softmax(logits / temperature)``; NumericsError unless all are finite."""
    check_finite(logits)
    scaled = (logits.astype(np.float64) - float(logits.max())) / temperature
    share = np.cumsum(np.exp(scaled))
    place = np.searchsorted(share, generator.random() * share[-1], side="right")
    return min(int(place), len(logits) - 1)


def check_finite(logits: NDArray[np.float32]) -> None:
    """Raise NumericsError when a logit is NaN or infinite."""
    if not np.isfinite(logits).all():
        raise NumericsError(
            "the model's logits hold NaN or infinity; check the checkpoint, or raise the bits of the setting."
        )


class CompiledStepper:
    """A model on the CPU: one compiled function a token, whatever formats its weights have."""

    kernel = "numba-step"
    dtype = "fp32"
    device_name = "cpu"

    def __init__(self, model: StoredModel) -> None:
        """Lay the weights out; the first token compiles the step where no cache of it is found."""
        from qslm_opt.kernels.packed.arena import build_arena
        from qslm_opt.models import token_step
        from qslm_opt.models.spikegpt import READ_BY_ROW

        self._code, self.config = token_step, model.config
        self.arena = build_arena(model.tensors, alone=READ_BY_ROW)
        self._plan = token_step.plan_of(model.config, self.arena)
        self._work = token_step.new_scratch(model.config, self.arena)
        self._logits = np.empty((1, model.config.vocab_size), np.float32)
        self.spikes = 0
        """Since the text began."""
        self.restart()

    @property
    def held_bytes(self) -> int:
        """Bytes of codes, scales, zero points, float tensors, and of the table that finds them."""
        return self.arena.held_bytes

    def restart(self) -> None:
        """Begin a new text."""
        self._state, self.spikes = self._code.new_state(self.config), 0

    def feed(self, token: int) -> NDArray[np.float32]:
        """Read a token and return the next one's logits [V]."""
        if not 0 <= token < self.config.vocab_size:
            raise UsageError(f"token {token} is no row of a vocabulary of {self.config.vocab_size}.")
        arena = self.arena
        self.spikes += self._code.step(
            arena.views, arena.table, self._plan, self._state, token, self._work, self._logits
        )
        logits: NDArray[np.float32] = self._logits[0]
        return logits

    def greedy(self, token: int) -> int:
        """Read a token and return the most likely next one; NumericsError when there is none."""
        logits = self.feed(token)
        best = int(logits.argmax())
        if not np.isfinite(logits[best]):
            check_finite(logits)
        return best

    def synchronise(self) -> None:
        """Do nothing: nothing runs behind."""
