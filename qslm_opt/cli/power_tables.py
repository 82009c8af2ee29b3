"""What ``qslm-opt power`` prints for people, and the rows that it prints for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

from qslm_opt.cli.output import console, digits, narrate, print_line, print_table, size, table, watts

if TYPE_CHECKING:
    from qslm_opt.cli.facts import StudyFacts
    from qslm_opt.results import PowerDevice, PowerSample, PowerWindow

NOTHING = "n/a"


def header(device: PowerDevice) -> str:
    """Return one line about a device."""
    limit = f", limit {watts(device.limit_w)}" if device.limit_w is not None else ""
    return f"{device.device}: {device.name} by {device.source}{limit}"


def lane_line(name: str, sample: PowerSample) -> str:
    """Return one line of live numbers; what the device does not tell is n/a."""
    moment = datetime.fromtimestamp(sample.at).strftime("%H:%M:%S")
    parts = [
        watts(sample.power_w),
        _with(sample.utilization, lambda share: f"{100 * share:.0f} % busy"),
        _with(sample.memory_bytes, size),
        _with(sample.sm_clock_mhz, lambda mhz: f"SM {mhz:.0f} MHz"),
        _with(sample.temperature_c, lambda heat: f"{heat:.0f} °C"),
        ", ".join(sample.throttle),
    ]
    return f"{moment}  {name}  " + "  ".join(part for part in parts if part)


def report_rows(
    facts: StudyFacts, windows: Mapping[str, PowerWindow], every: bool
) -> list[dict[str, Any]]:
    """Return a row for each trial with a window, by number: candidates, or with ``every`` all of them."""
    chosen = [t for t in facts.trials if t.uuid in windows and (every or t.feasible)]
    return [
        {
            "trial": trial.number, "tier": trial.tier, "unit": trial.unit, "bits": trial.bits,
            "candidate": trial.feasible, **_window(windows[trial.uuid]),
        }
        for trial in chosen
    ]  # fmt: skip


def print_report(
    facts: StudyFacts, devices: Sequence[PowerDevice], rows: Sequence[Mapping[str, Any]], windows: int
) -> None:
    """Print devices and rows; say why there are none."""
    for line in dict.fromkeys(_device_line(device) for device in devices):
        print_line(line)
    if not devices:
        print_line("power n/a: no run of this study had a meter")
    if not rows:
        if windows:
            narrate(f"no candidate has a window yet; --all shows the {windows} of other trials")
        return
    found = table(
        "trial", "tier", "unit", "bits", "W", "σ", "over rest", "J/run", f"J/{facts.item}", "s", "n", "runs",
        "steady", left=1, text=("tier", "unit", "steady"),
    )  # fmt: skip
    for row in rows:
        found.add_row(*_cells(row))
    print_table(console(), found)
    narrate(
        "simulated quantization computes in float32: its watts say what the search costs, "
        "not what packed weights save"
    )


def _window(window: PowerWindow) -> dict[str, Any]:
    over = None if window.idle_w is None else window.mean_w - window.idle_w
    return {
        **asdict(window), "over_idle_w": over, "run_j": window.run_j, "item_j": window.item_j,
        "counter_difference": window.counter_difference,
    }  # fmt: skip


def _cells(row: Mapping[str, Any]) -> list[str]:
    steady = {True: "yes", False: "no", None: NOTHING}[row["steady"]]
    because = "" if row["steady"] else f": {row['steady_reason']}"
    return [
        str(row["trial"]), row["tier"], row["unit"], str(row["bits"]), digits(row["mean_w"]),
        digits(row["std_w"], 2), _number(row["over_idle_w"]), _number(row["run_j"]), _small(row["item_j"]),
        _number(row["seconds"]), str(row["samples"]), str(row["repeats"]), f"{steady}{because}",
    ]  # fmt: skip


def _device_line(device: PowerDevice) -> str:
    where = f"{device.host} {device.device}"
    if device.source == "null":
        return f"{where}: power n/a: {device.reason}"
    rest = "rest n/a" if device.idle_w is None else f"rest {watts(device.idle_w)}"
    if device.idle_w is not None and device.idle_std_w is not None:
        rest += f" (σ {digits(device.idle_std_w, 2)} W)"
    limit = "" if device.limit_w is None else f", limit {watts(device.limit_w)}"
    rate = "" if device.rate_hz is None else f", {device.rate_hz:.1f} samples a second"
    trouble = "" if device.reason is None else f"; {device.reason}"
    return f"{where}: {device.name} by {device.source}, {rest}{limit}{rate}{trouble}"


def _with(value: float | None, show: Any) -> str:
    return NOTHING if value is None else str(show(value))


def _number(value: float | None) -> str:
    return NOTHING if value is None else digits(value)


def _small(joules: float | None) -> str:
    """Return joules per token in mJ or µJ where they are that small."""
    if joules is None:
        return NOTHING
    for factor, unit in ((1.0, "J"), (1e3, "mJ")):
        if joules * factor >= 1:
            return f"{digits(joules * factor)} {unit}"
    return f"{digits(joules * 1e6)} µJ"
