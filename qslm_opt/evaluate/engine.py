"""The evaluation engine: one setting over a task's data, as far as it is needed."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from hashlib import sha256
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from qslm_opt import __version__
from qslm_opt.errors import DataError, DeviceError, UsageError
from qslm_opt.evaluate.batches import Batch, first_batch
from qslm_opt.evaluate.calibrate import input_moments
from qslm_opt.evaluate.device import device_name, gpu_bytes, pick_device
from qslm_opt.evaluate.drift import DriftMeter
from qslm_opt.evaluate.forward import Forward
from qslm_opt.evaluate.memory import live_bytes
from qslm_opt.evaluate.order import hardness_strata
from qslm_opt.evaluate.plan import Plan
from qslm_opt.evaluate.prefix import boundary_keys
from qslm_opt.evaluate.sums import Result, Spikes, Sums
from qslm_opt.evaluate.views import View, resident_view, view_of
from qslm_opt.items import Items
from qslm_opt.kernels.ops import REFERENCE, Ops, fast_ops, pick_precision
from qslm_opt.kernels.packed.place import packed_ops
from qslm_opt.kernels.products import float32_products
from qslm_opt.models.registry import family_of
from qslm_opt.quant.apply import CACHE_BYTES, QuantizedView, never
from qslm_opt.quant.base import is_calibrated
from qslm_opt.quant.resident_view import ResidentView
from qslm_opt.results import Evaluation, Progress
from qslm_opt.setting import UNQUANTIZED

if TYPE_CHECKING:
    from collections.abc import Callable

    from qslm_opt.data import TaskData
    from qslm_opt.evaluate.bounds import MetricBound
    from qslm_opt.hierarchy.tree import Hierarchy
    from qslm_opt.models.loading import LoadedModel
    from qslm_opt.quant.apply import Stop, Tuner
    from qslm_opt.quant.base import QuantizedTensor
    from qslm_opt.setting import QuantSetting

EVALUATION_VERSION = 3
"""Raised whenever the same setting may give another number than before."""
CODE_VERSION = f"{__version__}/{EVALUATION_VERSION}"

_KEPT_KEYS = 256
PROBE_ROWS = 256
"""Token positions that a probe computes, at least one sequence."""
WEIGHTS_SHARE = 0.15
"""Most of a GPU's free memory for the quantized tensors."""


def silent(text: str) -> None:
    """Say nothing."""


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
        matmul: str = "auto",
        ops: Ops | None = None,
        dtype: torch.dtype = torch.float32,
        prefix_bytes: int | None = None,
        reorder: bool = True,
        calibration: Callable[[], TaskData] | None = None,
        tuner: Tuner | None = None,
        stay_packed: bool = False,
        weights_of: Engine | None = None,
        narrate: Callable[[str], None] = silent,
    ) -> None:
        """Place the model on ``device``.

        Args:
            batch: windows or sentences per batch; None packs about ``ROWS`` token positions, fewer where a
                GPU's memory is short.
            matmul: precision of the matrix products, see ``pick_precision``.
            ops: operations to compute with; None takes the fastest for device, dtype and precision.
            dtype: float32, or float64 for golden numbers.
            prefix_bytes: bound of the boundary cache; 0 turns it off, None takes ``PREFIX_BYTES``.
            reorder: compute first what decides soonest.
            calibration: gives the text that calibrated quantizers look at; asked for once, when one does.
            tuner: tunes settings that say so, see ``QuantizedView``.
            stay_packed: hold the codes of a packed model and dequantize where they are read.
            weights_of: engine of the same model, device and ``ops`` whose kept weights are computed with.
            narrate: told once, in one line, when memory runs out and batches get smaller.
        """
        if not data.sequences or not data.n:
            raise DataError(
                f"task {data.task} has nothing to evaluate; give data with rows, or raise --limit."
            )
        self.device = pick_device(device)
        self.hierarchy, self.config = hierarchy, model.config
        self._family, self._spikes = family_of(model.config), Spikes(model.config)
        self.dtype, self._narrate = dtype, narrate
        kind = self.device.type
        if ops is None:
            precision = pick_precision(kind, matmul)
            fast = packed_ops if stay_packed else fast_ops
            ops = REFERENCE if dtype != torch.float32 else fast(kind, precision)
        self.ops = ops
        memory = gpu_bytes(self.device)
        cache_bytes = min(CACHE_BYTES[kind], int(WEIGHTS_SHARE * memory[0]))
        self._view: View = (
            weights_of._view if weights_of
            else resident_view(model, self.device, dtype) if stay_packed
            else view_of(
                model, hierarchy, self.device, dtype, ops, cache_bytes, self._input_moments, tuner
            )
        )  # fmt: skip
        self._model = model.without_tensors() if stay_packed else model
        self._calibration = calibration
        self._moments: dict[str, Tensor] | None = None
        self._fp32_bytes = hierarchy.fp32_bytes()
        self._reorder = reorder
        self.plan = Plan(
            data, model.config, self.device, memory, batch=batch, itemsize=dtype.itemsize,
            prefix_bytes=prefix_bytes if self._family.reuses(self.config) else 0,
        )  # fmt: skip
        self._forward = Forward(model.config, ops)
        self._told = False
        self._keys: dict[str, list[str]] = {}
        self._drift: DriftMeter | None = None

    @property
    def data(self) -> TaskData:
        """What is evaluated now."""
        return self.plan.now.data

    @property
    def reused(self) -> bool:
        """Whether the last evaluation began anywhere behind kept activations."""
        return self._forward.reused

    @property
    def weight_bytes(self) -> int | None:
        """Bytes that packed weights hold in memory; None where they do not stay packed."""
        return self._view.held_bytes if isinstance(self._view, ResidentView) else None

    def codes(self, setting: QuantSetting) -> dict[str, QuantizedTensor | Tensor]:
        """Return the codes that ``setting`` computes with, as ``QuantizedView.codes`` does."""
        return self._view.codes(setting)

    def _input_moments(self) -> dict[str, Tensor]:
        """Return the mean of x xᵀ of what every matrix reads, measured once."""
        if self._moments is None:
            if self._calibration is None:
                raise UsageError("this engine has no calibration text; use a quantizer without, such as mse.")
            data = self._calibration()
            self._narrate(f"calibrating on {len(data.sequences):,} sequences of split {data.split!r}")
            start = perf_counter()
            self._moments = input_moments(self._model.tensors, self.config, data, self.device)
            self.synchronise()
            took = perf_counter() - start
            self._narrate(f"calibrated in {took:.1f} s, which are in no evaluation's seconds")
        return self._moments

    @property
    def batches(self) -> int:
        """Number of batches that the data is cut into."""
        return len(self.plan.batches)

    def evaluate(
        self,
        setting: QuantSetting,
        *,
        parent: QuantSetting | None = None,
        bound: MetricBound | None = None,
        report: Callable[[Progress], bool] | None = None,
        fresh: bool = False,
        every: int = 1,
        items: bool = False,
    ) -> Evaluation:
        """Evaluate ``setting`` over all batches, or until ``report`` says stop.

        When a GPU's memory runs out, batches are halved and the evaluation begins again. In a search, the
        first evaluation of an engine is preceded by one of the unquantized model, which says in which batches
        sentences are best computed: so all processes of a study have the same ones. Where the family keeps
        its batches, a search has those of any evaluation.

        Args:
            parent: the setting the search stands on; only decides what is kept for later. None: this is no
                search, and nothing is.
            bound: when given, every Progress carries the best metric that is still possible.
            report: called after every batch; True stops the run, and the value is then None.
            fresh: compute every block, also what is kept of earlier evaluations.
            every: compute only every so many-th window or sentence, the first among them; ``n`` and the
                metric are then those of this share.
            items: keep what each sentence or window came to; a bound with confidence needs it.

        Raises:
            NumericsError: the logits hold NaN or infinity.
            DeviceError: a single sequence needs more memory than the device has.
        """
        while True:
            try:
                with self.plan.on_share(every):
                    if parent is not None and every == 1:
                        self._arrange_by_hardness()
                    return self._evaluate(setting, parent, bound, report, fresh=fresh, items=items)
            except torch.OutOfMemoryError:
                pass
            self._halve()

    def drift(self, setting: QuantSetting) -> tuple[float, int, float]:
        """Return the mean membrane drift of ``setting`` against the unquantized model, see ``drift``.

        With the tokens or sentences it took, and the seconds.
        """
        start = perf_counter()
        meter = self.refer_drift()
        with self._drift_products():
            found = meter.drift(self._view.apply(setting))
        return found, meter.used, perf_counter() - start

    def refer_drift(self) -> DriftMeter:
        """Keep the unquantized model's membrane potentials, once, as what ``drift`` compares with.

        Raises:
            UsageError: the model shows none.
        """
        if self._drift is None:
            self._drift = DriftMeter(self.data, self.config, self.ops, self.device)
        if not self._drift.has_reference:
            with self._drift_products():
                self._drift.refer_to(self._view.apply(UNQUANTIZED))
        return self._drift

    def _drift_products(self) -> AbstractContextManager[None]:
        """Return a context in which the products of drift have the precision of the evaluation's."""
        if self.device.type != "cuda":
            return nullcontext()
        return float32_products(tf32=self.ops.precision == "tf32")

    def forget(self) -> None:
        """Drop what earlier evaluations left: quantized weights, activations, and what turned wrong first."""
        self._view.clear()
        self.plan.forget()

    def calibrate(self, setting: QuantSetting) -> None:
        """Measure the calibration text, once, where the quantizer of ``setting`` looks at it."""
        looks = isinstance(self._view, QuantizedView) and is_calibrated(setting.quantizer)
        if looks and any(fmt.layout is not None for fmt in (*setting.units.values(), setting.fixed)):
            self._input_moments()

    def prepare(self, setting: QuantSetting, stop: Stop = never) -> None:
        """Quantize the weights of ``setting``, and tune them where it says so, unless that was done.

        Raises:
            StoppedError: ``stop``, asked after every step of a tuning, said so.
        """
        if isinstance(self._view, QuantizedView):
            self._view.tune(setting, stop)
        self._view.apply(setting)
        self.synchronise()

    def _arrange_by_hardness(self) -> None:
        """Put the sentences that the unquantized model gets wrong, or nearly, into batches of their own."""
        free = self.data.kind == "classification" and not self._family.keeps_batches
        plan = self.plan
        if self._reorder and free and plan.now.strata is None and len(plan.batches) > 1:
            hardness = np.zeros(len(self.data.sequences))
            self._evaluate(UNQUANTIZED, hardness=hardness)
            plan.stratify(hardness_strata(hardness))

    def _evaluate(
        self,
        setting: QuantSetting,
        parent: QuantSetting | None = None,
        bound: MetricBound | None = None,
        report: Callable[[Progress], bool] | None = None,
        hardness: np.ndarray | None = None,
        fresh: bool = False,
        items: bool = False,
    ) -> Evaluation:
        """See ``evaluate``; with ``hardness`` (sentences,), the loss of each is written there."""
        start = perf_counter()
        keys = [] if fresh else self._keys_of(setting)
        part, forward = self.plan.now, self._forward
        forward.reused = False
        if parent is not None:
            part.prefix.follow(self._keys_of(parent))
        tensors = self._view.apply(setting)
        sums, stopped = Sums(), False
        each = self._no_items() if items else None
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            if self.device.type == "cuda":
                stack.enter_context(float32_products(tf32=self.ops.precision == "tf32"))
            for index in part.evidence.order() if self._reorder else range(len(part.batches)):
                batch = part.batches[index]
                result = forward.result(tensors, keys, part, index, keep=parent is not None, items=items)
                self._add(sums, index, batch, result)
                if each is not None:
                    each.add(batch.members, *result.arrays())
                if hardness is not None and result.losses is not None:
                    hardness[list(batch.members)] = result.losses.cpu().numpy()
                if report and report(self._progress(sums, bound, each)):
                    stopped = sums.used < self.data.n
                    break
        self.synchronise()
        return replace(self._evaluation(setting, sums, stopped, perf_counter() - start), items=each)

    def _no_items(self) -> Items:
        sequences = self.data.sequences
        windows = [ids.size - 1 for ids in sequences] if self.data.kind == "lm" else None
        return Items.empty(len(sequences), windows)

    def _keys_of(self, setting: QuantSetting) -> list[str]:
        """Return ``boundary_keys``, kept for the settings asked for last: a parent has many children."""
        name = setting.to_json()
        if name not in self._keys:
            if len(self._keys) >= _KEPT_KEYS:
                self._keys.clear()
            self._keys[name] = boundary_keys(self.hierarchy, setting)
        return self._keys[name]

    @property
    def arithmetic(self) -> str:
        """Device type, precision and kernels, for instance ``cuda/split/triton``."""
        return f"{self.device.type}/{self._precision}/{self.ops.name}"

    @property
    def _precision(self) -> str:
        return "fp64" if self.dtype == torch.float64 else self.ops.precision

    def synchronise(self) -> None:
        """Wait until the device has done what was asked of it."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def probe(self) -> str:
        """Return a sum (hex) over every bit that the unquantized model computes for a few sequences.

        It neither reads nor changes what is kept, and does not depend on the batches.
        """
        batch = first_batch(self.data, PROBE_ROWS, self.device)
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            if self.device.type == "cuda":
                stack.enter_context(float32_products(tf32=self.ops.precision == "tf32"))
            x, counts = self._forward.body(self._view.apply(UNQUANTIZED), batch.inputs)
        numbers = [x, *self._spikes.by_block(counts)]
        return sha256(b"".join(n.cpu().contiguous().numpy().tobytes() for n in numbers)).hexdigest()

    def _halve(self) -> None:
        """Make batches half as large, and keep half as much; DeviceError when a batch is one sequence."""
        sequences, length = self.plan.largest()
        if sequences == 1:
            raise DeviceError(
                f"one sequence of {length} tokens needs more memory than {device_name(self.device)} has "
                "free; use a shorter --window, a device with more memory, or --device cpu."
            )
        self._view.clear()
        self.plan.halve(sequences * length)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if not self._told:
            most = max(b.ids.shape[0] for b in self.plan.batches)
            self._narrate(
                f"out of memory on {device_name(self.device)}: going on with half the batch, at most "
                f"{most:,} sequences, and halving again if need be; "
                "last digits may differ from those measured before"
            )
        self._told = True

    def _add(self, sums: Sums, index: int, batch: Batch, result: Result) -> None:
        sums.add(index, batch, result)
        classes = self.data.kind == "classification"
        self.plan.now.evidence.add(index, batch.n - result.correct if classes else result.nll)

    def _progress(self, sums: Sums, bound: MetricBound | None, items: Items | None) -> Progress:
        correct = sums.correct if self.data.kind == "classification" else None
        nll = sums.nll_sum
        best = bound.best_case(sums.used, correct, nll, items) if bound else None
        return Progress(sums.used, self.data.n, correct, nll, best)

    def _evaluation(
        self, setting: QuantSetting, sums: Sums, stopped: bool, seconds: float
    ) -> Evaluation:
        classes = self.data.kind == "classification"
        return Evaluation(
            metric="accuracy" if classes else "perplexity",
            value=None if stopped else sums.metric(classes=classes),
            n=self.data.n,
            used=sums.used,
            correct=sums.correct if classes else None,
            nll_sum=sums.nll_sum,
            live_bytes=live_bytes(self.hierarchy, setting),
            fp32_bytes=self._fp32_bytes,
            seconds=seconds,
            device=device_name(self.device),
            dtype=self._precision,
            kernel=self.ops.name,
            data_hash=self.data.data_hash,
            code_version=CODE_VERSION,
            firing_rate=self._spikes.rate(sums.spikes, sums.tokens),
            silent=self._spikes.silent(sums.spikes),
            rates=self._spikes.rates(sums.spikes, sums.tokens),
        )
