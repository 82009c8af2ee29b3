"""Checks of a config: what it says of itself, before any number is computed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, get_args

from qslm_opt.errors import ModelError
from qslm_opt.hierarchy.tree import Role
from qslm_opt.models.config import MOST_BLOCKS, MOST_STEPS, ModelConfig

if TYPE_CHECKING:
    from collections.abc import Callable

    from qslm_opt.conformance.case import Case

_UNIT = re.compile(r"(input|attention\.(\d+)|output|aux)/[^/\s]+")
_PLACES = {"input": 0, "attention": 1, "output": 2, "aux": 3}
HOSTILE: dict[str, tuple[object, ...]] = {
    "int": (-(2**70), -1, 0, 2**31, 2**70), "int | None": (-(2**70), -1, 0, 2**70), "bool": (),
    "float": (float("nan"), float("inf"), -float("inf"), -1.0, 0.0, 1e300), "str": ("", "\0", "nonsense"),
}  # fmt: skip
"""Values that a damaged or malicious file may hold, by the type of a config's key."""


def check_config_round_trip(case: Case) -> None:
    """``from_dict`` reads back ``to_dict`` through JSON, and every value has the type of its key."""
    config = case.config
    values = json.loads(json.dumps(config.to_dict()))
    type(config).check_keys(values)
    assert set(values) == set(config.key_names()), "to_dict() must have exactly the config's keys."
    assert type(config).from_dict(values) == config, "from_dict(to_dict()) must give an equal config back."
    assert type(config).from_dict({**values, "not a key": 1}) == config, (
        "from_dict must ignore keys that are not the config's."
    )


def check_config_rejects(case: Case) -> None:
    """Unknown keys and values of another type raise ModelError."""
    kind, shapes = type(case.config), case.config.tensor_shapes()
    assert _refuses(lambda: kind.check_keys({"not_a_key": 1})), (
        "check_keys must raise ModelError for an unknown key."
    )
    assert _refuses(lambda: kind.from_shapes(shapes, not_a_key=1)), (
        "from_shapes must raise ModelError for a key that is no key of the config."
    )
    for key in kind.key_names():
        assert _refuses(lambda key=key: kind.check_keys({key: [1]})), (  # type: ignore[misc]
            f"check_keys must refuse a list as the value of {key!r}."
        )
    assert _refuses(lambda: kind.from_shapes({"of.another.family": (3, 3)})), (
        "from_shapes must raise ModelError for names of another family."
    )


def check_hostile_values(case: Case) -> None:
    """A value from a damaged file raises ModelError or is harmless; nothing else is raised, nothing hangs."""
    for key, kind in case.config.key_types().items():
        for value in HOSTILE[kind]:
            try:
                config = replace(case.config, **{key: value})
            except ModelError:
                continue
            except Exception as error:
                raise AssertionError(
                    f"config key {key!r} set to {value!r} must raise ModelError, not "
                    f"{type(error).__name__}: {error}"
                ) from error
            assert value == value, f"config key {key!r} must not be NaN; check it with at_least."
            _check_bounded(config, key, value)


def _check_bounded(config: ModelConfig, key: str, value: object) -> None:
    """A config that was accepted can be asked everything, in time and memory that its tensors bound."""
    assert 1 <= config.timesteps <= MOST_STEPS, (
        f"config key {key!r} set to {value!r} gives {config.timesteps} time steps; at most {MOST_STEPS} may "
        "be accepted."
    )
    try:
        if config.blocks > MOST_BLOCKS:  # the loader refuses more blocks than tensors before it asks more
            return
        config.tensor_shapes(), config.modules(), config.sites(), config.semantics(), config.describe()
    except ModelError:
        pass
    except Exception as error:
        raise AssertionError(
            f"with config key {key!r} set to {value!r} it raises {type(error).__name__} ({error}); "
            "refuse the value in __post_init__ with ModelError."
        ) from error


def check_shapes_round_trip(case: Case) -> None:
    """``from_shapes(tensor_shapes())`` gives the config back; with ``semantics()`` nothing is missing."""
    config, shapes = case.config, case.config.tensor_shapes()
    kind = type(config)
    assert kind.from_shapes(shapes, **config.to_dict()) == config, (
        "from_shapes must take every key that it is given, and give the config back."
    )
    found = kind.from_shapes(shapes, **config.semantics())
    for what in ("tensor_shapes", "modules", "sites", "semantics"):
        assert getattr(found, what)() == getattr(config, what)(), (
            f"from_shapes(tensor_shapes(), **semantics()) has another {what}(): shapes and semantics() "
            "together must tell everything."
        )


def check_facts(case: Case) -> None:
    """Sizes are possible, and the model has a head."""
    config = case.config
    assert case.kinds, "the config has neither labels nor generates: give one with a head."
    for key in ("blocks", "vocabulary", "stream_width", "widest"):
        assert getattr(config, key) >= 1, f"{key} is {getattr(config, key)}; it must be at least 1."
    assert 1 <= config.timesteps <= MOST_STEPS, f"timesteps is {config.timesteps}; use 1 to {MOST_STEPS}."
    assert config.longest is None or config.longest >= 1, "longest must be None or at least 1."
    assert len(config.describe().splitlines()) == 1, "describe() must be one line that names the model."
    assert config.family == case.family.name, "the config's family must be the name of its Family."


def check_hierarchy(case: Case) -> None:
    """``modules()`` covers every tensor exactly once, under legal units in the order of the model."""
    config, shapes = case.config, case.config.tensor_shapes()
    placed = [name for names in config.modules().values() for name in names]
    for name in shapes:
        assert placed.count(name) == 1, (
            f"tensor {name!r} stands in {placed.count(name)} modules; modules() must name each exactly once."
        )
    assert set(placed) == set(shapes), (
        f"modules() names {sorted(set(placed) - set(shapes))[:3]}, which tensor_shapes() has not."
    )
    order = list(_places(config))
    assert order == sorted(order), (
        "modules() must be in the order input, attention.0, attention.1, …, output, aux."
    )
    found = sorted({number for place, number in order if place == 1})
    assert found == list(range(config.blocks)), (
        f"modules() has attention blocks {found}; it must have 0 to {config.blocks - 1}, as blocks says."
    )
    for kind in case.kinds:
        case.hierarchy(kind)


def _places(config: ModelConfig) -> Iterator[tuple[int, int]]:
    for unit in config.modules():
        found = _UNIT.fullmatch(unit)
        assert found, (
            f"unit {unit!r} is not legal; write input/…, attention.N/…, output/… or aux/… with one slash."
        )
        yield _PLACES[unit.partition("/")[0].partition(".")[0]], int(found[2] or 0)


def check_roles(case: Case) -> None:
    """Every tensor has a known role, and what is searched is a matrix that a task reads."""
    config, known = case.config, get_args(Role)
    for name, shape in config.tensor_shapes().items():
        role = config.role(name)
        assert role in known, f"tensor {name!r} has role {role!r}; use one of {', '.join(known)}."
        if role in ("embedding", "matrix", "head"):
            assert len(shape) >= 2, f"tensor {name!r} of shape {shape} is a vector; it cannot be a {role}."
    aux = [n for unit, names in config.modules().items() if unit.startswith("aux/") for n in names]
    for kind in case.kinds:
        for name in aux:
            assert not config.is_live(name, kind), f"tensor {name!r} stands in aux but is live for {kind}."
        searched = [t for t in case.hierarchy(kind).tensors() if t.searched]
        assert searched, f"a {kind} task has nothing to search; give matrices the role matrix."


def check_products_are_matrices(case: Case) -> None:
    """``products()``, ``read_by_row()`` and ``head()`` name tensors [N, K] of the model."""
    shapes, products = case.config.tensor_shapes(), case.family.products(case.config)
    for name in (*products, *case.family.read_by_row(case.config)):
        assert name in shapes, f"products() or read_by_row() names {name!r}, which is no tensor."
        assert len(shapes[name]) == 2, f"{name!r} is read by products or rows; it must be two-dimensional."
    if case.config.generates:
        head = case.family.head(case.config)
        assert products.get(head) is True, f"products() must name the language-model head {head!r}: True."


def check_sites(case: Case) -> None:
    """``sites()`` are in the order in which they compute, each in a block that there is."""
    config = case.config
    blocks = [-1 if site.block is None else site.block for site in config.sites().values()]
    assert blocks == sorted(blocks), "sites() must stand in the order in which they compute."
    for name, site in config.sites().items():
        assert site.block is None or 0 <= site.block < config.blocks, f"site {name!r} is in no block."
        assert site.width >= 1, f"site {name!r} has {site.width} neurons a token."


def _refuses(call: Callable[[], Any]) -> bool:
    try:
        call()
    except ModelError:
        return True
    return False
