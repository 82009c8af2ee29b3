"""Which units a study excludes and which it ties: names and glob patterns resolved against a hierarchy. Pure.

A pattern without ``/`` names blocks (``attention.*``), one with ``/`` modules (``attention.*/att.key``); each
side is matched on its own, so ``*`` never crosses the ``/``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from qslm_opt.errors import SettingError, did_you_mean
from qslm_opt.formats import SIGN
from qslm_opt.hierarchy.tree import NETWORK, names_module

if TYPE_CHECKING:
    from qslm_opt.formats import Format
    from qslm_opt.hierarchy.tree import Hierarchy, Module

Tie = tuple[str, ...]
"""Modules that always have the same bits, in hierarchy order."""


def excluded_modules(patterns: Sequence[str], hierarchy: Hierarchy, pins: Iterable[str]) -> tuple[str, ...]:
    """Return the searched modules that ``patterns`` take out of the search, in hierarchy order.

    Raises:
        SettingError: a pattern names nothing that is searched, or what a pin of the user names.
    """
    found: dict[str, str] = {}
    for pattern in patterns:
        for unit in _searched("exclude", pattern, hierarchy):
            found.setdefault(unit, pattern)
    for pin in pins:
        both = [unit for unit in found if pin in (unit, unit.partition("/")[0])]
        if both:
            raise SettingError(
                f"{both[0]} is both excluded (by {found[both[0]]!r}) and pinned (by {pin!r}); leave one of "
                "them out: a pin gives a format, an exclusion keeps float32."
            )
    return tuple(m.unit for m in hierarchy.modules() if m.unit in found)


def tie_groups(texts: Sequence[str], hierarchy: Hierarchy, kept: Mapping[str, Format]) -> tuple[Tie, ...]:
    """Return the groups that ``texts`` tie, each of patterns separated by commas, in hierarchy order.

    ``kept`` are the units with a format of their own: pins and exclusions.

    Raises:
        SettingError: a pattern names nothing that is searched, a group has one member or one that is kept
            at its format, or two groups share a member.
    """
    taken: dict[str, str] = {}
    groups = []
    for text in texts:
        group = _group(text, hierarchy)
        for unit in group:
            _check_member(unit, text, kept, taken)
            taken[unit] = text
        groups.append(group)
    order = {module.unit: place for place, module in enumerate(hierarchy.modules())}
    return tuple(sorted(groups, key=lambda group: order[group[0]]))


def _group(text: str, hierarchy: Hierarchy) -> Tie:
    patterns = [part.strip() for part in text.split(",")]
    members = {unit for pattern in patterns for unit in _searched("tie", pattern, hierarchy)}
    if len(members) < 2:
        raise SettingError(
            f"tie {text!r} has one member, {min(members)}; name at least two modules, or use a pattern such "
            "as 'attention.*/att.key'."
        )
    return tuple(module.unit for module in hierarchy.modules() if module.unit in members)


def _check_member(unit: str, text: str, kept: Mapping[str, Format], taken: Mapping[str, str]) -> None:
    if unit in taken:
        raise SettingError(
            f"{unit} is in the ties {taken[unit]!r} and {text!r}; join them, or take it out of one."
        )
    fmt = kept.get(unit, kept.get(unit.partition("/")[0]))
    if fmt == SIGN:
        raise SettingError(
            f"tie {text!r} holds {unit}, of which only the signs are read: it has one bit; take it out of "
            "the tie, or give --no-sign-embedding."
        )
    if fmt is not None:
        raise SettingError(
            f"tie {text!r} holds {unit}, which is kept at {fmt}; take it out of the tie, or remove the pin "
            "or exclusion."
        )


def _searched(key: str, pattern: str, hierarchy: Hierarchy) -> list[str]:
    """Return the searched modules that a pattern names; SettingError when there are none."""
    if pattern == NETWORK:
        raise SettingError(f"{key} {pattern!r} leaves nothing to search; name blocks or modules.")
    try:
        matched = [module for module in hierarchy.modules() if names_module(pattern, module.unit)]
    except re.error as error:
        raise SettingError(f"{key} {pattern!r} is no pattern: {error}.") from None
    if not matched:
        known = hierarchy.units()
        raise SettingError(f"{key} {pattern!r} names no unit of this model.{did_you_mean(pattern, known)}")
    searched = [module.unit for module in matched if module.searched]
    if not searched:
        read = any(_live(module) for module in matched)
        why = "they stay at 'fixed'" if read else "the task never reads them"
        raise SettingError(f"{key} {pattern!r} would change nothing, none of its tensors is searched: {why}.")
    return searched


def _live(module: Module) -> bool:
    return any(tensor.counted for tensor in module.tensors)
