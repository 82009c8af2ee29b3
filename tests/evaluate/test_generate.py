"""Generation by any stepper: what is read, what is drawn, what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from qslm_opt.errors import NumericsError, UsageError
from qslm_opt.evaluate.generate import CompiledStepper, draw, generate
from tests.kernels.step_cases import small_model


class Counting:
    """Says that the next token is the last one plus one; remembers what it read."""

    kernel, dtype, device_name, held_bytes = "fake", "fp32", "cpu", 0

    def __init__(self, vocab: int = 10) -> None:
        self.read: list[int] = []
        self.restarts, self.vocab = 0, vocab

    def restart(self) -> None:
        self.restarts += 1

    def feed(self, token: int) -> np.ndarray:
        self.read.append(token)
        logits = np.zeros(self.vocab, np.float32)
        logits[(token + 1) % self.vocab] = 9.0
        return logits

    def greedy(self, token: int) -> int:
        return int(self.feed(token).argmax())

    def synchronise(self) -> None:
        pass


def test_every_token_is_read_once_and_the_last_is_only_said():
    stepper, told = Counting(), []
    made = generate(stepper, [4, 2], 3, told=told.append)
    assert made.tokens == (3, 4, 5) == tuple(told)
    assert stepper.read == [4, 2, 3, 4]
    assert (made.prompt_tokens, len(made.seconds), stepper.restarts) == (2, 3, 1)
    assert made.tokens_per_s * made.ms_per_token == pytest.approx(1e3)


def test_drawing_repeats_with_its_seed_and_follows_the_temperature():
    def some(temperature: float, seed: int) -> tuple[int, ...]:
        return generate(Counting(), [0], 40, temperature=temperature, seed=seed).tokens

    assert some(5.0, 1) == some(5.0, 1) != some(5.0, 2)
    assert some(0.01, 1) == some(0.0, 7)


def test_draws_have_the_shares_of_the_softmax():
    logits = np.log(np.array([0.1, 0.6, 0.3], np.float32))
    generator = np.random.default_rng(0)
    counts = np.bincount([draw(logits, 1.0, generator) for _ in range(4000)], minlength=3) / 4000
    assert np.abs(counts - [0.1, 0.6, 0.3]).max() < 0.03


def test_an_empty_prompt_is_refused():
    with pytest.raises(UsageError, match="--prompt"):
        generate(Counting(), [], 3)


def test_logits_that_are_no_numbers_are_refused():
    with pytest.raises(NumericsError, match="NaN"):
        draw(np.array([0.0, np.nan], np.float32), 1.0, np.random.default_rng(0))
    model = small_model(32)
    model.tensors["ln_out.bias"][3] = float("inf")
    with pytest.raises(NumericsError, match="NaN"):
        CompiledStepper(model).greedy(1)


def test_a_token_outside_the_vocabulary_is_refused():
    with pytest.raises(UsageError, match="vocabulary of 96"):
        CompiledStepper(small_model(32)).feed(96)
