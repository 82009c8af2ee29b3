"""From flags and a TOML file to a StudySpec: flags win."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qslm_opt.errors import UsageError
from qslm_opt.formats import Bits, plain_bits
from qslm_opt.spec import BOUNDS, StudySpec, read_toml

_STEPS = "timesteps"


def make_spec(name: str | None, file: Path | None, flags: Mapping[str, Any]) -> StudySpec:
    """Return the spec of a file with the flags that were given (those not None) laid over it.

    A metric bound among the flags replaces the file's; pins, exclusions and ties are added to its own.
    """
    given = {key: value for key, value in {"name": name, **flags}.items() if value is not None}
    if file is None:
        if name is None:
            raise UsageError("the study has no name; give NAME, or --spec FILE.")
        check_steps(given)
        return StudySpec.from_mapping(given)
    return lay_over({"name": file.stem, **read_toml(file)}, given)


def lay_over(values: Mapping[str, Any], flags: Mapping[str, Any]) -> StudySpec:
    """Return the spec of ``values`` under the ``flags`` that are not None; see ``make_spec``."""
    given = {key: value for key, value in flags.items() if value is not None}
    values = _without_steps(values, given)
    if any(bound in given for bound in BOUNDS):
        values = {key: value for key, value in values.items() if key not in BOUNDS}
    if "pins" in given and isinstance(values.get("pins"), dict):
        given["pins"] = {**values["pins"], **given["pins"]}
    if "config" in given and isinstance(values.get("config"), dict):
        given["config"] = {**values["config"], **given["config"]}
    for key in ("exclude", "ties"):
        if key in given and isinstance(values.get(key), (list, tuple)):
            given[key] = tuple(dict.fromkeys((*values[key], *given[key])))
    check_steps({**values, **given})
    return StudySpec.from_mapping({**values, **given})


def check_steps(values: Mapping[str, Any]) -> None:
    """Raise UsageError where the keys ``timesteps`` and ``config`` say different time steps."""
    steps, config = values.get("timesteps"), values.get("config")
    other = config.get(_STEPS) if isinstance(config, Mapping) else None
    if steps is not None and other is not None and steps != other:
        raise UsageError(f"--timesteps {steps} and --config timesteps={other} differ; give one of them.")


def _without_steps(values: Mapping[str, Any], given: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the values of a file without time steps, however they are said there, where a flag says them."""
    config = values.get("config")
    if _STEPS not in given and _STEPS not in given.get("config", ()):
        return values
    kept = {key: value for key, value in values.items() if key != _STEPS}
    if isinstance(config, Mapping):
        kept["config"] = {key: value for key, value in config.items() if key != _STEPS}
    return kept


def bits_list(flag: str, text: str | None) -> tuple[Bits, ...] | None:
    """Read ``16,8,4,1.58``."""
    if text is None:
        return None
    try:
        return tuple(plain_bits(float(part)) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{flag} {text!r} is no list of bits; write for instance 8,4,2.") from None


def pins(texts: Sequence[str]) -> dict[str, str] | None:
    """Read repeated ``UNIT=FORMAT``; None when there are none."""
    found = {}
    for text in texts:
        unit, equals, fmt = text.partition("=")
        if not (unit and equals and fmt):
            raise UsageError(f"--pin {text!r} is not UNIT=FORMAT; for instance input=int8/tensor/affine.")
        found[unit] = fmt
    return found or None


def config_keys(texts: Sequence[str] | None) -> dict[str, str | int | float | bool] | None:
    """Read repeated ``KEY=VALUE``: a number, true, false, else text; None when there are none."""
    found: dict[str, str | int | float | bool] = {}
    for text in texts or ():
        key, equals, value = text.partition("=")
        if not (key and equals and value):
            raise UsageError(f"--config {text!r} is not KEY=VALUE; for instance tau=2.0.")
        try:
            read = json.loads(value)
        except ValueError:
            read = value
        read = read if isinstance(read, (str, int, float, bool)) else value
        if key in found and found[key] != read:
            raise UsageError(f"--config {key} is given as {found[key]!r} and as {read!r}; give one of them.")
        found[key] = read
    return found or None


def reading_flags(spec: StudySpec) -> list[str]:
    """Return the flags of the ``model`` commands that read a model as ``spec`` does."""
    given = {
        "--rescale-every": spec.rescale_every or None,
        "--embed-spike": None if spec.embed_spike == "on" else spec.embed_spike,
        "--family": spec.family, "--tokenizer": spec.tokenizer, "--timesteps": spec.timesteps,
    }  # fmt: skip
    flags = [word for flag, value in given.items() if value is not None for word in (flag, str(value))]
    for key, value in spec.config.items():
        flags += ["--config", f"{key}={value if isinstance(value, str) else json.dumps(value)}"]
    return flags
