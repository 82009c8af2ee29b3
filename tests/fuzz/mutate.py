"""Mutations of valid inputs: of bytes, of decoded JSON and of lines of text. All from a seeded generator."""

from __future__ import annotations

import copy
import json
from random import Random
from typing import Any

_BYTES = (b"\0", b"\xff", b"\x80", b"\x7f" * 8, b"\0" * 8, b"\xff" * 8, b"{", b"}", b'"', b"\n", b"[" * 5000)
_NUMBERS = (
    0, -1, 1, 2, 7, 2**31, 2**53 + 1, 2**63, 2**64 - 1, 10**30, -(2**63), 0.5, 1e308, float("nan"),
    float("inf"),
)  # fmt: skip
_TEXTS = (
    "", " ", "x", "../../x", "a'; drop table studies; --", "a\0b", "\u202e", "\x1b[2J", "\ud800", "F32",
    "I64", "BOOL", "F8_E4M3", "int4/channel/affine", "int99/tensor/affine", "sign", "network", "emb.weight",
    "x" * 10_000, "1e999", "%s", "9" * 5000,
)  # fmt: skip


def mutate_bytes(random: Random, data: bytes) -> bytes:
    """Return ``data`` after one to eight changes: flips, cuts, copies, insertions, other numbers."""
    found = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 4, 8))):
        place, kind = random.randrange(len(found) + 1), random.randrange(7)
        end = min(len(found), place + random.choice((1, 2, 8, 64, 512)))
        if kind == 0 and found:
            found[place % len(found)] ^= 1 << random.randrange(8)
        elif kind == 1 and found:
            found[place % len(found)] = random.randrange(256)
        elif kind == 2:
            del found[place:end]
        elif kind == 3:
            found[place:place] = found[place:end]
        elif kind == 4:
            found[place:place] = random.choice(_BYTES)
        elif kind == 5:
            number = random.choice((0, 1, 2**16, 2**31, 2**32 - 1, 2**40, 2**63, 2**64 - 1))
            found[place : place + 8] = number.to_bytes(8, "little")
        elif random.random() < 0.3:
            del found[place:]
    return bytes(found)


def mutate_json(random: Random, value: Any) -> Any:
    """Return a copy of decoded JSON after one to four changes anywhere inside."""
    found = [copy.deepcopy(value)]
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        parent: Any = found
        key: Any = 0
        while isinstance(parent[key], (dict, list)) and parent[key] and random.random() < 0.85:
            parent = parent[key]
            key = random.choice(list(parent)) if isinstance(parent, dict) else random.randrange(len(parent))
        _change(random, parent, key)
    return found[0]


def _change(random: Random, parent: Any, key: Any) -> None:
    kind, old = random.randrange(8), parent[key]
    if kind == 0 and not (isinstance(parent, list) and len(parent) == 1):
        del parent[key]
    elif kind == 1 and isinstance(parent, dict):
        parent[random.choice(_TEXTS)] = old
    elif kind == 2 and isinstance(parent, list):
        parent.insert(random.randrange(len(parent) + 1), copy.deepcopy(old))
    elif kind == 3 and isinstance(old, (int, float)) and not isinstance(old, bool):
        parent[key] = random.choice((old + 1, old - 1, -old, old * 2, old * 2**32, str(old)))
    elif kind == 4 and isinstance(old, str):
        parent[key] = mutate_text(random, old)
    else:
        parent[key] = random_value(random)


def random_value(random: Random, depth: int = 0) -> Any:
    """Return some JSON value, now and then a deep or a wide one."""
    kind = random.randrange(8)
    if kind == 0:
        return random.choice(_TEXTS)
    if kind in (1, 2):
        return random.choice(_NUMBERS)
    if kind == 3:
        return random.choice((None, True, False))
    if kind == 4 and depth < 3:
        return [random_value(random, depth + 1) for _ in range(random.randrange(4))]
    if kind == 5 and depth < 3:
        return {random.choice(_TEXTS): random_value(random, depth + 1) for _ in range(random.randrange(3))}
    if kind == 6 and random.random() < 0.05:
        return [0] * 20_000
    return random.choice(_TEXTS)


def mutate_text(random: Random, text: str) -> str:
    """Return ``text`` after a change: of a character, a line, a number or its end."""
    place, kind = random.randrange(len(text) + 1), random.randrange(6)
    lines = text.splitlines(keepends=True)
    if kind == 0:
        return text[:place] + random.choice(_TEXTS) + text[place:]
    if kind == 1:
        return text[:place] + text[place + random.choice((1, 2, 10)) :]
    if kind == 2:
        return text[:place]
    if kind == 3 and lines:
        lines.insert(random.randrange(len(lines)), random.choice(lines))
        return "".join(lines)
    if kind == 4:
        return text[:place] + random.choice("\0\n\"'[]{}\u202e\U0001f600") + text[place:]
    new = random.choice(("", "9" * 400, "[[", "-", "1e9", "{"))
    return text.replace(random.choice("0123456789=\"'[]{},"), new, 1)


def dump(value: Any) -> bytes:
    """Return JSON text of a mutated value; halves of characters stay escaped."""
    return json.dumps(value).encode()
