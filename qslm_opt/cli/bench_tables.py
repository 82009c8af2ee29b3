"""The results of ``qslm-opt bench`` as tables for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from qslm_opt.cli.output import console, digits, print_table, size, table

if TYPE_CHECKING:
    from qslm_opt.bench.dashboard import DashboardCost
    from qslm_opt.bench.rates import Rates
    from qslm_opt.bench.scaling import Scaling
    from qslm_opt.bench.speeds import Row
    from qslm_opt.bench.storage import StorageCost
    from qslm_opt.bench.study import StudySpeeds
    from qslm_opt.bench.timing import Timing
    from qslm_opt.bench.workers import Shared

_NONE = "n/a"
_TITLES = {
    "throughput": "language modelling, loss included",
    "sentences": "classification of sentences",
}


def print_machine(found: Mapping[str, Any]) -> None:
    """Print the device and the versions."""
    versions = ", ".join(f"{name} {value}" for name, value in found["versions"].items() if value)
    _line(f"{found['device']}: {found['device_name']}, {found['cpu_threads']} CPU threads; {versions}")


def print_model(found: Mapping[str, Any]) -> None:
    """Print what model speeds are of."""
    _line(
        f"model {found['model']}: {digits(found['parameters'] / 1e6)} million parameters, {found['blocks']} "
        f"blocks, width {found['width']}, vocabulary {found['vocabulary']:,}, weights of "
        f"{found['weight_bits']} bits; {digits(found['flop_per_token'] / 1e6)} MFLOP of products a token"
    )


def print_rates(rates: Rates) -> None:
    """Print what the device can do."""
    found = table("matmul", "GEMM rate", "at m×n×k", "the model's own", "rows", left=1, title="rates")
    for rate in rates.gemm.values():
        found.add_row(
            rate.mode, _flop(rate.flop_per_s), "×".join(map(str, rate.shape)), _flop(rate.own_flop_per_s),
            f"{rate.own_rows:,}",
        )  # fmt: skip
    print_table(console(), found)
    _line(f"copy {size(rates.copy_bytes_per_s)}/s, read + written")


def print_speeds(name: str, rows: Sequence[Row] | str) -> None:
    """Print throughput or sentences, or why there are none."""
    title = _TITLES[name]
    if isinstance(rows, str):
        _line(f"{title}: {_NONE}: {rows}")
        return
    unit = "sentences/s" if name == "sentences" else "tokens/s"
    found = table(
        "batch", "version", "matmul", unit, "spread", "× reference", "× compiled", "of GEMM", "of floor",
        "peak memory", text=("version", "matmul"), title=f"{title}, {rows[0].load.window} tokens each",
    )  # fmt: skip
    for row in rows:
        speed = row.sentences_per_s if name == "sentences" else row.tokens_per_s
        found.add_row(
            str(row.load.batch), row.version, row.mode, _number(speed), _spread(row.timing),
            _ratio(row.ratio_to_reference), _ratio(row.ratio_to_compiled), _percent(row.gemm_share),
            _percent(row.floor_share), size(row.peak_memory_bytes) if row.peak_memory_bytes else _NONE,
        )  # fmt: skip
    print_table(console(), found)
    _line(
        "× reference, × compiled: how many times as fast as plain torch and as torch.compile. "
        f"of GEMM: of the {unit} that products alone would allow at their GEMM rate; "
        "of floor: with the traffic between kernels, too; both rates measured again in turns with the rows."
    )
    for row in rows:
        if row.note:
            _line(f"batch {row.load.batch}, {row.version} {row.mode}: {_NONE}: {row.note}")


def print_studies(studies: Sequence[StudySpeeds]) -> None:
    """Print each study with its savings on and off."""
    for study in studies:
        of = f"{study.n:,} {study.unit} in {study.batches} batches"
        title = f"study of {study.model} on {study.task}, {of} an evaluation"
        found = table(
            "with", "evaluations", "ahead", "wall s", "spread", "evaluations/s", "× everything on",
            "same verdicts", left=1, text=("same verdicts",), title=title,
        )  # fmt: skip
        for row in study.rows:
            found.add_row(
                row.switches.name, str(row.evaluations), str(row.ahead), digits(row.timing.median_s),
                _spread(row.timing), digits(row.evaluations_per_s), _ratio(row.ratio_to_everything),
                "yes" if row.same_verdicts else "NO",
            )  # fmt: skip
        print_table(console(), found)
    _line(
        "× everything on: how many times as fast, below 1 is slower; ahead: evaluations that only several "
        "workers ran. Studies this short separate no more than the spread between runs: raise --repeats, or "
        "give MODEL and --task."
    )


def print_scaling(found: Scaling | str) -> None:
    """Print seconds against blocks and tokens, with the slopes; or why there are none."""
    if isinstance(found, str):
        _line(f"scaling: {_NONE}: {found}")
        return
    title = f"one evaluation at batch {found.batch}, {found.mode}"
    rows = table("blocks", "window", "tokens", "ms", "spread", title=title)
    for p in found.points:
        ms = digits(1e3 * p.timing.median_s)
        rows.add_row(str(p.blocks), str(p.window), f"{found.batch * p.window:,}", ms, _spread(p.timing))
    print_table(console(), rows)
    block = _NONE if found.ms_per_block is None else f"{digits(found.ms_per_block)} ms a block"
    us = found.us_per_1k_tokens
    token = _NONE if us is None else f"{digits(us / 1e3)} ms a 1,000 tokens"
    _line(f"slopes: {block}, {token}")


def print_storage(cost: StorageCost) -> None:
    """Print what a trial costs without its evaluation."""
    _line(
        f"storage and sampler: {digits(cost.ms_median_last)} ms a trial (median of the last "
        f"{min(200, cost.trials)} of {cost.trials:,}; mean {digits(cost.ms_mean)} ms), bare Optuna "
        f"{digits(cost.optuna_ms_median)} ms"
    )
    rows = table("trials", "ms", "CPU ms", "memory", "file", "a trial", title="as the study grows")
    for g in cost.growth:
        rss = _NONE if g.rss_bytes is None else size(g.rss_bytes)
        rows.add_row(
            f"{g.trials:,}", digits(g.ms_median), digits(g.cpu_ms_mean), rss, size(g.file_bytes),
            size(g.file_bytes / g.trials),
        )  # fmt: skip
    print_table(console(), rows)


def print_shared(rows: Sequence[Shared]) -> None:
    """Print how several processes share a study."""
    found = table(
        "workers", "seconds", "speed-up", "evaluations/s", "ahead", "duplicates", "locked", "same result",
        text=("same result",), title=f"one study on {rows[0].storage}, {rows[0].cost_s:g} s an evaluation",
    )  # fmt: skip
    for r in rows:
        found.add_row(
            str(r.workers), digits(r.seconds), digits(r.speed_up), digits(r.trials_per_s), str(r.ahead),
            str(r.duplicates), str(r.locked), "yes" if r.same_result else "NO",
        )  # fmt: skip
    print_table(console(), found)


def print_dashboard(cost: DashboardCost) -> None:
    """Print what the dashboard costs, each figure beside its goal."""
    title = f"dashboard, {cost.trials:,} trials, {cost.gpus} replayed GPUs"
    rows = table("what", "measured", "goal", left=1, title=title)
    own = max(0.0, cost.open_seconds - cost.textual_seconds)
    for what, measured, goal in (
        ("open, cold", f"{digits(cost.open_seconds)} s", "< 1 s"),
        ("  of it importing textual", f"{digits(cost.textual_seconds)} s", ""),
        ("  its own", f"{digits(own)} s", ""),
        ("  CPU time of all", f"{digits(cost.open_cpu_seconds)} s", ""),
        ("a key that turns λ to the settled screen", f"{digits(cost.turn_ms)} ms", "<= 150 ms"),
        ("CPU of one core, left open at 2 Hz", f"{100 * cost.cpu_share:.1f} %", "<= 10 %"),
        ("a trial of a search, no evaluation", f"{digits(cost.writer_ms)} ms", ""),
        ("  slower beside the dashboard", f"{100 * cost.slowdown:+.1f} %", "< 5 %"),
        ("  slower in CPU time", f"{100 * cost.slowdown_cpu:+.1f} %", ""),
        ("files of the storage that it wrote", str(cost.writes), "0"),
        ("lock errors", str(cost.lock_errors), "0"),
    ):
        rows.add_row(what, measured, goal)
    print_table(console(), rows)


def _line(text: str) -> None:
    console().print(text, soft_wrap=True)


def _number(value: float | None) -> str:
    if value is None:
        return _NONE
    return f"{value:,.0f}" if value >= 100 else digits(value)


def _ratio(value: float | None) -> str:
    return _NONE if value is None else digits(value)


def _percent(value: float | None) -> str:
    return _NONE if value is None else f"{100 * value:.1f} %"


def _flop(value: float) -> str:
    return f"{digits(value / 1e12)} TFLOP/s" if value >= 1e12 else f"{digits(value / 1e9)} GFLOP/s"


def _spread(timing: Timing | None) -> str:
    """Return how far the fastest and the slowest timing are from the median, in percent of its time."""
    if timing is None:
        return _NONE
    if timing.repeats == 1:
        return "one run"
    low, high = (100 * (s / timing.median_s - 1) for s in (timing.low_s, timing.high_s))
    return f"{low:+.0f} … {high:+.0f} %"
