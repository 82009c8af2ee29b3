"""The codes that a setting makes of an original model: what is packed, and what a packed file is held to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from qslm_opt.errors import FingerprintError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from qslm_opt.data import TaskData, TaskKind
    from qslm_opt.hierarchy.tree import Hierarchy
    from qslm_opt.models.loading import LoadedModel
    from qslm_opt.quant import QuantizedTensor
    from qslm_opt.setting import QuantSetting
    from qslm_opt.spec import StudySpec


@dataclass(frozen=True)
class Original:
    """An original model with the codes of one setting."""

    model: LoadedModel
    hierarchy: Hierarchy
    codes: Mapping[str, QuantizedTensor | Tensor]
    fingerprint: Mapping[str, str]
    """``weights``, ``arithmetic``; ``calibration`` and ``tuning`` where such text was looked at."""
    calibration: Mapping[str, Any] | None = None
    """Split, sequences, window and hash of the calibration text."""
    tuning: Mapping[str, Any] | None = None
    """The same of the text that a tuned setting was tuned on."""

    def check(self, wanted: Mapping[str, str], whose: str) -> None:
        """Raise FingerprintError when weights or the text looked at are not the ones of ``whose``."""
        for part in ("weights", "calibration", "tuning"):
            if part in wanted and part in self.fingerprint and wanted[part] != self.fingerprint[part]:
                raise FingerprintError(
                    f"the {part} of model {self.model.source!r} ({self.fingerprint[part][:16]}) are not "
                    f"those of {whose} ({wanted[part][:16]}); give the same model and data."
                )


def original_codes(
    model: str,
    setting: QuantSetting,
    *,
    kind: TaskKind | None,
    spec: StudySpec | None,
    reading: Mapping[str, Any],
    device: str,
    narrate: Callable[[str], None],
) -> Original:
    """Load an original model and quantize it.

    Args:
        kind: of the task, which decides what is stored; None: classification where there is a classifier.
        spec: task, data and calibration text; only a calibrated quantizer or model needs it.
        reading: how the model is read, keywords of ``load_model``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``: where the codes are made.

    Raises:
        UsageError: the model is packed already, or a calibrated quantizer lacks its task.
    """
    from qslm_opt.models.locate import check_source

    check_source(model)
    from qslm_opt.quant import is_calibrated

    own = None if spec is None else replace(spec, model=model, device=device)
    if is_calibrated(setting.quantizer) or setting.tune:
        what = "a tuned setting" if setting.tune else f"quantizer {setting.quantizer!r}"
        return _calibrated(_need_text(own, what), setting, narrate)
    return _plain(model, setting, kind, own, reading, device, narrate)


def _need_text(spec: StudySpec | None, what: str) -> StudySpec:
    if spec is None:
        raise UsageError(
            f"{what} looks at calibration text; give the --task it belongs to (and --data), or --study."
        )
    return spec


def _plain(
    source: str,
    setting: QuantSetting,
    kind: TaskKind | None,
    spec: StudySpec | None,
    reading: Mapping[str, Any],
    device: str,
    narrate: Callable[[str], None],
) -> Original:
    from qslm_opt.evaluate.device import pick_device
    from qslm_opt.hierarchy.discover import discover
    from qslm_opt.models.loading import load_model
    from qslm_opt.models.registry import family_of
    from qslm_opt.pipeline import check_calibration_keys
    from qslm_opt.quant import QuantizedView

    narrate(f"loading model {source}")
    model = load_model(source, **reading)
    if model.packed is not None:
        raise UsageError(f"model {source!r} is packed already; give the original model.")
    if family_of(model.config).needs_text(model.config):
        return _calibrated(_need_text(spec, f"model {source!r}"), setting, narrate)
    if spec is not None:
        check_calibration_keys(spec)
    kind = kind or ("classification" if model.config.labels else "lm")
    hierarchy = discover(model.config, model.shapes, kind, model.ties)
    place = pick_device(device)
    tensors = {name: tensor.to(place) for name, tensor in model.tensors.items()}
    codes = QuantizedView(tensors, hierarchy).codes(setting)
    fingerprint = {"weights": model.weights_hash, "arithmetic": place.type}
    return Original(model, hierarchy, codes, fingerprint)


def _calibrated(spec: StudySpec, setting: QuantSetting, narrate: Callable[[str], None]) -> Original:
    from qslm_opt.pipeline import Session

    # Nothing is measured here: of the data only the calibration text counts.
    wanted = replace(
        spec, quantizer=setting.quantizer, tune=setting.tune, limit=1, hold_back=0.0, report_split=None,
        confidence=None, gate=False,
    )  # fmt: skip
    session = Session.open(wanted, narrate)
    codes, hashes = session.codes(setting), session.fingerprint()
    calibration = _facts(session.calibration) if "calibration" in hashes else None
    tuning = _facts(session.tuning_text) if setting.tune else None
    return Original(session.model, session.hierarchy, codes, hashes, calibration, tuning)


def _facts(text: TaskData) -> dict[str, Any]:
    return {
        "split": text.split, "sequences": len(text.sequences), "window": text.window, "hash": text.data_hash
    }  # fmt: skip
