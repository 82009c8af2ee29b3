"""How the time of an evaluation grows with the number of blocks and of tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from qslm_opt.bench.forward import Forward, Load
from qslm_opt.bench.timing import Timing, Variant, interleaved

if TYPE_CHECKING:
    from qslm_opt.bench.shapes import Subject
    from qslm_opt.kernels.ops import Ops

PARTS = (4, 2, 1)
"""The whole divided by these."""


@dataclass(frozen=True)
class Point:
    """One evaluation of a part of the model on a part of the window."""

    blocks: int
    window: int
    """Tokens per window."""
    timing: Timing


@dataclass(frozen=True)
class Scaling:
    """Seconds per evaluation, and the straight lines through them."""

    batch: int
    mode: str
    points: tuple[Point, ...]
    ms_per_block: float | None
    """Slope over the blocks at the whole window; None with fewer than two numbers of blocks."""
    us_per_1k_tokens: float | None
    """Slope over batch · window tokens at all blocks, per 1,000 tokens; None with fewer than two windows."""

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready object with units in the keys."""
        points = [
            {"blocks": p.blocks, "window_tokens": p.window, "evaluation": asdict(p.timing)}
            for p in self.points
        ]
        slopes = {"ms_per_block": self.ms_per_block, "us_per_1k_tokens": self.us_per_1k_tokens}
        return {"batch": self.batch, "mode": self.mode, "points": points, **slopes}


def measure_scaling(
    subject: Subject,
    load: Load,
    ops: Ops,
    *,
    repeats: int,
    seconds_limit: float,
    synchronise: Callable[[], None],
) -> Scaling:
    """Time parts of the model and of the window in turns; see ``PARTS``.

    Raises:
        torch.OutOfMemoryError, MemoryError or RuntimeError: the load does not fit.
    """
    blocks = sorted({max(1, subject.config.n_layer // part) for part in PARTS})
    windows = sorted({max(1, load.window // part) for part in PARTS})
    places = [(count, load.window) for count in blocks]
    places += [(blocks[-1], window) for window in windows[:-1]]
    passes = {w: Forward(subject, Load(load.kind, load.batch, w), ops) for w in windows}
    found = interleaved(
        {place: Variant(_call(passes[place[1]], place[0])) for place in places},
        repeats=repeats, seconds_limit=seconds_limit, synchronise=synchronise,
    )  # fmt: skip
    points = []
    for (count, window), timing in found.items():
        if not isinstance(timing, Timing):
            raise timing
        points.append(Point(count, window, timing))
    across = [(p.blocks, p.timing.median_s) for p in points if p.window == load.window]
    along = [(load.batch * p.window, p.timing.median_s) for p in points if p.blocks == blocks[-1]]
    per_block, per_token = slope(across), slope(along)
    return Scaling(
        load.batch, ops.precision, tuple(sorted(points, key=lambda p: (p.blocks, p.window))),
        None if per_block is None else 1e3 * per_block,
        None if per_token is None else 1e9 * per_token,
    )  # fmt: skip


def _call(forward: Forward, blocks: int) -> Callable[[], float]:
    return lambda: forward(blocks)


def slope(points: Sequence[tuple[float, float]]) -> float | None:
    """Return the slope of the least-squares line through (x, y); None with fewer than two different x."""
    if len({x for x, _ in points}) < 2:
        return None
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
