"""Text from elsewhere, as it may be shown and used: URLs without passwords, names without control codes."""

from __future__ import annotations

import re
from urllib.parse import quote

_CREDENTIALS = re.compile(r"^([^:/@]*://[^:/@]*|(?![^:/@]*://)[^:@]*):.*@", re.DOTALL)
_SECRETS = re.compile(r"([?&;][^=&;?]*(?:pass|pwd|secret|token)[^=&;?]*=)[^&;]*", re.IGNORECASE)
_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 but tab and newline, DEL, C1
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # what turns the direction of writing
    "\u2028\u2029\ufeff\ud800-\udfff]"  # line separators, the byte order mark, halves of a character
)
_LOOPBACK = re.compile(r"localhost|127(\.\d{1,3}){3}|\[?::1\]?", re.IGNORECASE)
_MOST_STEM = 120


def masked(url: str) -> str:
    """Return a storage URL with its passwords, before the host and among the options, as ``***``."""
    return _SECRETS.sub(r"\1***", _CREDENTIALS.sub(r"\1:***@", url))


def has_password(url: str) -> bool:
    """Return whether a storage URL carries a password."""
    return masked(url) != url


def printable(text: str) -> str:
    r"""Return text that cannot steer a terminal: control characters and the like as ``\u001b``.

    Tabs and newlines stay. JSON text keeps its meaning.
    """
    return _CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def file_stem(name: str) -> str:
    """Return a study's name as a file name of its own folder: another writer may have called it ``../x``."""
    quoted = quote(name, safe=" ", errors="backslashreplace")
    return ("%2E" + quoted[1:] if quoted.startswith(".") else quoted)[:_MOST_STEM]


def is_loopback(host: str) -> bool:
    """Return whether a server on ``host`` is reached from this machine only; unknown names are not."""
    return bool(_LOOPBACK.fullmatch(host))


def open_words(host: str) -> str:
    """Return the sentence that a server says before it listens on a host that is not loopback."""
    return (
        f"warning: on {host} everybody who can reach this machine can read, change and delete the studies, "
        "and no password is asked; leave --host out and use ssh -L, or put a proxy with a login before it."
    )
