"""A model on a CUDA device, one token at a time: the whole step is one captured graph.

Every arithmetic is captured alike, so that what differs between two of them is the weights, not Python.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import linear

from qslm_opt.errors import NumericsError, UsageError
from qslm_opt.evaluate.generate import check_finite
from qslm_opt.kernels.ops import fast_ops
from qslm_opt.kernels.packed.place import hold, packed_ops
from qslm_opt.kernels.products import float32_products
from qslm_opt.models import spikegpt
from qslm_opt.models.spikegpt import READ_BY_ROW, BlockState

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from qslm_opt.kernels.ops import Ops
    from qslm_opt.models.resident import StoredModel

StepPrecision = Literal["fp32", "tf32", "bf16"]
STEP_PRECISIONS: tuple[StepPrecision, ...] = ("fp32", "tf32", "bf16")
_WARM = 3
"""Steps that run before one is captured."""


class GraphStepper:
    """One window on a CUDA device; the graph reads and writes the same memory at every token."""

    def __init__(self, model: StoredModel, device: torch.device, precision: StepPrecision = "fp32") -> None:
        """Place the weights and capture the step.

        Args:
            precision: of the products of float weights; codes are multiplied in float32.
        """
        self.config, self.device = model.config, device
        self.dtype: str = precision
        self.kernel = "graph-packed" if model.packed else "graph"
        self._halves = self._floats = torch.empty(0, device=device)
        if model.packed:
            self._tensors, self.held_bytes = self._hold(model)
            self._ops: Ops = packed_ops("cuda", "fp32")
        else:
            self._tensors, self.held_bytes = self._place(model)
            self._ops = _plain_ops(precision)
        self._ids = torch.zeros(1, 1, dtype=torch.long, device=device)
        self._logits = torch.zeros(model.config.vocab_size, device=device)
        like = torch.zeros(1, device=device)
        self._states = [spikegpt.empty_state(1, self.config.n_embd, like) for _ in range(self.config.n_layer)]
        self._graph = self._capture()
        self.restart()

    @property
    def device_name(self) -> str:
        """The device as torch counts it, and what its maker calls it."""
        return f"{self.device} {torch.cuda.get_device_name(self.device)}"

    def _place(self, model: StoredModel) -> tuple[dict[str, Tensor], int]:
        """Return float tensors on the device, matrices in the type of the products, and their bytes."""
        matrices = spikegpt.products(model.config)
        found: dict[int, Tensor] = {}
        for name, tensor in model.tensors.items():
            assert isinstance(tensor, Tensor)
            narrow = self.dtype == "bf16" and name in matrices
            found[id(tensor)] = tensor.to(self.device, torch.bfloat16 if narrow else torch.float32)
        held = sum(t.numel() * t.element_size() for t in found.values())
        return {name: found[id(tensor)] for name, tensor in model.tensors.items()}, held

    def _hold(self, model: StoredModel) -> tuple[dict[str, Any], int]:
        """Return packed weights on the device, and their bytes.

        What is stored as float16 and is no matrix lies together, and becomes float32 in one piece at each
        token: that piece is working memory.
        """
        asis = {*spikegpt.products(model.config), *READ_BY_ROW}
        halves = {
            n: t
            for n, t in model.tensors.items()
            if n not in asis and isinstance(t, Tensor) and t.dtype == torch.float16
        }  # fmt: skip
        rest = {n: t for n, t in model.tensors.items() if n not in halves}
        held, size = hold(rest, self.device, READ_BY_ROW)
        flat = [t.reshape(-1) for t in halves.values()]
        self._halves = torch.cat(flat).to(self.device) if flat else self._halves.half()
        self._floats = self._halves.float()
        shapes = {n: tuple(t.shape) for n, t in rest.items()}
        found: dict[str, Any] = {n: w if n in asis else _Vector(w, shapes[n]) for n, w in held.items()}
        pieces = self._floats.split([len(t) for t in flat]) if flat else ()
        for (name, tensor), piece in zip(halves.items(), pieces, strict=True):
            found[name] = piece.view(tensor.shape)
        return found, size + 2 * self._halves.numel()

    def _step(self) -> None:
        """Run one token from and to the memory of the graph; the best next token is read next."""
        if self._halves.numel():
            self._floats.copy_(self._halves)
        p = {n: t.whole() if isinstance(t, _Vector) else t for n, t in self._tensors.items()}
        h, after, _ = spikegpt.forward(p, self.config, self._ids, self._ops, self._states)
        self._logits.copy_(spikegpt_logits(self._ops, p, h)[0, 0])
        for state, new in zip(self._states, after, strict=True):
            _copy_state(state, new)
        self._ids.copy_(self._logits.argmax().view(1, 1))

    def _capture(self) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        side = torch.cuda.Stream(self.device)
        tf32 = self.dtype == "tf32"
        with torch.cuda.device(self.device), torch.inference_mode(), float32_products(tf32=tf32):
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(_WARM):
                    self._step()
            torch.cuda.current_stream().wait_stream(side)
            with torch.cuda.graph(graph):
                self._step()
        return graph

    def restart(self) -> None:
        """Begin a new text."""
        empty = spikegpt.empty_state(1, self.config.n_embd, torch.zeros(1, device=self.device))
        with torch.inference_mode():
            for state in self._states:
                _copy_state(state, empty)
            self._ids.zero_()

    def feed(self, token: int) -> NDArray[np.float32]:
        """Read a token and return the next one's logits [V]."""
        self._read(token)
        return self._logits.cpu().numpy()

    def greedy(self, token: int) -> int:
        """Read a token and return the most likely next one; NumericsError when there is none."""
        self._read(token)
        best = int(self._ids.item())
        if not bool(torch.isfinite(self._logits[best])):
            check_finite(self._logits.cpu().numpy())
            raise NumericsError("the model's logits hold NaN or infinity; check the checkpoint.")
        return best

    def _read(self, token: int) -> None:
        if not 0 <= token < self.config.vocab_size:
            raise UsageError(f"token {token} is no row of a vocabulary of {self.config.vocab_size}.")
        with torch.inference_mode():
            self._ids.fill_(token)
        self._graph.replay()

    def run_ahead(self, tokens: int) -> None:
        """Read the best next token again and again, with no word from the host; see ``synchronise``."""
        for _ in range(tokens):
            self._graph.replay()

    def synchronise(self) -> None:
        """Wait until the device has done what was asked of it."""
        torch.cuda.synchronize(self.device)


class _Vector:
    """A packed tensor that no product reads: dequantized at every token."""

    def __init__(self, held: Any, shape: tuple[int, ...]) -> None:
        self._held, self._shape = held, shape

    def whole(self) -> Tensor:
        found: Tensor = self._held.vector()
        return found.view(self._shape)


def spikegpt_logits(ops: Ops, p: Any, h: Tensor) -> Tensor:
    """Return next-token logits [..., V] of ``finish``'s output."""
    found = ops.linear(h, p["head.weight"])
    assert isinstance(found, Tensor)
    return found


def _plain_ops(precision: StepPrecision) -> Ops:
    base = fast_ops("cuda", "fp32")
    if precision != "bf16":
        return base

    def narrow(x: Tensor, weight: Tensor) -> Tensor:
        return linear(x.to(torch.bfloat16), weight).float()

    return replace(base, name=base.name + "-bf16", linear=narrow)


def _copy_state(to: BlockState, new: BlockState) -> None:
    to.att_last.copy_(new.att_last)
    to.ffn_last.copy_(new.ffn_last)
    to.wkv.copy_(new.wkv)
    to.lif_att.copy_(new.lif_att)
    to.lif_ffn.copy_(new.lif_ffn)
