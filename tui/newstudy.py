"""The form of a new study: its fields, the StudySpec they make, and the command line that says the same.

No Textual. Every field is a flag of ``qslm-opt study create``; the messages are the StudySpec's own.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qslm_opt.cli.spec_flags import check_steps, config_keys
from qslm_opt.errors import QslmError, UsageError
from qslm_opt.formats import Bits, plain_bits
from qslm_opt.spec import BOUNDS, DEFAULT_PRECISIONS, TASKS, StudySpec
from tui.text import cli_command


@dataclass(frozen=True)
class Field:
    """One line of the form."""

    key: str
    label: str
    value: str = ""
    hint: str = ""
    choices: Sequence[str] = ()


FIELDS: Sequence[Field] = (
    Field("name", "name", hint="letters, digits, . _ -"),
    Field("model", "model", "demo", "demo, a folder, a .pth file, or a hub id"),
    Field("family", "family", hint="told by its tensors when empty; a name or a FILE.toml"),
    Field("tokenizer", "tokenizer", hint="beside the model when empty; or a vocab.txt"),
    Field("timesteps", "time steps", hint="the model's own when empty"),
    Field("config", "config", hint="KEY=VALUE that no file says; several, with blanks"),
    Field("task", "task", "demo", choices=TASKS),
    Field("bound", "metric bound", "max_increase", choices=BOUNDS),
    Field("bound_value", "bound value", "5%", "0.02 is two points of accuracy; 5% or 1.0 of perplexity"),
    Field("memory_budget", "memory budget", "12%", "400MB, 26.5MiB, or 12% of float32"),
    Field("lambda", "lambda", hint="0.2 when empty"),
    Field("precisions", "precisions", hint=",".join(map(str, DEFAULT_PRECISIONS))),
    Field("data", "data folder", hint="parquet files; the hub when empty"),
    Field("limit", "limit", hint="all windows or sentences when empty"),
    Field("device", "device", hint="auto, cpu, cuda or cuda:N"),
    Field("workers", "workers", hint="1 when empty"),
)


def spec_of(values: Mapping[str, str]) -> StudySpec:
    """Return the spec of what is written; raise SpecError or UsageError in its own words."""
    given = {key: text.strip() for key, text in values.items() if text.strip()}
    bound, bound_value = given.pop("bound", ""), given.pop("bound_value", "")
    _whole("workers", given.pop("workers", "1"), least=1)
    mapping: dict[str, Any] = dict(given)
    if bound and bound_value:
        mapping[bound] = bound_value if bound == "max_increase" else _number(bound, bound_value)
    if "lambda" in given:
        mapping["lambda"] = _number("lambda", given["lambda"])
    for key in ("limit", "timesteps"):
        if key in given:
            mapping[key] = _whole(key, given[key])
    if "config" in given:
        mapping["config"] = config_keys(_pairs(given["config"]))
    check_steps(mapping)
    if "precisions" in given:
        mapping["precisions"] = [_bits("precisions", part) for part in given["precisions"].split(",")]
    return StudySpec.from_mapping(mapping).located(Path.cwd())


def problem_of(values: Mapping[str, str], names: Collection[str]) -> str:
    """Return why the study cannot be created, empty when it can."""
    try:
        spec = spec_of(values)
    except QslmError as error:
        return str(error)
    return f"study {spec.name!r} exists already; take another name." if spec.name in names else ""


def words_of(values: Mapping[str, str]) -> list[str]:
    """Return the words of the equal command line after ``qslm-opt``."""
    given = {key: text.strip() for key, text in values.items() if text.strip()}
    words = ["study", "create", given.pop("name", "NAME")]
    bound, value = given.pop("bound", ""), given.pop("bound_value", "")
    for field in FIELDS:
        if field.key == "bound" and bound and value:
            words += [f"--{bound.replace('_', '-')}", value]
        elif field.key == "config":
            words += _flags(given.get("config", ""))
        elif field.key in given:
            words += [f"--{field.key.replace('_', '-')}", given[field.key]]
    return words


def _flags(text: str) -> list[str]:
    """Return ``--config KEY=VALUE`` for each pair; all of it as one while it cannot be read."""
    try:
        pairs = _pairs(text)
    except UsageError:
        pairs = [text]
    return [word for pair in pairs for word in ("--config", pair)]


def command_of(values: Mapping[str, str], url: str) -> str:
    """Return the equal command line."""
    return cli_command(*words_of(values), url=url)


def _pairs(text: str) -> list[str]:
    """Return what blanks separate, as a shell does."""
    try:
        return shlex.split(text)
    except ValueError:
        raise UsageError(f"config {text!r} has a quotation mark that is open; close it.") from None


def _number(key: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"{key} {text!r} is no number; write for instance 0.02.") from None


def _bits(key: str, text: str) -> Bits:
    try:
        return plain_bits(float(text))
    except ValueError:
        raise UsageError(
            f"{key} {text.strip()!r} is no number of bits; write for instance 8 or 1.58."
        ) from None


def _whole(key: str, text: str, least: int | None = None) -> int:
    try:
        value = int(text)
    except ValueError:
        raise UsageError(f"{key} {text.strip()!r} is no whole number; write for instance 8.") from None
    if least is not None and value < least:
        raise UsageError(f"{key} {value} is out of range; it must be at least {least}.")
    return value
