"""The dashboard's part of the configuration file: ``[keymap]`` and ``[dashboard]``. No Textual at import.

::

    [keymap]
    "lam.up" = "plus"          # action id = key, or several separated by commas
    [dashboard]
    theme = "nord"
    ascii = true
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qslm_opt.errors import UsageError, did_you_mean

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TABLES = ("keymap", "dashboard")
KEYS: Mapping[str, type[object]] = {"theme": str, "ascii": bool}
"""Keys of ``[dashboard]`` and their types."""


@dataclass(frozen=True)
class Config:
    """What the file says; all of it may be left out."""

    keymap: Mapping[str, str] = field(default_factory=dict)
    """Action id → key, several separated by commas."""
    theme: str | None = None
    ascii: bool = False


def config_file() -> Path:
    """Return where the configuration is: ``$XDG_CONFIG_HOME/qslm-opt/config.toml``."""
    home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(home) / "qslm-opt" / "config.toml"


def read_config(path: Path | None = None) -> Config:
    """Return the configuration, an empty one without a file; raise UsageError on what cannot be."""
    path = path or config_file()
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return Config()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"configuration {str(path)!r} cannot be read: {error}.") from None
    try:
        return _config(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"configuration {str(path)!r} is not TOML: {error}.") from None
    except UsageError as error:
        raise UsageError(f"configuration {str(path)!r}: {error}") from None


def _config(values: Mapping[str, Any]) -> Config:
    for name, table in values.items():
        if name not in TABLES:
            raise UsageError(
                f"table [{name}] is unknown; use [keymap] or [dashboard].{did_you_mean(name, TABLES)}"
            )
        if not isinstance(table, dict):
            raise UsageError(f"{name} is {table!r}; write a table [{name}].")
    own = values.get("dashboard", {})
    for key, value in own.items():
        if key not in KEYS:
            raise UsageError(f"key {key!r} of [dashboard] is unknown.{did_you_mean(key, KEYS)}")
        if not isinstance(value, KEYS[key]):
            raise UsageError(f"{key} of [dashboard] is {value!r}; write a {KEYS[key].__name__}.")
    return Config(dict(_flat(values.get("keymap", {}))), own.get("theme"), own.get("ascii", False))


def _flat(table: Mapping[str, Any], before: str = "") -> Iterable[tuple[str, str]]:
    """Yield (action id, keys); ``lam.up = "plus"`` without quotes is a table in TOML, and means the same."""
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{name}.")
        elif isinstance(value, str) and value.strip():
            yield before + name, value
        else:
            raise UsageError(
                f'action {before}{name!s} has key {value!r}; write a key in quotes, such as "ctrl+s".'
            )


def check_keymap(keymap: Mapping[str, str], known: Iterable[str], everywhere: Mapping[str, str]) -> None:
    """Raise UsageError when an action does not exist, or takes a key that another one needs.

    ``everywhere`` is key → action of what works on every screen.
    """
    ids, given = sorted(known), dict[str, str]()
    kept = {key: action for key, action in everywhere.items() if action not in keymap}
    for action, keys in keymap.items():
        if action not in ids:
            raise UsageError(f"[keymap] names no action {action!r}.{did_you_mean(action, ids)}")
        for key in map(str.strip, keys.split(",")):
            other = kept.get(key) or (given.get(key) if action in everywhere.values() else None)
            if other is not None:
                raise UsageError(f"key {key!r} of {action} is that of {other}; give one of them another key.")
            given[key] = action


def check_theme(theme: str, known: Iterable[str]) -> None:
    """Raise UsageError when there is no such theme."""
    names = sorted(known)
    if theme not in names:
        hint = did_you_mean(theme, names)
        raise UsageError(f"theme {theme!r} is unknown; use one of {', '.join(names)}.{hint}")
