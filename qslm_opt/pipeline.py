"""The core: a spec becomes a session, a session runs settings.

The command line, the search and the tests all call ``Session.run``: the same call, hence the same number.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from copy import copy
from dataclasses import asdict, replace
from functools import cached_property
from time import perf_counter
from typing import TYPE_CHECKING, Any

from qslm_opt.data import CALIBRATION_SEQUENCES, CALIBRATION_SPLIT, TASK_KIND, load_task, split_off
from qslm_opt.errors import ModelError, SettingError, UsageError
from qslm_opt.evaluate.calibrate import input_moments
from qslm_opt.evaluate.device import pick_device
from qslm_opt.evaluate.engine import CODE_VERSION, Engine, silent
from qslm_opt.formats import Format, Layout
from qslm_opt.hierarchy.discover import discover
from qslm_opt.models import load_model
from qslm_opt.models.config import need_head
from qslm_opt.models.loading import hash_weights
from qslm_opt.models.registry import family_of
from qslm_opt.quant import get_quantizer, is_calibrated
from qslm_opt.quant.apply import never
from qslm_opt.results import Baseline, Evaluation, PowerWindow, Progress
from qslm_opt.setting import UNQUANTIZED, QuantSetting

if TYPE_CHECKING:
    from torch import Tensor

    from qslm_opt.data import TaskData
    from qslm_opt.evaluate.bounds import MetricBound
    from qslm_opt.hierarchy.tree import Hierarchy
    from qslm_opt.measure.meter import Meter
    from qslm_opt.models.config import ModelConfig
    from qslm_opt.models.loading import LoadedModel
    from qslm_opt.quant.apply import Moments, Stop
    from qslm_opt.quant.base import QuantizedTensor
    from qslm_opt.spec import StudySpec


class Session:
    """A model, a task's data and the engine that evaluates settings on them."""

    def __init__(
        self,
        spec: StudySpec,
        model: LoadedModel,
        hierarchy: Hierarchy,
        data: TaskData,
        narrate: Callable[[str], None] = silent,
        *,
        prefix_bytes: int | None = None,
        reorder: bool = True,
        held_back: TaskData | None = None,
        stay_packed: bool = False,
    ) -> None:
        """Place the model on the spec's device; the other keywords are the engine's.

        ``held_back`` is the data that the search never sees, where the spec asks for some.
        """
        self.spec, self.hierarchy, self.data = spec, hierarchy, data
        self.model = model.without_tensors() if stay_packed else model
        self.held_back, self._narrate = held_back, narrate
        self._model_looked = False
        self.keeps_items = spec.compares
        """Whether runs keep what each sentence or window came to."""
        self.engine = Engine(
            model, hierarchy, data, device=spec.device, batch=spec.window_batch, matmul=spec.matmul,
            prefix_bytes=prefix_bytes, reorder=reorder, calibration=lambda: self.calibration,
            tuner=self._tune, stay_packed=stay_packed, narrate=narrate,
        )  # fmt: skip

    @property
    def _looks(self) -> bool:
        """Whether the quantizer or the model itself looks at the calibration text."""
        return self._model_looked or is_calibrated(self.spec.quantizer)

    @cached_property
    def calibration(self) -> TaskData:
        """The text that calibrated quantizers look at.

        Raises:
            DataError, ModelError, UsageError: where it cannot be had, or the model cannot read it.
        """
        return self._other_text(_calibration_limit(self.spec))

    @cached_property
    def tuning_text(self) -> TaskData:
        """The text that settings are tuned on: all of the split that calibrated quantizers look at.

        Raises:
            DataError, ModelError, UsageError: where it cannot be had, or is what the model is measured on.
        """
        data = self._other_text(None)
        _check_unseen(self, data, "settings would be tuned")
        return data

    def _other_text(self, limit: int | None) -> TaskData:
        """Return ``limit`` windows or sentences, all without it, of the split that is not measured on."""
        return _other_text(self.spec, self.model, limit)

    def _tune(
        self, setting: QuantSetting, tensors: Mapping[str, Tensor], moments: Moments, stop: Stop
    ) -> dict[str, QuantizedTensor | Tensor]:
        """Return the stored tensors of a tuned setting."""
        from qslm_opt.tune.run import tuned

        return tuned(
            setting, tensors, moments, self.model.config, self.hierarchy, self.tuning_text, self._narrate,
            stop,
        )  # fmt: skip

    @classmethod
    def open(
        cls, spec: StudySpec, narrate: Callable[[str], None] = silent, *, packed: bool = False,
        stay_packed: bool = False,
    ) -> Session:  # fmt: skip
        """Load the model and the data that ``spec`` names; a packed model only where ``packed`` allows it.

        With ``stay_packed`` its codes are what is held, see ``Engine``.

        Raises:
            UsageError, ModelError, DataError, DeviceError: with the value and the fix.
        """
        check_formats(spec)
        narrate(f"loading model {spec.model}")
        model = load_model(spec.model, **spec.reading())
        if model.assumptions:
            narrate(model.assumptions)
        if model.left_out:
            narrate(model.left_out)
        looks = model.packed is None and family_of(model.config).needs_text(model.config)
        if not looks:
            check_calibration_keys(spec)
        if model.packed is not None and not packed:
            raise UsageError(
                f"model {spec.model!r} is packed, and its weights cannot be quantized again; evaluate it as "
                "it is ('model evaluate' without --bits and --setting), or give the original model."
            )
        kind = TASK_KIND[spec.task]
        need_head(model.config, model.source, spec.task, kind, model.packed)
        narrate(f"loading task {spec.task}")
        data = _load(spec, model, spec.split)
        held_back = None
        if spec.hold_back:
            data, held_back = split_off(data, spec.hold_back)
        elif spec.report_split is not None:
            _check_report_split(spec, data)
            held_back = _load(spec, model, spec.report_split)
        if looks:
            model = _calibrated(spec, model, narrate)
        shapes = {name: tuple(tensor.shape) for name, tensor in model.tensors.items()}
        hierarchy = discover(model.config, shapes, kind, model.ties)
        session = cls(
            spec, model, hierarchy, data, narrate, held_back=held_back, stay_packed=stay_packed
        )
        session._model_looked = looks
        if session._looks:
            who = "the model" if looks else f"quantizer {spec.quantizer!r}"
            _check_unseen(session, session.calibration, f"{who} would be calibrated")
        if spec.tune:
            _ = session.tuning_text
        if spec.gate:
            session.engine.refer_drift()
        return session

    def under(self, spec: StudySpec) -> Session:
        """Return a session of another search of the same model and data.

        What evaluations left (weights, tuned codes, activations) is dropped. Only keys that say how is
        searched may differ: model, data and device are those of this session. The baseline and the
        calibration are not measured again.
        """
        self.engine.forget()
        other = copy(self)
        other.spec = spec
        return other

    def fingerprint(self) -> dict[str, str]:
        """Return what must not change while a study lasts.

        Hashes of weights, data and spec (and of the calibration text, where the quantizer looks at one), the
        version of the evaluation, and the arithmetic: device type, precision and scan kernels. A baseline of
        one arithmetic says nothing about candidates of another.
        """
        found = {
            "weights": self.model.weights_hash,
            "data": self.data.data_hash,
            "spec": self.spec.hash(),
            "code": CODE_VERSION,
            "arithmetic": self.engine.arithmetic,
        }
        if self._looks:
            found["calibration"] = self.calibration.data_hash
        if self.spec.tune:
            found["tuning"] = self.tuning_text.data_hash
        # What the spec says is in its hash; the rest comes from a config.json beside the weights.
        semantics = self.model.config.semantics()
        if semantics := {k: v for k, v in semantics.items() if getattr(self.spec, k, None) != v}:
            found["config"] = json.dumps(semantics, sort_keys=True)
        if self.held_back is not None:
            found["held_back"] = self.held_back.data_hash
        return found

    @cached_property
    def _baseline(self) -> Baseline:
        run = self.engine.evaluate(UNQUANTIZED, parent=UNQUANTIZED, items=self.keeps_items)
        return Baseline.of(run)

    def baseline(self) -> Baseline:
        """Return the unquantized model's result, measured once by the same engine."""
        return self._baseline

    def probe(self) -> str:
        """Return a sum over every bit of a small computation; see ``Engine.probe``."""
        return self.engine.probe()

    def codes(self, setting: QuantSetting) -> dict[str, QuantizedTensor | Tensor]:
        """Return the codes that ``run`` computes with, by tensor; see ``QuantizedView.codes``."""
        return self.engine.codes(setting)

    def run(
        self,
        setting: QuantSetting,
        *,
        parent: QuantSetting | None = None,
        bound: MetricBound | None = None,
        report: Callable[[Progress], bool] | None = None,
        meter: Meter | None = None,
        every: int = 1,
        stop: Stop = never,
    ) -> tuple[Evaluation, PowerWindow | None]:
        """Evaluate one setting; see ``Engine.evaluate``. The power window is None without a meter.

        ``every`` above 1 computes only every so many-th window or sentence: a loss, no metric of the task.
        A tuned setting is tuned before the window opens; its seconds are those of both. What is measured once
        on the calibration text is in nobody's seconds.

        Raises:
            StoppedError: ``stop``, asked after every step of a tuning, said so.
        """
        self.engine.calibrate(setting)
        tuning = self._prepared(setting, stop)
        items = self.keeps_items and every == 1
        if meter is None:
            run = self.engine.evaluate(
                setting, parent=parent, bound=bound, report=report, every=every, items=items
            )
            return replace(run, seconds=tuning + run.seconds), None
        self.engine.synchronise()
        with meter.window() as window:
            run = self.engine.evaluate(
                setting, parent=parent, bound=bound, report=report, every=every, items=items
            )
        # What began behind kept activations computed less than its tokens: joules per token would lie.
        power = window.result(items=None if self.engine.reused else run.used)
        return replace(run, seconds=tuning + run.seconds), power

    def _prepared(self, setting: QuantSetting, stop: Stop) -> float:
        """Tune a setting that says so, where that was not done; return the seconds that it took."""
        if not setting.tune:
            return 0.0
        start = perf_counter()
        self.engine.prepare(setting, stop)
        return perf_counter() - start

    def drift(self, setting: QuantSetting) -> tuple[float, int, float]:
        """Return membrane drift, tokens or sentences, and seconds; see ``Engine.drift``."""
        self.engine.calibrate(setting)
        return self.engine.drift(setting)

    @cached_property
    def _held_back_engine(self) -> Engine:
        if self.held_back is None:
            raise UsageError("this study holds no data back; create one with --hold-back or --report-split.")
        spec = self.spec
        return Engine(
            self.model, self.hierarchy, self.held_back, device=spec.device, batch=spec.window_batch,
            ops=self.engine.ops, prefix_bytes=0, reorder=False, weights_of=self.engine, narrate=self._narrate,
        )  # fmt: skip

    def evaluate_held_back(
        self,
        setting: QuantSetting,
        report: Callable[[Progress], bool] | None = None,
        stop: Stop = never,
    ) -> Evaluation:
        """Evaluate one setting on the data that the search never sees, with the outcome of every item.

        StoppedError when ``stop``, asked after every step of a tuning, says so.
        """
        self.engine.calibrate(setting)
        self._prepared(setting, stop)
        return self._held_back_engine.evaluate(setting, report=report, items=True)

    def measure(
        self,
        setting: QuantSetting,
        meter: Meter,
        seconds: float,
        stop: Callable[[], bool] = lambda: False,
    ) -> PowerWindow | None:
        """Run ``setting`` over the data again and again for ``seconds``, and return that window alone.

        Every block of every batch is computed: nothing kept of earlier runs shortens these. The weights are
        quantized before the window begins, as far as they can be kept. The last run ends with the batch with
        which the time is over; joules per run count it for the share that ran. ``stop`` is asked after every
        batch and every step of a tuning. None where the meter says nothing.

        Raises:
            StoppedError: ``stop`` ended a tuning.
        """
        items, runs, whole = 0, 0, 0

        def enough(_: Progress) -> bool:
            return stop() or window.seconds >= seconds

        self.engine.prepare(setting, stop)
        with meter.window() as window:
            while not runs or not (stop() or window.seconds >= seconds):
                evaluation = self.engine.evaluate(setting, report=enough, fresh=True)
                items, whole, runs = items + evaluation.used, evaluation.n, runs + 1
        return window.result(items=items, repeats=runs, run_items=whole)


def check_formats(spec: StudySpec) -> None:
    """Raise SettingError, naming the key, when the quantizer has not every format of integers in ``spec``."""
    quantizer = get_quantizer(spec.quantizer)
    for key, formats in _formats(spec):
        try:
            for fmt in formats:
                if fmt.layout is not None:
                    quantizer.check(fmt)
        except SettingError as error:
            raise SettingError(f"{key}: {error}") from None


def _formats(spec: StudySpec) -> Iterator[tuple[str, Iterator[Format]]]:
    """Yield the keys of a spec that name formats, each with its formats."""
    layout = Layout.parse(spec.layout)
    yield "precisions", map(layout.with_bits, spec.precisions)
    yield "sensitivity_precisions", map(layout.with_bits, spec.sensitivity_precisions or ())
    yield "fixed", iter([Format.parse(spec.fixed)])
    for unit, text in spec.pins.items():
        yield f"pin {unit!r}", iter([Format.parse(text)])


def _check_unseen(session: Session, text: TaskData, what: str) -> None:
    """Raise UsageError when ``text`` is what the model is measured on, or the result reported on."""
    if text.split == session.data.split:
        raise UsageError(
            f"{what} on split {text.split!r}, which the model is measured on; "
            "give another --calibration-split."
        )
    if session.held_back is not None and text.split == session.held_back.split:
        raise UsageError(
            f"{what} on split {text.split!r}, which the result is reported on; "
            "give another --calibration-split or --report-split."
        )


def _load(spec: StudySpec, model: LoadedModel, split: str | None) -> TaskData:
    """Load a split of the task's data; ModelError when the model cannot read it."""
    data = load_task(
        spec.task, model.need_tokenizer(), data_dir=spec.data, split=split,
        window=spec.window, limit=spec.limit, **_encoding(model),
    )  # fmt: skip
    _check_tokens(model, data)
    return data


def _calibration_limit(spec: StudySpec) -> int:
    return spec.calibration or CALIBRATION_SEQUENCES[TASK_KIND[spec.task]]


def _other_text(spec: StudySpec, model: LoadedModel, limit: int | None) -> TaskData:
    """Return ``limit`` windows or sentences, all without it, of the split that is not measured on."""
    data = load_task(
        spec.task, model.need_tokenizer(), data_dir=spec.data,
        split=spec.calibration_split or CALIBRATION_SPLIT[spec.task], window=spec.window, limit=limit,
        **_encoding(model),
    )  # fmt: skip
    _check_tokens(model, data)
    return data


def _calibrated(spec: StudySpec, model: LoadedModel, narrate: Callable[[str], None]) -> LoadedModel:
    """Return the model with what the calibration text tells, see ``Family.calibrated``."""

    def moments(config: ModelConfig) -> Mapping[str, Tensor]:
        text = _other_text(spec, model, _calibration_limit(spec))
        narrate(f"calibrating the model on {len(text.sequences):,} sequences of split {text.split!r}")
        return input_moments(model.tensors, config, text, pick_device(spec.device))

    config, tensors = family_of(model.config).calibrated(model.config, model.tensors, moments)
    return replace(model, config=config, tensors=tensors, weights_hash=hash_weights(tensors))


def _encoding(model: LoadedModel) -> dict[str, Any]:
    """Return how the model's family encodes sentences, as ``load_task`` takes it."""
    return asdict(family_of(model.config).encoding(model.config))


def _check_report_split(spec: StudySpec, data: TaskData) -> None:
    if spec.report_split == data.split:
        raise UsageError(
            f"--report-split {spec.report_split} is the split that is searched on; give another, or "
            "--hold-back 0.5 to report on half of it."
        )


def check_calibration_keys(spec: StudySpec) -> None:
    """Raise UsageError for a flag of the text that nothing looks at: not the quantizer, nor the model."""
    if is_calibrated(spec.quantizer):
        return
    for key in ("calibration",) if spec.tune else ("calibration", "calibration_split"):
        value = getattr(spec, key)
        if value is not None:
            flag = "--" + key.replace("_", "-")
            raise UsageError(
                f"{flag} {value} does nothing with quantizer {spec.quantizer!r}, which looks at no text, nor "
                "does the model; leave it out, or give --quantizer gptq and bits."
            )


def _check_tokens(model: LoadedModel, data: TaskData) -> None:
    """Raise ModelError when a token of ``data`` has no row in the model's vocabulary."""
    longest = model.config.longest
    if longest is not None and data.window is not None and data.window > longest:
        raise UsageError(
            f"windows of {data.window} tokens are too long for {model.source!r}, which reads {longest} at "
            f"most; give --window {longest}."
        )
    if data.max_id >= model.config.vocabulary:
        raise ModelError(
            f"the tokenizer of {model.source!r} gives token id {data.max_id}, but the model's vocabulary "
            f"has {model.config.vocabulary} rows; put the tokenizer the model was trained with beside it."
        )
