"""The compiled token step against the plain forward pass over the weights that the codes stand for."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from qslm_opt.evaluate.generate import CompiledStepper  # noqa: E402
from qslm_opt.kernels.ops import REFERENCE  # noqa: E402
from qslm_opt.models import spikegpt  # noqa: E402
from tests.kernels.step_cases import small_model, weights_of  # noqa: E402

TOKENS = [3, 1, 4, 1, 5, 9, 2, 6]


def truth(model, tokens) -> tuple[torch.Tensor, int]:
    """Return the logits [T, V] of the float64 reference, and its spikes."""
    p = {name: tensor.double() for name, tensor in weights_of(model).items()}
    h, _, spikes = spikegpt.forward(p, model.config, torch.tensor([tokens]), REFERENCE)
    return spikegpt.lm_logits(p, h)[0], int(spikes.sum())


def answers(stepper: CompiledStepper, tokens) -> torch.Tensor:
    return torch.stack([torch.from_numpy(stepper.feed(token).copy()) for token in tokens])


@pytest.mark.parametrize(
    ("bits", "layout", "keys"),
    [
        (32, "channel/midrise", {}),
        (1.58, "channel/symmetric", {}),
        (1, "channel/midrise", {"n_ffn": 96}),
        (2, "group32/midrise", {}),
        (3, "channel/midrise", {"model_type": "RWKV-ffnPre"}),
        (4, "channel/affine", {"embed_spike": "off"}),
        (4, "tensor/symmetric", {"rescale_every": 2}),
        (8, "group16/offset", {"model_type": "RWKV-ffnPre", "rescale_every": 1}),
        (12, "channel/affine", {}),
    ],
)
def test_first_tokens_agree_with_the_plain_forward_pass(bits, layout, keys):
    """Logits within float32 rounding and the very same spikes, before a threshold can be met by chance."""
    model = small_model(bits, layout, **keys)
    stepper = CompiledStepper(model)
    found = answers(stepper, TOKENS)
    wanted, spikes = truth(model, TOKENS)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-4)
    assert stepper.spikes == spikes > 0


def test_the_perplexity_of_a_window_is_the_simulated_one():
    """Also where a spike falls the other way somewhere: within 1 % over 200 tokens."""
    model = small_model(3)
    tokens = torch.randint(0, 96, (201,), generator=torch.Generator().manual_seed(5)).tolist()
    wanted, _ = truth(model, tokens[:-1])
    found = answers(CompiledStepper(model), tokens[:-1])
    loss, targets = torch.nn.functional.cross_entropy, torch.tensor(tokens[1:])
    losses = [loss(logits.double(), targets) for logits in (found, wanted)]
    assert float((losses[0] - losses[1]).abs()) < 0.01


def test_a_new_text_begins_from_nothing():
    stepper = CompiledStepper(small_model(3))
    first = answers(stepper, TOKENS)
    stepper.restart()
    assert stepper.spikes == 0
    assert torch.equal(answers(stepper, TOKENS), first)


def test_packed_weights_are_a_small_part_of_float32():
    packed, plain = CompiledStepper(small_model(2)), CompiledStepper(small_model(32))
    assert packed.held_bytes < plain.held_bytes / 4
