"""``qslm-opt model``: look at a model, evaluate it, find its sensitive blocks, pack it, train a small one."""

from __future__ import annotations

import json as jsonlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qslm_opt.cli.generalising import interval_words
from qslm_opt.cli.memories import memory_line, memory_of
from qslm_opt.cli.model_generate import generate
from qslm_opt.cli.model_options import (
    Calibration,
    CalibrationSplit,
    Config,
    Data,
    Device,
    EmbedSpike,
    Family,
    Layout,
    Limit,
    Matmul,
    Model,
    Quantizer,
    RescaleEvery,
    Scope,
    SignEmbedding,
    Split,
    Task,
    Timesteps,
    Tokenizer,
    Window,
)
from qslm_opt.cli.model_pack import pack, packed_json
from qslm_opt.cli.model_session import (
    check_choice,
    check_tune,
    kind_of,
    open_session,
    read_model,
    read_setting,
    reading_keys,
    setting_of,
    spec_of,
)
from qslm_opt.cli.model_train import train
from qslm_opt.cli.model_verify import verify
from qslm_opt.cli.options import Json
from qslm_opt.cli.output import (
    console,
    digits,
    metric_value,
    narrate,
    print_json,
    print_line,
    print_table,
    size,
    table_width,
)
from qslm_opt.cli.spec_flags import bits_list
from qslm_opt.errors import UsageError
from qslm_opt.formats import plain_bits
from qslm_opt.measure.footprint import Watch
from qslm_opt.models.config import need_head

if TYPE_CHECKING:
    from qslm_opt.pipeline import Session
    from qslm_opt.results import Evaluation
    from qslm_opt.setting import QuantSetting

app = typer.Typer(
    name="model",
    help="Look at a model, evaluate it, find its sensitive blocks, pack it, train one.",
    no_args_is_help=True,
)


@app.command()
def info(
    model: Model,
    task: Annotated[str | None, typer.Option("--task", help="Mark what this task never reads.")] = None,
    every: Annotated[
        bool, typer.Option("--every", help="Show every block, also those that are alike.")
    ] = False,
    bits: Annotated[
        str | None,
        typer.Option("--bits", help="Also the bytes at each of these uniform bits, such as 8,4,3,2.",
                     show_default=False),
    ] = None,
    layout: Layout = None,
    embed_spike: EmbedSpike = "on",
    rescale_every: RescaleEvery = 0,
    family: Family = None,
    tokenizer: Tokenizer = None,
    timesteps: Timesteps = None,
    config: Config = None,
    json: Json = False,
) -> None:  # fmt: skip
    """Show a model's blocks, modules and tensors: parameters, bytes, share, role, what is live.

    Where MODEL is a config.json, or a folder with one and no weights, its shapes alone are computed with. Of
    a model on the hub, config.json is fetched and no weights, where that tells the family.
    """
    from qslm_opt.cli.model_bytes import bytes_table, uniform_bytes
    from qslm_opt.cli.model_tree import LEGEND, headlines, model_json, model_table
    from qslm_opt.cli.packed_info import packed_headlines, packed_table, packed_value
    from qslm_opt.hierarchy.discover import discover

    levels = bits_list("--bits", bits) or ()
    if layout is not None and not levels:
        raise UsageError(f"--layout {layout} says how --bits is meant; give --bits too, or leave it out.")
    kind = kind_of(task) if task is not None else None
    loaded = read_model(model, reading_keys(embed_spike, rescale_every, family, tokenizer, timesteps, config))
    packed = getattr(loaded, "packed", None)
    if packed is not None and levels:
        raise UsageError(f"--bits {bits} says what an original needs, and {model!r} is packed; give one.")
    if task is not None and kind is not None:
        need_head(loaded.config, model, task, kind, packed)
    else:
        kind = "classification" if loaded.config.labels else "lm"
    hierarchy = discover(loaded.config, loaded.shapes, kind, loaded.ties)
    uniform = list(uniform_bytes(model, hierarchy, kind, levels, layout))
    if json:
        more = {} if packed is None else {"packed": packed_value(packed)}
        print_json({**model_json(loaded, hierarchy, kind), "uniform": uniform, **more})
        return
    out = console()
    for line in headlines(loaded):
        out.print(line, soft_wrap=True)
    whole = model_table(hierarchy, kind, every)
    narrow = table_width(out, whole) > out.width
    print_table(out, model_table(hierarchy, kind, every, shapes=False) if narrow else whole)
    out.print(LEGEND, soft_wrap=True)
    if uniform:
        print_table(out, bytes_table(uniform, hierarchy.fp32_bytes()))
    if packed is not None:
        for line in packed_headlines(packed):
            out.print(line, soft_wrap=True)
        print_table(out, packed_table(packed))


@app.command()
def evaluate(
    model: Model,
    task: Task,
    data: Data = None,
    split: Split = None,
    window: Window = None,
    limit: Limit = None,
    bits: Annotated[
        float | None, typer.Option("--bits", help="2 to 16, 1.58 (ternary), 1, or 32 for float32.")
    ] = None,
    setting: Annotated[
        Path | None, typer.Option("--setting", metavar="FILE", help="Quantization setting as JSON.")
    ] = None,
    scope: Scope = None,
    quantizer: Quantizer = None,
    layout: Layout = None,
    tune: Annotated[
        int | None,
        typer.Option("--tune", metavar="STEPS", help="Tune what --bits chose by so many steps of "
                     "distillation on the calibration split.", show_default=False),
    ] = None,
    calibration_split: CalibrationSplit = None,
    calibration: Calibration = None,
    sign_embedding: SignEmbedding = True,
    embed_spike: EmbedSpike = "on",
    rescale_every: RescaleEvery = 0,
    family: Family = None,
    tokenizer: Tokenizer = None,
    timesteps: Timesteps = None,
    config: Config = None,
    matmul: Matmul = "auto",
    packed_kernels: Annotated[
        bool,
        typer.Option("--packed-kernels", help="Hold a packed model's codes, and dequantize where they are "
                     "read. [default: dequantize once]"),
    ] = False,
    device: Device = "auto",
    json: Json = False,
) -> None:  # fmt: skip
    """Measure a model on a task: unquantized, at so many bits, with a setting from a file, or packed."""
    bits = None if bits is None else plain_bits(bits)
    check_choice(bits, setting, scope, quantizer, layout, sign_embedding)
    check_tune(tune, bits, setting)
    given = read_setting(setting) if setting is not None else None
    quantizer = quantizer if given is None else given.quantizer
    spec = spec_of(
        model, task, data=data, split=split, window=window, limit=limit, quantizer=quantizer, layout=layout,
        sign_embedding=sign_embedding, device=device,
        **reading_keys(embed_spike, rescale_every, family, tokenizer, timesteps, config),
        matmul=matmul, calibration_split=calibration_split, calibration=calibration,
        tune=given.tune if given is not None else tune or 0,
    )  # fmt: skip
    watch = Watch()
    packs = bits is None and given is None
    session = open_session(spec, narrate, packed=packs, stay_packed=packed_kernels)
    packed = session.model.packed
    chosen = given or (
        setting_of(spec, session.hierarchy, bits, scope or "searched") if packed is None else packed.setting
    )
    chosen.resolve(session.hierarchy)
    if given is None and spec.tune:
        chosen = replace(chosen, tune=spec.tune)
    session.keeps_items = True
    with _bar("evaluating") as moved:
        run, _ = session.run(chosen, report=lambda progress: moved(progress.used, progress.n))
    value = {**_evaluation_json(session, chosen, run), "memory": memory_of(session, watch)}
    if json:
        print_json(value)
    else:
        print_line(_line(run))
        if packed_kernels:
            narrate(memory_line(value["memory"]))


@app.command()
def analyze(
    model: Model,
    task: Task,
    data: Data = None,
    split: Split = None,
    window: Window = None,
    limit: Limit = None,
    precisions: Annotated[
        str | None,
        typer.Option("--precisions", help="Bits to try, falling, such as 8,4,2.", show_default=False),
    ] = None,
    quantizer: Quantizer = None,
    layout: Layout = None,
    calibration_split: CalibrationSplit = None,
    calibration: Calibration = None,
    sign_embedding: SignEmbedding = True,
    embed_spike: EmbedSpike = "on",
    rescale_every: RescaleEvery = 0,
    family: Family = None,
    tokenizer: Tokenizer = None,
    timesteps: Timesteps = None,
    config: Config = None,
    matmul: Matmul = "auto",
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Measure each block alone at each precision, the rest unquantized, and show the heat map."""
    from qslm_opt.cli.sensitivity import heat_map, legend, sweep, sweep_json

    spec = spec_of(
        model, task, data=data, split=split, window=window, limit=limit, quantizer=quantizer, layout=layout,
        sign_embedding=sign_embedding, device=device,
        **reading_keys(embed_spike, rescale_every, family, tokenizer, timesteps, config),
        matmul=matmul, sensitivity_precisions=bits_list("--precisions", precisions),
        calibration_split=calibration_split, calibration=calibration,
    )  # fmt: skip
    session = open_session(spec, narrate)
    with _steps() as tell:
        result = sweep(session, tell)
    if json:
        print_json({**sweep_json(result), "model": model, "task": task})
        return
    out = console()
    print_table(out, heat_map(result))
    for line in legend(result):
        out.print(line, soft_wrap=True)


app.command()(pack)
app.command()(verify)
app.command()(train)
app.command()(generate)

# --------------------------------------------------------------------------------------------- printing


def _evaluation_json(session: Session, setting: QuantSetting, run: Evaluation) -> dict[str, Any]:
    packed = session.model.packed
    sizes = {} if packed is None else {"packed": packed_json(packed)}
    return {
        "model": session.spec.model,
        "family": session.model.config.family,
        "config": session.model.config.to_dict(),
        "assumed": session.model.assumed,
        "task": session.spec.task,
        "split": session.data.split,
        **run.to_json(),
        **_chance(run),
        "weights_hash": session.model.weights_hash,
        "setting": jsonlib.loads(setting.to_json()),
        **sizes,
    }


def _chance(run: Evaluation) -> dict[str, Any]:
    """Return the interval, and for a perplexity the standard error over windows; null for a single one."""
    from qslm_opt.evaluate.comparing import alone

    found = alone(run)
    chance = {"ci_low": found.low, "ci_high": found.high, "confidence_level": found.level}
    return chance if run.correct is not None else {**chance, "standard_error": found.error}


def _line(run: Evaluation) -> str:
    chance = _chance(run)
    if run.correct is not None:
        words = interval_words(run.metric, chance["ci_low"], chance["ci_high"])
        found = f"{metric_value(run.metric, run.value)} [{words}] ({run.correct} of {run.n} right)"
    else:
        error = chance["standard_error"]
        spread = "" if error is None else f" ± {digits(error, 2)}"
        found = f"{digits(run.value or 0.0, 7)}{spread} ({run.n:,} predicted tokens)"
    memory = f"{size(run.live_bytes)} of {size(run.fp32_bytes)} ({100 * run.saving:.1f} % saved)"
    return f"{run.metric} {found}; {memory}; {run.device}, {run.dtype}, {run.kernel}, {run.seconds:.1f} s"


@contextmanager
def _bar(text: str) -> Iterator[Callable[[int, int], bool]]:
    """Yield a function of (done, all) that moves a bar on a terminal; it never asks to stop."""
    if not sys.stderr.isatty():
        yield lambda done, count: False
        return
    from rich.progress import Progress as Bar

    with Bar(console=console(stderr=True), transient=True) as bar:
        line = bar.add_task(text, total=None)

        def move(done: int, count: int) -> bool:
            bar.update(line, completed=done, total=count)
            return False

        yield move


@contextmanager
def _steps() -> Iterator[Callable[[str, int, int], None]]:
    """Yield a function that tells what runs now: a bar on a terminal, one line each on a pipe."""
    if not sys.stderr.isatty():
        yield lambda text, done, count: narrate(f"[{done + 1}/{count}] {text}")
        return
    from rich.progress import Progress as Bar

    with Bar(console=console(stderr=True), transient=True) as bar:
        line = bar.add_task("", total=None)
        yield lambda text, done, count: bar.update(line, description=text, completed=done, total=count)
