"""``qslm-opt power aa``: a model against itself, and against other arithmetic, in interleaved windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qslm_opt.cli.meters import meter_of
from qslm_opt.cli.model_options import Data, Device, Model, Split, Task, Window
from qslm_opt.cli.model_options import Limit as Limited
from qslm_opt.cli.model_session import open_session, setting_of, spec_of
from qslm_opt.cli.options import Json
from qslm_opt.cli.output import console, digits, narrate, print_json, print_line, print_table, table
from qslm_opt.errors import DeviceError, UsageError, did_you_mean
from qslm_opt.formats import Layout, plain_bits
from qslm_opt.measure.comparing import compare, interleaved
from qslm_opt.spec import MATMULS

if TYPE_CHECKING:
    from qslm_opt.measure.meter import Meter
    from qslm_opt.pipeline import Session
    from qslm_opt.results import PowerWindow
    from qslm_opt.setting import QuantSetting

QUANTITIES = {"mean_w": "power", "item_j": "energy per item", "items_per_s": "speed"}
"""What is compared, and what it is called."""


@dataclass
class Arm:
    """One arithmetic of a model, and the windows measured of it."""

    label: str
    session: Session
    value: float | None = None
    """Metric of the setting in this arithmetic."""
    windows: list[PowerWindow] = field(default_factory=list)

    def numbers(self, quantity: str) -> list[float]:
        """Return one number a window."""
        if quantity == "items_per_s":
            return [(w.items or 0) / (w.seconds or 1.0) for w in self.windows]
        return [getattr(w, quantity) or 0.0 for w in self.windows]


def aa(
    model: Model,
    task: Task,
    data: Data = None,
    split: Split = None,
    limit: Limited = None,
    window: Window = None,
    bits: Annotated[
        float | None, typer.Option("--bits", help="2 to 16, 1.58 (ternary), 1, or 32 for float32.")
    ] = None,
    matmul: Annotated[
        str,
        typer.Option("--matmul", metavar="LIST", help="Precisions to compare, such as fp32,tf32,split; "
                     "the first is also measured against itself."),
    ] = "auto",
    windows: Annotated[int, typer.Option("--windows", min=2, max=1000, help="Windows of each.")] = 10,
    seconds: Annotated[
        float, typer.Option("--seconds", min=0.05, max=600, help="Length of a window.")
    ] = 2.0,
    device: Device = "auto",
    json: Json = False,
) -> None:  # fmt: skip
    """Measure a model against itself (A/A): what differs is noise, and says how little can be seen.

    With several precisions each is measured in the same rounds. Exit code 5: no meter can be read.
    """
    precisions = _precisions(matmul)
    width = None if bits is None else plain_bits(bits)
    if width is not None:
        Layout().with_bits(width)  # refused before a model is loaded
    spec = spec_of(
        model, task, quantizer=None, layout=None, data=data, split=split, limit=limit, window=window,
        device=device, matmul=precisions[0],
    )  # fmt: skip
    first = open_session(spec, narrate)
    with meter_of(first, idle=True) as meter:
        if meter.source == "null":
            raise DeviceError(f"power cannot be measured here: {meter.reason}.")
        arms = _arms(first, precisions)
        setting = setting_of(spec, first.hierarchy, width, "searched")
        _measure(arms, setting, meter, windows, seconds)
        described = meter.describe()
    result = {
        "device": {key: value for key, value in asdict(described).items() if key not in ("id", "study_uuid")},
        "per": "token" if first.data.kind == "lm" else "sentence", "windows": windows, "seconds": seconds,
        "arms": [_arm_json(arm) for arm in arms], "comparisons": _comparisons(arms),
    }  # fmt: skip
    if json:
        print_json(result)
    else:
        _print(result)


def _precisions(text: str) -> list[str]:
    found = [part.strip() for part in text.split(",")]
    for part in found:
        if part not in MATMULS:
            raise UsageError(
                f"--matmul {part!r} is unknown; use some of {', '.join(MATMULS)}."
                f"{did_you_mean(part, MATMULS)}"
            )
    return found


def _arms(first: Session, precisions: Sequence[str]) -> list[Arm]:
    """Return the arms: the first precision twice, then the others, all on the same model and data."""
    from qslm_opt.pipeline import Session

    arms = [Arm(f"{precisions[0]} A", first), Arm(f"{precisions[0]} A'", first)]
    for name in precisions[1:]:
        spec = replace(first.spec, matmul=name)
        arms.append(Arm(name, Session(spec, first.model, first.hierarchy, first.data, narrate)))
    return arms


def _measure(arms: Sequence[Arm], setting: QuantSetting, meter: Meter, windows: int, seconds: float) -> None:
    """Warm every arm up by one evaluation and one window, then measure in rounds."""
    for arm in arms:
        narrate(f"warming up {arm.label}")
        arm.value = arm.session.run(setting)[0].value
        arm.session.measure(setting, meter, seconds)
    for done, which in enumerate(interleaved(len(arms), windows)):
        arm = arms[which]
        window = arm.session.measure(setting, meter, seconds)
        if window is None:
            raise DeviceError(f"window {done} of {arm.label} has no reading: {meter.reason or 'too short'}.")
        arm.windows.append(window)
        if (done + 1) % len(arms) == 0:
            narrate(f"round {(done + 1) // len(arms)} of {windows}")


def _comparisons(arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """Compare every arm with the first, which comes to the A/A test for the second."""
    rows = []
    for arm in arms[1:]:
        for quantity in QUANTITIES:
            found = compare(arms[0].numbers(quantity), arm.numbers(quantity))
            if found is not None:
                names = {"first": arms[0].label, "second": arm.label, "quantity": quantity}
                rows.append({**names, **asdict(found), "differs": found.differs})
    return rows


def _arm_json(arm: Arm) -> dict[str, Any]:
    spreads = {}
    for quantity in QUANTITIES:
        numbers = arm.numbers(quantity)
        spreads[quantity] = {"mean": fmean(numbers), "std": stdev(numbers)}
    steady = [w.steady for w in arm.windows]
    return {
        "label": arm.label, "arithmetic": arm.session.engine.arithmetic, "value": arm.value, **spreads,
        "steady": steady.count(True), "unsteady": steady.count(False),
        "measured": [asdict(window) for window in arm.windows],
    }  # fmt: skip


def _print(result: dict[str, Any]) -> None:
    device, per = result["device"], result["per"]
    rest = device["idle_w"]
    print_line(
        f"{device['device']}: {device['name']} by {device['source']}, "
        + (f"rest {digits(rest)} W (σ {digits(device['idle_std_w'], 2)} W)" if rest else "rest n/a")
        + f", {result['windows']} windows of {result['seconds']:g} s each, interleaved"
    )
    found = table("arm", "arithmetic", "W", "σ", f"mJ/{per}", "σ", f"{per}s/s", "σ", "steady", left=2)
    for arm in result["arms"]:
        numbers = []
        for quantity, scale in (("mean_w", 1.0), ("item_j", 1e3), ("items_per_s", 1.0)):
            spread = arm[quantity]
            numbers += [digits(spread["mean"] * scale, 4), digits(spread["std"] * scale, 2)]
        found.add_row(arm["label"], arm["arithmetic"], *numbers, f"{arm['steady']} of {result['windows']}")
    print_table(console(), found)
    for row in result["comparisons"]:
        print_line(_sentence(row))


def _sentence(row: dict[str, Any]) -> str:
    what = QUANTITIES[row["quantity"]]
    verdict = "differs" if row["differs"] else "does not differ"
    return (
        f"{row['second']} against {row['first']}: {what} {verdict} ({100 * row['difference']:+.2f} %, "
        f"p {row['p']:.2g}); the smallest difference that {row['pairs']} windows show is "
        f"{100 * row['smallest']:.2f} %"
    )
