"""The sensitivity sweep of ``model analyze``: each block alone at each precision, and its heat map."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

from qslm_opt.cli.output import metric_value, table

if TYPE_CHECKING:
    from rich.table import Table

    from qslm_opt.pipeline import Session
    from qslm_opt.results import Baseline, Evaluation
    from qslm_opt.search.space import SearchSpace

_SHADES = ((0.001, "·", ""), (0.01, "░", "green"), (0.05, "▒", "yellow"), (0.2, "▓", "red"))
"""Upper end of the loss increase as a share of the baseline's loss, mark, colour."""
_WORST = ("█", "bold red")


@dataclass(frozen=True)
class Cell:
    """One block at one precision, everything else unquantized."""

    block: str
    bits: float
    run: Evaluation


@dataclass(frozen=True)
class Sweep:
    """What a sweep measured."""

    baseline: Baseline
    space: SearchSpace
    cells: tuple[Cell, ...]
    order: tuple[str, ...]
    """Blocks, least sensitive first: the order in which a study searches them."""
    seconds: float

    @property
    def base_loss(self) -> float:
        """Mean negative log likelihood of the unquantized model, in nats."""
        return self.baseline.nll_sum / self.baseline.n

    def increase(self, cell: Cell) -> float:
        """Return by how many nats the mean loss is above the unquantized model's."""
        return cell.run.loss - self.base_loss


def sweep(session: Session, tell: Callable[[str, int, int], None]) -> Sweep:
    """Measure the baseline, then every block at every precision, as a study's first tier does.

    Args:
        tell: called before each run with what it is, how many are done, and how many there are.
    """
    from qslm_opt.formats import FP32
    from qslm_opt.search.space import SearchSpace
    from qslm_opt.search.tiers import TierMachine

    start = perf_counter()
    space = SearchSpace.of(session.spec, session.hierarchy)
    machine = TierMachine(space)
    count = len(machine.grid) + 1
    tell("baseline", 0, count)
    baseline = session.baseline()
    cells: list[Cell] = []
    whole = space.uniform(32)
    for block, bits in machine.grid:
        tell(f"{block} at {bits} bits", len(cells) + 1, count)
        setting = space.setting_of(space.with_level(whole, block, bits), fixed=FP32)
        run, _ = session.run(setting, parent=space.setting_of(whole, fixed=FP32))
        cells.append(Cell(block, bits, run))
    order = machine.order(tuple(cell.run.loss for cell in cells))
    return Sweep(baseline, space, tuple(cells), order, perf_counter() - start)


def sweep_json(result: Sweep) -> dict[str, Any]:
    """Return the JSON object of ``model analyze --json``, without model and task."""
    base = result.baseline
    shared = ("device", "dtype", "kernel", "data_hash", "code_version")
    return {
        **{key: base.evaluation[key] for key in shared},
        "metric": base.metric,
        "baseline": {"value": base.value, "loss": result.base_loss, "n": base.n, "correct": base.correct,
                     "bytes": base.bytes},
        "precisions": list(result.space.sensitivity_precisions),
        "layout": str(result.space.layout),
        "quantizer": result.space.quantizer,
        "pins": {unit: str(fmt) for unit, fmt in result.space.pins.items()},
        "order": list(result.order),
        "cells": [_cell_json(result, cell) for cell in result.cells],
        "seconds": result.seconds,
    }  # fmt: skip


def _cell_json(result: Sweep, cell: Cell) -> dict[str, Any]:
    run = cell.run
    return {
        "block": cell.block, "bits": cell.bits, "value": run.value, "correct": run.correct, "loss": run.loss,
        "loss_increase": result.increase(cell), "live_bytes": run.live_bytes, "saving": run.saving,
        "firing_rate": run.firing_rate, "seconds": run.seconds,
    }  # fmt: skip


def heat_map(result: Sweep) -> Table:
    """Return blocks × bits: the loss increase in nats over the metric, shaded by the increase."""
    from rich.text import Text

    found = table("bits", *(f"{bits} " for bits in result.space.sensitivity_precisions), left=1)
    found.collapse_padding = True
    cells = {(cell.block, cell.bits): cell for cell in result.cells}
    for block in result.space.blocks:
        row = [cells[block, bits] for bits in result.space.sensitivity_precisions]
        texts = [Text(_two_lines(result, cell), _shade(result, cell)[1]) for cell in row]
        found.add_row(block, *texts)
    return found


def _two_lines(result: Sweep, cell: Cell) -> str:
    mark, _ = _shade(result, cell)
    value = cell.run.value or 0.0
    metric = f"{100 * value:.2f}%" if result.baseline.metric == "accuracy" else f"{value:.5g} "
    return f"{_short(result.increase(cell))}{mark}\n{metric}"


def _short(nats: float) -> str:
    """Return a signed number in five or six characters."""
    return f"{nats:+.3f}".replace("0.", ".", 1) if abs(nats) < 0.9995 else f"{nats:+.3g}"


def _shade(result: Sweep, cell: Cell) -> tuple[str, str]:
    share = result.increase(cell) / result.base_loss if result.base_loss else float("inf")
    return next(((mark, style) for end, mark, style in _SHADES if share < end), _WORST)


def legend(result: Sweep) -> Iterator[str]:
    """Yield the lines under the heat map: how to read it, and what it found."""
    base = result.baseline
    metric = f"{base.metric} {metric_value(base.metric, base.value)}"
    yield f"unquantized: {metric}, loss {result.base_loss:.4f} nats over {base.n:,}"
    ends = [f"{mark} below {100 * end:g} %" for end, mark, _ in _SHADES]
    yield f"cells: loss increase in nats over {base.metric}; {', '.join(ends)}, {_WORST[0]} above"
    for unit, fmt in result.space.pins.items():
        yield f"{unit} is kept at {fmt}" + (", which is lossless here" if str(fmt) == "sign" else "")
    yield f"least sensitive first: {', '.join(result.order)}"
