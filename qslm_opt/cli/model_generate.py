"""``qslm-opt model generate``: continue a text, and say how fast and in how much memory."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qslm_opt.cli.memories import memory_line
from qslm_opt.cli.model_options import Device, EmbedSpike, Matmul, Model, RescaleEvery
from qslm_opt.cli.options import Json
from qslm_opt.cli.output import digits, narrate, print_json, print_line
from qslm_opt.errors import ModelError, UsageError
from qslm_opt.safe import printable

if TYPE_CHECKING:
    from qslm_opt.evaluate.generate import Generation, Stepper
    from qslm_opt.measure.meter import Meter
    from qslm_opt.models.resident import StoredModel
    from qslm_opt.results import PowerWindow


def generate(
    model: Model,
    prompt: Annotated[str, typer.Option("--prompt", help="Text to continue.", show_default=False)],
    tokens: Annotated[int, typer.Option("--tokens", min=1, max=100_000, help="How many to generate.")] = 64,
    temperature: Annotated[
        float, typer.Option("--temperature", min=0.0, max=100.0, help="0: always the most likely token.")
    ] = 0.0,
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="Of the drawing, with --temperature above 0.")
    ] = 0,
    embed_spike: EmbedSpike = "on",
    rescale_every: RescaleEvery = 0,
    matmul: Matmul = "auto",
    device: Device = "auto",
    json: Json = False,
) -> None:  # fmt: skip
    """Continue a text, one token at a time; a packed model's codes are dequantized where they are read.

    Reports milliseconds per token, and three memories: file, weights as they are held, and peak.
    """
    if seed and not temperature:
        raise UsageError(f"--seed {seed} does nothing without --temperature; give one above 0 too.")
    from qslm_opt.models.locate import check_source

    check_source(model)
    from qslm_opt.evaluate.running import Running, open_running

    run: Running = open_running(model, device, matmul, embed_spike, rescale_every, narrate)
    ids = _encode(run.stored, prompt)
    meter = run.open_meter()
    told = _typist(run, prompt, json)
    try:
        made, window = _generate(run.stepper, ids, tokens, temperature, seed, meter, told)
        value = _value(run, made, window, meter, prompt)
    finally:
        meter.close()
    if json:
        print_json(value)
        return
    if not sys.stdout.isatty():
        print_line(value["text"])
    for line in _lines(value):
        narrate(line)


def _encode(stored: StoredModel, prompt: str) -> list[int]:
    assert stored.tokenizer is not None
    ids: list[int] = stored.tokenizer.encode(prompt).ids
    if not ids:
        raise UsageError(f"--prompt {prompt!r} has no tokens; give a text that is not empty.")
    if max(ids) >= stored.config.vocab_size:
        raise ModelError(
            f"the tokenizer of {stored.source!r} gives token id {max(ids)}, but the model's vocabulary has "
            f"{stored.config.vocab_size} rows; put the tokenizer the model was trained with beside it."
        )
    return ids


def _generate(
    stepper: Stepper, ids: list[int], tokens: int, temperature: float, seed: int, meter: Meter,
    told: Callable[[int], None],
) -> tuple[Generation, PowerWindow | None]:  # fmt: skip
    from qslm_opt.evaluate.generate import generate

    with meter.window() as window:
        made = generate(stepper, ids, tokens, temperature=temperature, seed=seed, told=told)
    return made, window.result(items=len(ids) - 1 + tokens)


def _typist(run: Any, prompt: str, as_json: bool) -> Callable[[int], None]:
    """Return what shows the text as it grows on a terminal; elsewhere it is printed at the end."""
    if as_json or not sys.stdout.isatty():
        return lambda token: None
    ids: list[int] = []
    shown = ""
    sys.stdout.write(printable(prompt))

    def show(token: int) -> None:
        nonlocal shown
        ids.append(token)
        text = run.stored.tokenizer.decode(ids)
        if text.startswith(shown) and not text.endswith("\ufffd"):
            sys.stdout.write(printable(text[len(shown) :]))
            sys.stdout.flush()
            shown = text

    return show


def _value(
    run: Any, made: Generation, window: PowerWindow | None, meter: Meter, prompt: str
) -> dict[str, Any]:
    return {
        "model": run.stored.source, "packed": run.stored.packed, "prompt": prompt,
        "text": run.stored.tokenizer.decode(list(made.tokens)), "tokens": len(made.tokens),
        "token_ids": list(made.tokens), "prompt_tokens": made.prompt_tokens,
        "ms_per_token": made.ms_per_token, "ms_per_token_median": made.ms_median,
        "tokens_per_s": made.tokens_per_s, "prompt_seconds": made.prompt_seconds,
        "memory": run.memory(), "device": run.stepper.device_name, "dtype": run.stepper.dtype,
        "kernel": run.stepper.kernel, "power": _power(window, meter),
    }  # fmt: skip


def _power(window: PowerWindow | None, meter: Meter) -> dict[str, Any]:
    """Return watts and joules of the whole run, prompt included; null and the reason where none were read."""
    if window is None:
        return {"mean_w": None, "token_j": None, "reason": meter.reason or "the run was too short"}
    return {
        "mean_w": window.mean_w, "std_w": window.std_w, "idle_w": window.idle_w, "token_j": window.item_j,
        "source": window.source, "samples": window.samples, "steady": window.steady, "reason": None,
    }  # fmt: skip


def _lines(value: dict[str, Any]) -> list[str]:
    memory, power = value["memory"], value["power"]
    first = (
        f"{value['tokens']} tokens, {digits(value['ms_per_token'], 3)} ms each (median "
        f"{digits(value['ms_per_token_median'], 3)}), {digits(value['tokens_per_s'], 4)} tokens/s; "
        f"{value['device']}, {value['dtype']}, {value['kernel']}"
    )
    watts = (
        f"power n/a: {power['reason']}" if power["mean_w"] is None
        else f"power {digits(power['mean_w'], 4)} W, {digits(1e3 * (power['token_j'] or 0), 4)} mJ a token"
    )  # fmt: skip
    return [first, memory_line(memory), watts]
