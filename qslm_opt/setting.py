"""Quantization settings: which unit has which number format.

Precedence: a module's own entry wins over its block's, which wins over ``network``. Tensors that are
not searched (LayerNorm, time_*) take ``fixed``, numbers of neurons are float32. A setting is
self-contained: its JSON names every format it needs and the quantizer that made the codes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from qslm_opt.errors import SettingError, did_you_mean
from qslm_opt.formats import FP16, FP32, Format
from qslm_opt.hierarchy.tree import NETWORK
from qslm_opt.spec import MOST_TUNE_STEPS

if TYPE_CHECKING:
    from qslm_opt.hierarchy.tree import Hierarchy

SETTING_VERSION = 1
_KEYS = ("version", "quantizer", "fixed", "units", "tune")


@dataclass(frozen=True)
class QuantSetting:
    """An ordered map unit → format, with the format of what is not searched."""

    units: Mapping[str, Format]
    """Unit → format; must hold ``network``."""
    fixed: Format = FP16
    """Format of the live tensors that are not searched (LayerNorm, time_*)."""
    quantizer: str = "rtn"
    """Name of the algorithm that chooses scales and codes."""
    tune: int = 0
    """Steps by which what the quantizer chose is tuned on calibration text; 0: not at all."""

    def __post_init__(self) -> None:
        if not 0 <= self.tune <= MOST_TUNE_STEPS:
            raise SettingError(
                f"{self.tune} tuning steps are out of range; use 0 (none) to {MOST_TUNE_STEPS:,}."
            )
        if NETWORK not in self.units:
            raise SettingError(f"the setting has no entry for {NETWORK!r}; add one, it is the default.")

    def format_of(self, module_unit: str) -> Format:
        """Return the format of a module: its own, else its block's, else the network's."""
        for unit in (module_unit, module_unit.partition("/")[0]):
            if unit in self.units:
                return self.units[unit]
        return self.units[NETWORK]

    def with_unit(self, unit: str, fmt: Format) -> QuantSetting:
        """Return a copy in which ``unit`` has ``fmt``."""
        return replace(self, units={**self.units, unit: fmt})

    def resolve(self, hierarchy: Hierarchy) -> dict[str, Format]:
        """Return tensor name → format for every counted tensor; raise on an unknown unit."""
        for unit in self.units:
            hierarchy.check_unit(unit)
        return {
            tensor.name: self.format_of(module.unit) if tensor.searched
            else FP32 if tensor.exact
            else self.fixed
            for module in hierarchy.modules()
            for tensor in module.tensors
            if tensor.counted
        }

    def digest(self, hierarchy: Hierarchy) -> str:
        """Return 16 hex digits that name what the setting does to this model, and the steps of its tuning.

        Two settings that give every tensor the same format have the same digest.
        """
        resolved = {name: str(fmt) for name, fmt in sorted(self.resolve(hierarchy).items())}
        text = json.dumps([SETTING_VERSION, self.quantizer, resolved], separators=(",", ":"))
        return sha256(text.encode()).hexdigest()[:16] + tune_mark(self.tune)

    def to_json(self) -> str:
        """Return the canonical JSON text: sorted units, no spaces."""
        value: dict[str, object] = {
            "version": SETTING_VERSION,
            "quantizer": self.quantizer,
            "fixed": str(self.fixed),
            "units": {unit: str(self.units[unit]) for unit in sorted(self.units)},
        }
        if self.tune:
            value["tune"] = self.tune
        return json.dumps(value, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> QuantSetting:
        """Read ``to_json``'s text; raise SettingError that names what is wrong."""
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise SettingError(f"the setting is not JSON: {error}.") from None
        return cls.from_value(value)

    @classmethod
    def from_value(cls, value: Any) -> QuantSetting:
        """Read a decoded setting object."""
        if not isinstance(value, dict) or not isinstance(value.get("units"), dict):
            raise SettingError("a setting is a JSON object with 'units', a map of unit to format.")
        for key in value:
            if key not in _KEYS:
                raise SettingError(f"setting key {key!r} is unknown.{did_you_mean(key, _KEYS)}")
        version = value.get("version", SETTING_VERSION)
        if version != SETTING_VERSION:
            raise SettingError(
                f"setting version {version!r} is not {SETTING_VERSION}, the one this qslm-opt reads; "
                "use the release that wrote it."
            )
        units = {str(unit): Format.parse(str(text)) for unit, text in value["units"].items()}
        fixed = Format.parse(str(value.get("fixed", "fp16")))
        tune = value.get("tune", 0)
        if not isinstance(tune, int) or isinstance(tune, bool):
            raise SettingError(f"setting key 'tune' is {tune!r}; write the number of steps.")
        return cls(units, fixed, str(value.get("quantizer", "rtn")), tune)


def tune_mark(steps: int) -> str:
    """Return what a digest carries behind it for so many tuning steps."""
    return f"~tune{steps}" if steps else ""


UNQUANTIZED = QuantSetting({NETWORK: FP32}, fixed=FP32)
"""The setting that changes nothing: it reproduces the baseline bit for bit."""
