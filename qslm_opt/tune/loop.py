"""The tuning loop: teacher, student, divergence, schedule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import cos, isfinite, pi
from time import perf_counter
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import linear

from qslm_opt.errors import NumericsError
from qslm_opt.kernels.ops import fast_ops
from qslm_opt.kernels.products import float32_products
from qslm_opt.models.family import Fired
from qslm_opt.models.registry import family_of
from qslm_opt.train.stepper import BETAS, CLIP
from qslm_opt.train.surrogate import TRAINING
from qslm_opt.tune.batches import Batches
from qslm_opt.tune.config import TuneConfig, TuneReport
from qslm_opt.tune.student import Student

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qslm_opt.data import TaskData
    from qslm_opt.kernels.ops import Ops
    from qslm_opt.models.config import ModelConfig

_WARM_UP_SHARE = 0.05
LONG = 30.0
"""Seconds of work left from which progress is told, ten times in all."""
_PLAIN_STEPS = 3
"""Plain steps on a side stream before the step is recorded as a CUDA graph."""


def tune(
    student: Student,
    tensors: Mapping[str, Tensor],
    cfg: ModelConfig,
    data: TaskData,
    config: TuneConfig,
    narrate: Callable[[str], None],
    stop: Callable[[], bool] = lambda: False,
) -> TuneReport:
    """Move ``student`` towards the model of ``tensors`` (float32, on the device to compute on).

    The loss is the Kullback-Leibler divergence from the teacher's predictions to the student's, in nats a
    token or sentence (Hinton et al. 2015, at temperature 1). ``stop`` is asked after every step.

    Raises:
        NumericsError: the loss became NaN.
    """
    start = perf_counter()
    run = _Run(student, tensors, cfg, data, config)
    losses: list[Tensor] = []
    for step in range(config.steps):
        losses.append(run.step(_share(step, config.steps)))
        if (step + 1) % max(1, config.steps // 10) == 0:
            loss = float(losses[-1])
            if not isfinite(loss):
                raise NumericsError(
                    f"the loss of tuning is {loss} at step {step + 1}; use fewer steps or more bits."
                )
            spent = perf_counter() - start
            left = spent / (step + 1) * (config.steps - step - 1)
            if left > LONG:
                narrate(f"step {step + 1} of {config.steps}, divergence {loss:.4f} nats, {left:.0f} s left")
        if stop():
            break
    tenth = max(1, len(losses) // 10)
    return TuneReport(
        steps=len(losses), seconds=perf_counter() - start,
        first_loss=float(torch.stack(losses[:tenth]).mean()),
        last_loss=float(torch.stack(losses[-tenth:]).mean()),
        changed_codes=student.changed_codes(), device=run.device_name,
    )  # fmt: skip


def _share(step: int, steps: int) -> float:
    """Return the share of the highest learning rate: linear warm-up, then half a cosine."""
    done = (step + 1) / steps
    return min(done / _WARM_UP_SHARE, 1.0) * (1 + cos(pi * step / steps)) / 2


class _Run:
    """One step, as a plain call or a recorded CUDA graph."""

    def __init__(
        self, student: Student, tensors: Mapping[str, Tensor], cfg: ModelConfig, data: TaskData,
        config: TuneConfig,
    ) -> None:  # fmt: skip
        self._student, self._cfg, self._lm = student, cfg, data.kind == "lm"
        self._teacher = dict(tensors)
        self._family = family_of(cfg)
        device = next(iter(self._teacher.values())).device
        self._cuda = device.type == "cuda"
        self.device_name = torch.cuda.get_device_name(device) if self._cuda else "cpu"
        self._batches = Batches(data, config, device)
        self._ops = replace(fast_ops(device.type, "tf32" if self._cuda else "fp32"), weight=None)
        self._rates = [config.code_rate, config.scale_rate, config.vector_rate]
        latents = student.latents.values()
        groups = [[x.steps for x in latents], [x.growth for x in latents], list(student.floats.values())]
        self._now = [torch.zeros((), device=device) for _ in groups]
        self._optimizer = torch.optim.Adam(
            [{"params": g, "lr": rate} for g, rate in zip(groups, self._now, strict=True) if g],
            lr=torch.zeros((), device=device), betas=BETAS, fused=True, capturable=self._cuda,
        )  # fmt: skip
        with torch.no_grad():
            self._wanted = torch.zeros_like(self._taught())
        self._loss = torch.zeros((), device=device)
        self._replay: Callable[[], None] = self._plain
        if self._cuda:
            self._record()

    def step(self, share: float) -> Tensor:
        """Draw a batch, take one step at this share of the rates, and return its loss (a scalar)."""
        for now, rate in zip(self._now, self._rates, strict=True):
            now.fill_(rate * share)
        self._draw()
        with float32_products(tf32=self._cuda):
            self._replay()
        return self._loss.clone()

    def _draw(self) -> None:
        """The next batch, and what the teacher makes of it: its last states, or its class logits."""
        self._batches.draw()
        taught = self._taught()
        with torch.no_grad():
            self._wanted.copy_(taught)

    def _taught(self) -> Tensor:
        with torch.inference_mode(), float32_products(tf32=self._cuda):
            return self._outputs(self._teacher, self._ops)

    def _outputs(self, p: Mapping[str, Tensor], ops: Ops) -> Tensor:
        """Return the last states [B, T, D] of a language model, or class logits [B, C]."""
        family, cfg, inputs = self._family, self._cfg, self._batches.inputs
        h = family.forward(p, cfg, inputs, ops, Fired(None))
        return h if self._lm else family.class_logits(p, cfg, h, inputs, ops)

    def _plain(self) -> None:
        self._optimizer.zero_grad(set_to_none=True)
        p = self._student.tensors()
        found = self._outputs(p, TRAINING)
        if self._lm:
            head = self._family.head(self._cfg)
            found = linear(found, p[head]).flatten(0, 1).log_softmax(-1)
            with torch.no_grad():
                wanted = linear(self._wanted, self._teacher[head]).flatten(0, 1).log_softmax(-1)
        else:
            found, wanted = found.log_softmax(-1), self._wanted.log_softmax(-1)
        loss = (wanted.exp() * (wanted - found)).sum(-1).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._student.parameters(), CLIP)
        self._optimizer.step()
        self._loss.copy_(loss.detach())

    def _record(self) -> None:
        """Record the step as a CUDA graph; a few steps at rate 0 before it change nothing."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_PLAIN_STEPS):
                self._draw()
                with float32_products(tf32=True):
                    self._plain()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        self._optimizer.zero_grad(set_to_none=True)
        with float32_products(tf32=True), torch.cuda.graph(graph):
            self._plain()
        self._replay = graph.replay
        for state in self._optimizer.state.values():
            for value in state.values():
                value.zero_()
