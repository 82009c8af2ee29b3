"""The arithmetics that packed weights are measured against, each as something to run again and again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, linear

from qslm_opt.evaluate.generate import CompiledStepper
from qslm_opt.evaluate.plan import ROWS
from qslm_opt.formats import SIGN, Layout
from qslm_opt.kernels.ops import Ops, available_precisions, fast_ops, pick_precision
from qslm_opt.kernels.packed.place import hold, packed_ops
from qslm_opt.kernels.products import float32_products
from qslm_opt.models import spikegpt
from qslm_opt.models.resident import StoredModel
from qslm_opt.models.spikegpt import READ_BY_ROW
from qslm_opt.quant import quantize
from qslm_opt.quant.packed_tensor import PackedTensor
from qslm_opt.quant.resident_view import ResidentTensors

if TYPE_CHECKING:
    from qslm_opt.bench.shapes import Subject

BITS = (2, 3, 4, 8)
"""Widths of packed weights that are measured."""
_AT_ONCE = {"cpu": 16, "cuda": 256}
"""Tokens of one run of a generation."""
_SEED = 0
_NLL_ROWS = 2048


@dataclass(frozen=True)
class Arm:
    """One arithmetic."""

    label: str
    run: Callable[[], int]
    """Does some work and returns its tokens."""
    weight_bytes: int


def packed_model(subject: Subject, bits: int) -> StoredModel:
    """Return a model with channel/affine matrices, an embedding of signs, and the rest in float16."""
    tensors: dict[str, PackedTensor | Tensor] = {}
    for name, tensor in subject.model.tensors.items():
        if tensor.dim() != 2:
            tensors[name] = tensor.half()
            continue
        signs = name in READ_BY_ROW and subject.config.embedding_spikes
        tensors[name] = PackedTensor.of(quantize(tensor, SIGN if signs else Layout().with_bits(bits)))
    return _stored(subject, tensors, packed=True)


def _stored(subject: Subject, tensors: Mapping[str, Any], *, packed: bool) -> StoredModel:
    size = sum(tensor.nbytes for tensor in tensors.values())
    model = subject.model
    return StoredModel(subject.config, tensors, model.tokenizer, model.source, packed, size, size)


def generation_arms(subject: Subject) -> list[Arm]:
    """Return the arms of generation at batch 1; the first is float32 in the same kind of step."""
    plain = _stored(subject, subject.model.tensors, packed=False)
    if subject.device.type == "cpu":
        arms = [_compiled("fp32", plain), _torch_arm(subject)]
        return arms + [_compiled(f"packed {bits} bits", packed_model(subject, bits)) for bits in BITS]
    from qslm_opt.evaluate.generate_cuda import STEP_PRECISIONS

    arms = [_captured(name, plain, subject.device, name) for name in STEP_PRECISIONS]
    for bits in BITS:
        packed = packed_model(subject, bits)
        arms.append(_captured(f"packed {bits} bits", packed, subject.device, "fp32"))
    return arms


def _compiled(label: str, model: StoredModel) -> Arm:
    stepper = CompiledStepper(model)
    token = 0

    def run() -> int:
        nonlocal token
        for _ in range(_AT_ONCE["cpu"]):
            token = stepper.greedy(token)
        return _AT_ONCE["cpu"]

    return Arm(label, run, stepper.held_bytes)


def _captured(label: str, model: StoredModel, device: torch.device, precision: Any) -> Arm:
    from qslm_opt.evaluate.generate_cuda import GraphStepper

    stepper = GraphStepper(model, device, precision)

    def run() -> int:
        stepper.run_ahead(_AT_ONCE["cuda"])
        stepper.synchronise()
        return _AT_ONCE["cuda"]

    return Arm(label, run, stepper.held_bytes)


def _torch_arm(subject: Subject) -> Arm:
    """Return float32 through torch and the fast operations, one forward pass a token."""
    cfg, p, ops = subject.config, subject.model.tensors, fast_ops("cpu")
    ids, states = torch.zeros(1, 1, dtype=torch.long), None

    def run() -> int:
        nonlocal ids, states
        with torch.inference_mode():
            for _ in range(_AT_ONCE["cpu"]):
                h, states, _ = spikegpt.forward(p, cfg, ids, ops, states)
                ids = spikegpt.lm_logits(p, h)[0, 0].argmax().view(1, 1)
        return _AT_ONCE["cpu"]

    return Arm("fp32 torch", run, _bytes(p))


def evaluation_arms(subject: Subject, batch: int, window: int) -> list[Arm]:
    """Return the arms of evaluating ``batch`` windows at once; the first is float32.

    Packed weights compute at the precision that evaluations have by default.
    """
    device, model = subject.device, subject.model
    cuda = device.type == "cuda"
    arms = []
    for name in available_precisions(device.type):
        ops = fast_ops(device.type, name)
        p, size = subject.weights("lm", ops), subject.weight_bytes("lm", ops)
        arms.append(_evaluation(subject, name, ops, p, size, batch, window))
    if cuda:
        arms.append(_bf16(subject, batch, window))
    precision = pick_precision(device.type)
    ops = packed_ops(device.type, precision)
    for bits in BITS:
        held, size = hold(packed_model(subject, bits).tensors, device, READ_BY_ROW)
        asis = {*spikegpt.products(subject.config), *READ_BY_ROW}
        tensors = ResidentTensors(held, model.config.tensor_shapes(), asis)
        label = f"packed {bits} bits, {precision}"
        arms.append(_evaluation(subject, label, ops, tensors, size, batch, window))
    return arms


def _bf16(subject: Subject, batch: int, window: int) -> Arm:
    matrices = spikegpt.products(subject.config)
    on_device = {
        n: t.to(subject.device, torch.bfloat16 if n in matrices else torch.float32)
        for n, t in subject.model.tensors.items()
    }

    def narrow(x: Tensor, weight: Tensor) -> Tensor:
        return linear(x.to(torch.bfloat16), weight).float()

    def nll(h: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        parts = zip(h.split(_NLL_ROWS), targets.split(_NLL_ROWS), strict=True)
        return torch.cat([cross_entropy(narrow(part, weight), t, reduction="none") for part, t in parts])

    ops = replace(fast_ops("cuda", "fp32"), linear=narrow, nll=nll)
    return _evaluation(subject, "bf16", ops, on_device, _bytes(on_device), batch, window)


def _evaluation(
    subject: Subject, label: str, ops: Ops, p: Mapping[str, Any], weight_bytes: int, batch: int, window: int
) -> Arm:
    cfg, device = subject.config, subject.device
    generator = torch.Generator().manual_seed(_SEED)
    drawn = torch.randint(cfg.vocab_size, (2, batch, window), generator=generator).to(device)
    ids, targets = drawn.unbind(0)
    together = max(1, ROWS["lm"][device.type] // window)

    def run() -> int:
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            if device.type == "cuda":
                stack.enter_context(float32_products(tf32=ops.precision == "tf32"))
            for part, wanted in zip(ids.split(together), targets.split(together), strict=True):
                h, _, _ = spikegpt.forward(p, cfg, part, ops)
                float(ops.nll(h.flatten(0, 1), p["head.weight"], wanted.flatten()).sum())
        return batch * window

    return Arm(label, run, weight_bytes)


def _bytes(tensors: Mapping[str, Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in {id(t): t for t in tensors.values()}.values())
