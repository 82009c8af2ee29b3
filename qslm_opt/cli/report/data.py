"""All numbers of a report in one value, from the records alone; ``to_json`` is what the page carries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from qslm_opt.cli.output import SCHEMA
from qslm_opt.cli.report import bits, machine, neurons, plane, story, sweeps, watts
from qslm_opt.cli.report.chance import held_back
from qslm_opt.errors import QslmError
from qslm_opt.setting import QuantSetting

if TYPE_CHECKING:
    from qslm_opt.cli.facts import StudyFacts
    from qslm_opt.results import PowerDevice, PowerWindow, TrialRecord

MOST_ROWS = 60
"""Candidates that the page lists; the points of its plane are all of them."""


@dataclass(frozen=True)
class Report:
    """One study as read at one moment, and everything that the page says about it."""

    facts: StudyFacts
    commands: Mapping[str, str] = field(default_factory=dict)
    """What it does → a command line that gets the model."""
    windows: Mapping[str, PowerWindow] = field(default_factory=dict)
    """Trial UUID → its power window."""
    devices: Sequence[PowerDevice] = ()
    chosen_run: Mapping[str, Any] | None = None
    """The whole Evaluation of the choice as stored."""
    made: str = ""
    """When the storage was read, in words."""

    @property
    def metric(self) -> str:
        """``accuracy`` or ``perplexity``."""
        return self.facts.metric

    @property
    def choice(self) -> TrialRecord | None:
        """The winner at the report's λ."""
        return self.facts.best.record if self.facts.best else None

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """The candidates as ``study candidates --json`` prints them, best first."""
        return self.facts.rows()

    @property
    def shown_rows(self) -> list[dict[str, Any]]:
        """The candidates that the page lists."""
        return self.rows[:MOST_ROWS]

    @cached_property
    def heat(self) -> sweeps.Heat | None:
        """The sensitivity of each block."""
        return sweeps.sensitivity(self.facts)

    @cached_property
    def uniform(self) -> list[sweeps.UniformPoint]:
        """The uniform settings."""
        return sweeps.uniform(self.facts)

    @cached_property
    def plane(self) -> plane.Plane | None:
        """All that was measured over bytes and metric."""
        return plane.plane(self.facts)

    @cached_property
    def power(self) -> watts.Power:
        """Watts and joules of the candidates."""
        return watts.power(self.facts, self.windows, self.devices)

    @cached_property
    def bit_map(self) -> bits.BitMap | None:
        """The choice over the model; None without one, or where its text is damaged."""
        if self.choice is None:
            return None
        try:
            setting = QuantSetting.from_json(self.choice.setting)
            return bits.bit_map(self.facts.row.hierarchy, setting, self.facts.row.spec.pins)
        except QslmError:
            return None

    @cached_property
    def tiers(self) -> list[story.TierRow]:
        """What each tier took."""
        return story.tiers(self.facts)

    @cached_property
    def lineage(self) -> list[story.Step]:
        """From the unquantized model to the choice."""
        return story.lineage(self.facts)

    @cached_property
    def limits(self) -> list[story.Limit]:
        """Both constraints and what the choice reached."""
        return story.limits(self.facts)

    @cached_property
    def neurons(self) -> neurons.Neurons:
        """How often neurons fire, before and after."""
        return neurons.neurons(self.facts, self.chosen_run)

    @cached_property
    def machine(self) -> dict[str, str]:
        """What it ran on."""
        return machine.machine(self.facts, self.chosen_run)

    @cached_property
    def warnings(self) -> list[str]:
        """What limits the meaning of the numbers."""
        sure = held_back(self.rows[0]) if self.rows else None
        return machine.warnings(self.facts, self.power, self.chosen_run, sure)

    def to_json(self) -> dict[str, Any]:
        """Return the numbers of every figure and table; points are rows of ``columns``."""
        study = self.facts.to_json()
        return {
            "schema": SCHEMA,
            "study": {key: value for key, value in study.items() if key not in ("process",)},
            "choice": study["best"],
            "limits": [asdict(limit) for limit in self.limits],
            "sensitivity": None if self.heat is None else {
                "unit": sweeps.loss_unit(self.metric), **asdict(self.heat)
            },
            "candidates": self.shown_rows,
            "uniform": [asdict(point) for point in self.uniform],
            "plane": None if self.plane is None else _plane(self.plane),
            "power": {**asdict(self.power), "rows": [asdict(row) for row in self.power.rows]},
            "bits": None if self.bit_map is None else asdict(self.bit_map),
            "lineage": [asdict(step) for step in self.lineage],
            "tiers": [asdict(row) for row in self.tiers],
            "neurons": asdict(self.neurons),
            "machine": self.machine,
            "warnings": self.warnings,
        }  # fmt: skip


def _plane(found: plane.Plane) -> dict[str, Any]:
    """Return the plane with one short list a point: a study may have ten thousand."""
    return {
        "columns": ["trial", "bytes", "value", "kind", "bits"],
        "points": [[p.trial, p.bytes, p.value, p.kind, p.bits] for p in found.points],
        "front": [p.trial for p in found.front],
        "winners": [{"low": w.low, "high": w.high, "trial": w.point.trial} for w in found.winners],
        "closest": None if found.closest is None else found.closest.trial,
        "unmeasured": found.unmeasured,
    }
