"""What the values of a mapping file may be, each by itself and together: pure, nothing of it is run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from keyword import iskeyword
from math import isfinite
from typing import Any

from qslm_opt.errors import ModelError, did_you_mean
from qslm_opt.models.config import MOST_STEPS

TENSORS_IN = ("ids", "mask", "lengths")
"""What a module can be called with."""
MASKS = ("bool", "int64", "float32")
REDUCTIONS = ("mean", "sum", "last")
MOST_TOKENS = 65_536
"""Most ids of a sentence."""
MOST_IDS, MOST_INTEGER = 2**31 - 1, 2**63 - 1
_RANGES = {
    "timesteps": (1, MOST_STEPS), "vocabulary": (1, MOST_IDS),
    "encoding.longest": (1, MOST_TOKENS), "encoding.pad_to": (1, MOST_TOKENS),
}  # fmt: skip
"""Key → least and most, where it is an integer."""
_MAY_BE_EMPTY = ("call.arguments", "modules.input", "modules.output", "modules.aux")
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,40}")
_BUILD = re.compile(r"([A-Za-z0-9_./-]+\.py|[A-Za-z_]\w*(\.[A-Za-z_]\w*)*):[A-Za-z_]\w*")
_RESET = re.compile(r"([A-Za-z_]\w*(\.[A-Za-z_]\w*)*:)?[A-Za-z_]\w*")
Tables = Mapping[str, Mapping[str, Any]]


def value(key: str, given: Any) -> None:
    """Check one value that the file gives, of the right type already; ModelError names value and bound."""
    if type(given) is int and key in _RANGES:
        in_range(key, given)
    if isinstance(given, str) and not given:
        raise ModelError(f"key {key!r} is empty; give it a value, or leave it out.")
    if isinstance(given, list):
        if not given and key not in _MAY_BE_EMPTY:
            raise ModelError(f"key {key!r} is an empty list; name what it is for, or leave it out.")
        if "" in given:
            raise ModelError(f"key {key!r} is {given!r} and holds an empty name; remove it.")
        _once(f"key {key!r} is {given!r} and", given)


def in_range(key: str, given: int, called: str = "") -> None:
    """Raise ModelError unless an integer lies in the range of ``key``."""
    least, most = _RANGES[key]
    if not least <= given <= most:
        more = ", or leave it out" if key.startswith("encoding.") else ""
        raise ModelError(
            f"{called or f'key {key!r}'} is {given}; it must be an integer from {least} to {most:,}{more}."
        )


def _once(where: str, names: Sequence[str]) -> None:
    """Raise ModelError where a name comes twice; ``where`` begins the sentence."""
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice is not None:
        raise ModelError(f"{where} names {twice!r} twice; name it once.")


def values(tables: Tables) -> None:
    """Check the values of all tables against each other."""
    top, output = tables[""], tables["output"]
    if not _NAME.fullmatch(top["name"]):
        raise ModelError(f"name {top['name']!r} must be lower-case letters, digits, - and _.")
    if not _BUILD.fullmatch(top["build"]):
        raise ModelError(f"build {top['build']!r} must be 'package.module:function' or 'file.py:function'.")
    reset = tables["neurons"]["reset"]
    if reset and not _RESET.fullmatch(reset):
        raise ModelError(
            f"neurons.reset {reset!r} must be 'package.module:function', or the name of a method."
        )
    _one_of("call.mask", tables["call"]["mask"], MASKS)
    _one_of("output.kind", output["kind"], ("classes", "tokens"))
    _one_of("output.reduce", output["reduce"], REDUCTIONS)
    _call(tables)
    _encoding(tables)
    _parts(tables["modules"])
    if (output["kind"] == "tokens") != bool(output["head"]):
        raise ModelError(
            f"output.head {output['head']!r} is of next-token logits, and output.kind is 'classes'; leave it "
            "out." if output["head"] else "output.head is missing; name the weight of the last linear layer."
        )  # fmt: skip
    own = "BC" if output["kind"] == "classes" else "BTV"
    if sorted((output["axes"] or own).replace("S", "", 1)) != sorted(own):
        raise ModelError(f"output.axes {output['axes']!r} must be {own}, or those with S for time steps.")


def _call(tables: Tables) -> None:
    handed = [*tables["call"]["arguments"], *tables["call"]["keywords"].values()]
    for what in handed:
        _one_of("call", what, TENSORS_IN)
    _once("[call]", handed)
    if "ids" not in handed:
        raise ModelError("[call] never hands the module its 'ids'; name them in arguments or keywords.")
    told = {"mask", "lengths"} & set(handed)
    if tables["output"]["kind"] == "classes" and not told and not tables["encoding"]["pad_to"]:
        raise ModelError(
            "the module is told nothing of padding; hand it mask or lengths in [call], or give "
            "encoding.pad_to, where pads are tokens like others."
        )


def _encoding(tables: Tables) -> None:
    longest, pad_to = tables["encoding"]["longest"], tables["encoding"]["pad_to"]
    if pad_to and tables["output"]["kind"] == "tokens":
        raise ModelError(
            f"encoding.pad_to is {pad_to}, but windows of a language model are never padded; leave it out, "
            "and give encoding.longest where it reads so many ids at most."
        )
    if pad_to and longest > pad_to:
        raise ModelError(
            f"encoding.longest is {longest}, above encoding.pad_to, which is {pad_to}; give at most {pad_to}."
        )


def _parts(modules: Mapping[str, Any]) -> None:
    """Raise ModelError where two parts have the same name."""
    owner: dict[str, str] = {}
    for part in ("input", "blocks", "output", "aux"):
        for name in modules[part]:
            if name in owner:
                raise ModelError(
                    f"modules.{part} and modules.{owner[name]} both name {name!r}; it belongs to one part."
                )
            owner[name] = part


def _one_of(key: str, given: object, known: tuple[str, ...]) -> None:
    if given not in known:
        raise ModelError(f"{key} {given!r} is unknown; use one of {', '.join(known)}.")


def spike_axes(axes: str, calls: str) -> None:
    """Check which axes spikes have."""
    if calls not in ("", "S", "T"):
        raise ModelError(f"neurons.spikes.calls {calls!r} must be S (a call a step) or T (a call a token).")
    letters = calls + axes
    if len(set(letters)) != len(letters) or not {"B", "T"} < set(letters) or {"B", "T", "S"} == set(letters):
        raise ModelError(
            f"neurons.spikes.axes {axes!r} with calls {calls!r} must have B, T and an axis of neurons, once."
        )


def arguments(given: Mapping[str, Any], top: Mapping[str, Any]) -> None:
    """Check the keywords of the function that builds the module, and which the top of the file names."""
    for key, item in given.items():
        if not key.isidentifier() or iskeyword(key) or key.startswith("__"):
            raise ModelError(f"argument {key!r} can be no keyword of a Python function; correct its name.")
        if not isinstance(item, (str, int, float, bool, list, dict)):
            raise ModelError(f"argument {key!r} is a {type(item).__name__}; write a number, text or list.")
        if isinstance(item, float) and not isfinite(item):
            raise ModelError(f"argument {key!r} is {item}; it must be finite.")
        if isinstance(item, int) and not -MOST_INTEGER <= item <= MOST_INTEGER:
            raise ModelError(f"argument {key!r} is {item}; it must be at most 2^63 − 1.")
    for key in ("timesteps", "vocabulary"):
        named = top[key]
        if not isinstance(named, str) or not named:
            continue
        if type(given.get(named)) is not int:
            raise ModelError(
                f"{key} names argument {named!r}, which [arguments] has not as an integer."
                f"{did_you_mean(named, given)}"
            )
        in_range(key, given[named], f"argument {named!r}, the {key},")
