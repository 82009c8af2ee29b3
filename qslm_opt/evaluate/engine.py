"""The evaluation engine: one setting over a task's data, as far as it is needed."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp
from time import perf_counter
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from qslm_opt import __version__
from qslm_opt.errors import DeviceError, NumericsError
from qslm_opt.evaluate.batches import Batch, make_batches
from qslm_opt.evaluate.memory import live_bytes
from qslm_opt.evaluate.prefix import Boundary, PrefixCache, boundary_keys
from qslm_opt.kernels.ops import REFERENCE, Ops, fast_ops
from qslm_opt.models import spikegpt
from qslm_opt.quant.apply import QuantizedView
from qslm_opt.results import Evaluation, Progress

if TYPE_CHECKING:
    from collections.abc import Callable

    from qslm_opt.data import TaskData
    from qslm_opt.evaluate.bounds import MetricBound
    from qslm_opt.hierarchy.tree import Hierarchy
    from qslm_opt.models.loading import LoadedModel
    from qslm_opt.setting import QuantSetting

EVALUATION_VERSION = 1
"""Raised whenever the same setting may give another number than before."""
CODE_VERSION = f"{__version__}/{EVALUATION_VERSION}"

ROWS = {"cpu": 4096, "cuda": 131072}
"""Token positions per batch, by device type."""
LOGIT_ROWS = {"cpu": 2048, "cuda": 16384}
"""Positions whose logits exist at once: never a whole [B, T, V] tensor."""
PREFIX_BYTES = {"cpu": 2 * 10**9, "cuda": 32 * 10**9}
"""Most memory of the activations kept at block boundaries."""

_DTYPES = {torch.float32: "fp32", torch.float64: "fp64"}


@dataclass
class _Sums:
    used: int = 0
    tokens: int = 0
    correct: int = 0
    nll: float = 0.0
    spikes: float = 0.0


def pick_device(name: str) -> torch.device:
    """Return the torch device of ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; DeviceError when missing."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise DeviceError(f"device {name!r} is unknown; use auto, cpu, cuda or cuda:N.") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DeviceError(
            f"device {name!r} is not there: torch sees {torch.cuda.device_count()} CUDA devices; "
            "use --device cpu, or install a CUDA build of torch and its driver."
        )
    return device


class Engine:
    """Evaluates settings of one model on one task; keeps what later settings can use."""

    def __init__(
        self,
        model: LoadedModel,
        hierarchy: Hierarchy,
        data: TaskData,
        *,
        device: str = "auto",
        batch: int | None = None,
        ops: Ops | None = None,
        dtype: torch.dtype = torch.float32,
        prefix_bytes: int | None = None,
    ) -> None:
        """Place the model on ``device``.

        Args:
            batch: windows or sentences per batch; None packs about ``ROWS`` token positions.
            ops: operations between the matrix products; None takes the fastest for device and dtype.
            dtype: float32, or float64 for golden numbers.
            prefix_bytes: bound of the boundary cache; 0 turns it off, None takes ``PREFIX_BYTES``.
        """
        self.device = pick_device(device)
        self.hierarchy, self.config, self.data = hierarchy, model.config, data
        self.dtype = dtype
        plain = dtype != torch.float32
        self.ops = ops or (REFERENCE if plain else fast_ops(self.device.type))
        on_device = {k: v.to(self.device, dtype) for k, v in model.tensors.items()}
        self._view = QuantizedView(on_device, hierarchy)
        self._batches = make_batches(data, ROWS[self.device.type], batch, self.device)
        self._fp32_bytes = hierarchy.fp32_bytes()
        limit = PREFIX_BYTES[self.device.type] if prefix_bytes is None else prefix_bytes
        positions = sum(b.ids.numel() for b in self._batches)
        width = self.config.n_embd * dtype.itemsize
        self._prefix = PrefixCache(limit, positions * width, self.config.n_layer)

    def evaluate(
        self,
        setting: QuantSetting,
        *,
        parent: QuantSetting | None = None,
        bound: MetricBound | None = None,
        report: Callable[[Progress], bool] | None = None,
    ) -> Evaluation:
        """Evaluate ``setting`` over all batches, or until ``report`` says stop.

        Args:
            parent: the setting the search stands on; only decides what is kept for later. None: nothing is.
            bound: when given, every Progress carries the best metric that is still possible.
            report: called after every batch; True stops the run, and the value is then None.

        Raises:
            NumericsError: the logits hold NaN or infinity.
        """
        start = perf_counter()
        keys = boundary_keys(self.hierarchy, setting)
        if parent is not None:
            self._prefix.follow(boundary_keys(self.hierarchy, parent))
        tensors = self._view.apply(setting)
        sums, stopped = _Sums(), False
        with torch.inference_mode():
            for index, batch in enumerate(self._batches):
                self._one(tensors, keys, index, batch, sums, keep=parent is not None)
                if report and report(self._progress(sums, bound)):
                    stopped = sums.used < self.data.n
                    break
        self.synchronise()
        return self._evaluation(setting, sums, stopped, perf_counter() - start)

    @property
    def arithmetic(self) -> str:
        """Device type, precision and kernels, for instance ``cuda/fp32/triton``."""
        return f"{self.device.type}/{_DTYPES[self.dtype]}/{self.ops.name}"

    def synchronise(self) -> None:
        """Wait until the device has done what was asked of it."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _one(
        self,
        tensors: dict[str, Tensor],
        keys: list[str],
        index: int,
        batch: Batch,
        sums: _Sums,
        keep: bool,
    ) -> None:
        x, spikes = self._body(tensors, keys, index, batch, keep)
        h = spikegpt.finish(tensors, self.config, x)
        if self.data.kind == "lm":
            nll, correct = self._lm_loss(tensors, h, batch.targets), 0
        else:
            nll, correct = self._class_loss(tensors, h, batch)
        if not nll < float("inf"):
            raise NumericsError(
                f"the model's logits hold NaN or infinity (batch {index} of {len(self._batches)}); "
                "check the checkpoint, or raise the bits of the setting."
            )
        sums.used += batch.n
        sums.tokens += batch.tokens
        sums.correct += correct
        sums.nll += nll
        sums.spikes += spikes

    def _body(
        self, tensors: dict[str, Tensor], keys: list[str], index: int, batch: Batch, keep: bool
    ) -> tuple[Tensor, float]:
        found = self._prefix.deepest(index, keys)
        if found:
            first, x, spikes = found[0], found[1].x, found[1].spikes
        else:
            first, x, spikes = 0, spikegpt.embed(tensors, self.config, batch.ids), 0.0
        for i in range(first, self.config.n_layer):
            state = spikegpt.empty_state(x.shape[0], self.config.n_embd, x)
            x, _, count = spikegpt.run_block(
                tensors, self.config, i, x, state, self.ops, batch.lengths
            )
            spikes += float(count.sum())
            if keep:
                self._prefix.put(index, i + 1, Boundary(keys[i + 1], x, spikes))
        return x, spikes

    def _lm_loss(self, tensors: dict[str, Tensor], h: Tensor, targets: Tensor) -> float:
        rows, total = LOGIT_ROWS[self.device.type], h.new_zeros((), dtype=torch.float64)
        for part, target in zip(h.flatten(0, 1).split(rows), targets.flatten().split(rows), strict=True):
            nll = cross_entropy(spikegpt.lm_logits(tensors, part), target, reduction="none")
            total += nll.sum(dtype=torch.float64)
        return float(total)

    def _class_loss(self, tensors: dict[str, Tensor], h: Tensor, batch: Batch) -> tuple[float, int]:
        assert batch.lengths is not None
        logits = spikegpt.class_logits(tensors, h, batch.lengths)
        nll = cross_entropy(logits, batch.targets, reduction="none").sum(dtype=torch.float64)
        return float(nll), int((logits.argmax(dim=-1) == batch.targets).sum())

    def _progress(self, sums: _Sums, bound: MetricBound | None) -> Progress:
        correct = sums.correct if self.data.kind == "classification" else None
        best = bound.best_case(sums.used, correct, sums.nll) if bound else None
        return Progress(sums.used, self.data.n, correct, sums.nll, best)

    def _evaluation(
        self, setting: QuantSetting, sums: _Sums, stopped: bool, seconds: float
    ) -> Evaluation:
        classes = self.data.kind == "classification"
        value = sums.correct / sums.used if classes else exp(min(sums.nll / sums.used, 700.0))
        neurons = 2 * self.config.n_layer * self.config.n_embd
        return Evaluation(
            metric="accuracy" if classes else "perplexity",
            value=None if stopped else value,
            n=self.data.n,
            used=sums.used,
            correct=sums.correct if classes else None,
            nll_sum=sums.nll,
            live_bytes=live_bytes(self.hierarchy, setting),
            fp32_bytes=self._fp32_bytes,
            seconds=seconds,
            device=self._device_name(),
            dtype=_DTYPES[self.dtype],
            kernel=self.ops.name,
            data_hash=self.data.data_hash,
            code_version=CODE_VERSION,
            firing_rate=sums.spikes / (neurons * sums.tokens),
        )

    def _device_name(self) -> str:
        if self.device.type == "cuda":
            return f"{self.device} {torch.cuda.get_device_name(self.device)}"
        return "cpu"
