"""``qslm-opt power``: this machine's watts live, a study's watts, and how small a difference can be seen."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qslm_opt.cli.export import write_text
from qslm_opt.cli.options import Json, Name, Storage, reading
from qslm_opt.cli.output import json_line, narrate, print_json, print_line
from qslm_opt.cli.power_aa import aa
from qslm_opt.cli.power_tables import header, lane_line, print_report, report_rows
from qslm_opt.cli.running import read_facts
from qslm_opt.errors import DeviceError, UsageError

if TYPE_CHECKING:
    from qslm_opt.measure.meter import Meter
    from qslm_opt.results import PowerSample

app = typer.Typer(name="power", help="Measure power, and look at what was measured.", no_args_is_help=True)
app.command()(aa)

DeviceName = Annotated[
    str | None,
    typer.Option("--device", help="cpu, cuda or cuda:N; without it all that there are.", show_default=False),
]


@app.command()
def watch(
    device: DeviceName = None,
    interval: Annotated[
        float, typer.Option("--interval", min=0.05, max=60, metavar="SECONDS", help="Time between lines.")
    ] = 1.0,
    samples: Annotated[
        int | None,
        typer.Option("--samples", min=1, help="End after so many lines of each device.", show_default=False),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print JSON lines: a recording that can be played again.")
    ] = False,
) -> None:
    """Print what this machine's power meters say, until Ctrl-C.

    A line holds the mean power since the line before. Exit code 5: no meter can be read.
    """
    with _meters(device, max(20.0, 2 / interval)) as meters:
        lanes = [_Lane(meter) for meter in meters]
        for lane in lanes:
            described = {"device": asdict(lane.meter.describe())}
            print_line(json_line(described) if json else header(lane.meter.describe()))
        for _ in _ticks(interval, samples):
            for lane in lanes:
                found = lane.mean()
                if found is None:
                    narrate(f"{lane.name}: {lane.meter.reason or 'no sample in this interval'}")
                elif json:
                    print_line(json_line({"device": lane.name, **asdict(found)}))
                else:
                    print_line(lane_line(lane.name, found))


@app.command()
def report(
    name: Name,
    every: Annotated[
        bool, typer.Option("--all", help="Also trials that are no candidates.")
    ] = False,
    storage: Storage = None,
    json: Json = False,
) -> None:
    """Show what the trials of a study drew: watts, joules, joules per token or sentence, how steadily."""
    facts = read_facts(name, storage)
    with reading(storage) as repository:
        devices = repository.power_devices(facts.row.uuid)
        windows = repository.power_windows(facts.row.uuid)
    rows = report_rows(facts, windows, every)
    if json:
        shown = [{key: value for key, value in asdict(d).items() if key != "study_uuid"} for d in devices]
        print_json({"study": name, "per": facts.item, "devices": shown, "rows": rows})
    else:
        print_report(facts, devices, rows, len(windows.keys() - {facts.row.uuid}))


@app.command()
def recording(
    name: Name,
    device: Annotated[
        str | None,
        typer.Option("--device", help="Of several devices, this one.", show_default=False),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="File to write, not stdout.", show_default=False),
    ] = None,
    storage: Storage = None,
) -> None:
    """Write a study's recorded power as JSON lines, which QSLM_OPT_METER=replay:FILE plays again."""
    from qslm_opt.measure.replay import recording_lines

    with reading(storage) as repository:
        found = repository.power_devices(repository.study(name).uuid)
        lanes = [lane for lane in found if device in (None, lane.device)]
        kept = [(lane, repository.power_samples(lane.id, 0.0, time.time() + 1e6)) for lane in lanes]
    texts = [line for lane, samples in kept if samples for line in recording_lines(lane, samples)]
    if not texts:
        why = next((lane.reason for lane in found if lane.reason), "it ran without a meter")
        raise UsageError(f"study {name!r} has no recording of {device or 'any device'}: {why}.")
    write_text("\n".join(texts) + "\n", output)


class _Lane:
    """Means of one meter's samples."""

    def __init__(self, meter: Meter) -> None:
        self.meter, self.name = meter, meter.describe().device
        self._samples: list[PowerSample] = []
        meter.subscribe(self._take)

    def _take(self, sample: PowerSample) -> None:
        self._samples.append(sample)

    def mean(self) -> PowerSample | None:
        """Return the mean power since the last call, with the last of the rest; None without a sample."""
        samples, self._samples = self._samples, []
        watts = [sample.power_w for sample in samples if sample.power_w is not None]
        return replace(samples[-1], power_w=sum(watts) / len(watts)) if watts else None


@contextmanager
def _meters(device: str | None, rate_hz: float) -> Iterator[list[Meter]]:
    """Open the meter of a device, or all of this machine's; DeviceError with the reasons without one."""
    from qslm_opt.measure.meter import open_meter

    with ExitStack() as stack:
        found: list[Meter] = []
        for name in [device] if device else _devices():
            found.append(open_meter(name, rate_hz=min(rate_hz, 1000.0)))
            stack.callback(found[-1].close)
        reasons = [meter.reason for meter in found if meter.source == "null"]
        working = [meter for meter in found if meter.source != "null"]
        if not working:
            raise DeviceError(f"no power can be read here: {' '.join(f'{r}.' for r in reasons)}")
        yield working


def _devices() -> list[str]:
    """Return the names of the devices that may have a meter here, without torch."""
    from qslm_opt.measure.nvml import NvmlUnavailableError, count_devices

    try:
        gpus = count_devices()
    except NvmlUnavailableError as error:
        narrate(f"GPUs are not read: {error}")
        gpus = 0
    return [*(f"cuda:{index}" for index in range(gpus)), "cpu"]


def _ticks(interval: float, count: int | None) -> Iterator[Any]:
    """Yield after each interval, ``count`` times or for ever."""
    due, done = time.monotonic(), 0
    while count is None or done < count:
        due += interval
        time.sleep(max(0.0, due - time.monotonic()))
        yield done
        done += 1
