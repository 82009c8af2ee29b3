"""From the flags of the ``model`` commands to a session and a setting."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qslm_opt.cli.spec_flags import check_steps, config_keys
from qslm_opt.errors import UsageError, did_you_mean
from qslm_opt.formats import FP32, Bits, Layout

if TYPE_CHECKING:
    from qslm_opt.data import TaskKind
    from qslm_opt.hierarchy.tree import Hierarchy
    from qslm_opt.models.declared import DescribedModel
    from qslm_opt.models.loading import LoadedModel
    from qslm_opt.pipeline import Session
    from qslm_opt.setting import QuantSetting
    from qslm_opt.spec import StudySpec

SCOPES = ("searched", "all", "linear")
"""What ``--bits`` means: the searched units, every tensor, or the matrices of the attention blocks."""


def kind_of(task: str) -> TaskKind:
    """Return whether a task is language modelling or classification; UsageError when it is neither."""
    from qslm_opt.data import TASK_KIND

    if task not in TASK_KIND:
        known = ", ".join(TASK_KIND)
        raise UsageError(f"task {task!r} is unknown; use one of {known}.{did_you_mean(task, TASK_KIND)}")
    return TASK_KIND[task]


def spec_of(model: str, task: str, *, quantizer: str | None, layout: str | None, **keys: Any) -> StudySpec:
    """Return a spec whose bounds nothing can violate."""
    from qslm_opt.spec import DEFAULT_PRECISIONS, StudySpec

    bound = {"max_drop": 1.0} if kind_of(task) == "classification" else {"max_increase": "1e9"}
    quantizer = quantizer or "rtn"
    layout = layout or {"paper": "tensor/affine", "hqq": "channel/offset"}.get(quantizer, "channel/affine")
    if layout.endswith("/offset"):  # it has none of more bits
        keys.setdefault("precisions", tuple(bits for bits in DEFAULT_PRECISIONS if bits <= 8))
    values = {"name": "model", "model": model, "task": task, "memory_budget": "100%", "quantizer": quantizer}
    return StudySpec.from_mapping({**values, **bound, "layout": layout, **keys})


def reading_keys(
    embed_spike: str,
    rescale_every: int,
    family: str | None,
    tokenizer: str | None,
    timesteps: int | None,
    config: Sequence[str] | None,
) -> dict[str, Any]:
    """Return the keys of a spec that say how a model is read, from the flags of the ``model`` commands."""
    found = {
        "embed_spike": embed_spike, "rescale_every": rescale_every, "family": family, "tokenizer": tokenizer,
        "timesteps": timesteps, "config": config_keys(config) or {},
    }  # fmt: skip
    check_steps(found)
    return found


def load_keys(reading: Mapping[str, Any]) -> dict[str, Any]:
    """Return keywords of ``load_model`` for ``reading_keys``."""
    found = dict(reading)
    steps, overrides = found.pop("timesteps"), dict(found.pop("config"))
    if steps is not None:
        overrides["timesteps"] = steps
    return {**found, "overrides": overrides}


def read_model(model: str, reading: Mapping[str, Any]) -> LoadedModel | DescribedModel:
    """Load a model; one of which the config is enough is described by that, without torch.

    That is one without weights, and one on the hub whose weights would have to be fetched.
    """
    from qslm_opt.models.declared import describe_model, find_config
    from qslm_opt.models.hub import describe_on_hub
    from qslm_opt.models.locate import check_source

    check_source(model)
    keys = load_keys(reading)
    path = find_config(model)
    described = describe_on_hub(model, keys) if path is None else describe_model(model, path, **keys)
    if described is not None:
        return described
    from qslm_opt.models.loading import load_model

    return load_model(model, **keys)


def open_session(
    spec: StudySpec, narrate: Callable[[str], None], *, packed: bool = False, stay_packed: bool = False
) -> Session:
    """Open the session; a path that does not exist is said before torch is imported."""
    from qslm_opt.models.locate import check_source

    check_source(spec.model)
    from qslm_opt.pipeline import Session

    return Session.open(spec, narrate, packed=packed, stay_packed=stay_packed)


def check_choice(
    bits: Bits | None,
    setting: Path | None,
    scope: str | None,
    quantizer: str | None,
    layout: str | None,
    sign_embedding: bool,
) -> None:
    """Raise UsageError when a flag of ``model evaluate`` cannot be, does nothing, or contradicts another."""
    if bits is not None:
        (Layout.parse(layout) if layout else Layout()).with_bits(bits)
    if bits is not None and setting is not None:
        raise UsageError(f"--bits {bits} and --setting {setting} exclude each other; give one of them.")
    if not sign_embedding and (bits is None or scope in ("all", "linear")):
        raise UsageError("--no-sign-embedding changes only --bits N in the scope 'searched'; leave it out.")
    if scope is not None and scope not in SCOPES:
        raise UsageError(f"scope {scope!r} is unknown; use {', '.join(SCOPES)}.{did_you_mean(scope, SCOPES)}")
    for flag, value in {"--scope": scope, "--quantizer": quantizer, "--layout": layout}.items():
        if value is not None and bits is None:
            raise UsageError(
                f"{flag} {value} says how --bits is meant; give --bits too, or leave {flag} out."
            )


def check_tune(steps: int | None, bits: Bits | None, setting: Path | None) -> None:
    """Raise UsageError where there is nothing that ``--tune`` could tune, or the setting says it itself."""
    if steps is None:
        return
    if setting is not None:
        raise UsageError(f"--tune {steps} and --setting {setting}: the file's own key 'tune' says the steps.")
    if bits is None or bits == 32:
        raise UsageError(f"--tune {steps} tunes what --bits chose; give --bits below 32, or leave it out.")


def read_setting(path: Path) -> QuantSetting:
    """Read a setting's JSON from a file."""
    from qslm_opt.setting import QuantSetting

    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"setting file {str(path)!r} cannot be read: {error}; give a JSON file.") from None
    return QuantSetting.from_json(text)


def setting_of(spec: StudySpec, hierarchy: Hierarchy, bits: Bits | None, scope: str) -> QuantSetting:
    """Return what ``--bits`` means in ``scope``; without it, or at 32 bits, nothing is quantized."""
    from qslm_opt.hierarchy.tree import NETWORK
    from qslm_opt.search.space import SearchSpace
    from qslm_opt.setting import UNQUANTIZED, QuantSetting

    if bits is None or bits == 32:
        return UNQUANTIZED
    fmt = Layout.parse(spec.layout).with_bits(bits)
    if scope == "all":
        return QuantSetting({NETWORK: fmt}, fixed=fmt, quantizer=spec.quantizer)
    if scope == "linear":
        blocks = {block.unit: fmt for block in hierarchy.blocks if block.kind == "attention"}
        return QuantSetting({NETWORK: FP32, **blocks}, fixed=FP32, quantizer=spec.quantizer)
    space = SearchSpace.of(spec, hierarchy)
    return space.setting_of(space.uniform(bits))
