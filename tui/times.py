"""Times as the store gives them: ISO 8601 local time without offset, or seconds since 1970. No Textual."""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache


@lru_cache(maxsize=1 << 16)
def moment(text: str | None) -> datetime | None:
    """Read an ISO 8601 local time; None when absent or unreadable."""
    try:
        return datetime.fromisoformat(text).replace(tzinfo=None) if text else None
    except ValueError:
        return None


@lru_cache(maxsize=1 << 10)
def seconds_of(text: str | None) -> float | None:
    """Return seconds since 1970 of an ISO 8601 local time; None when absent or unreadable."""
    at = moment(text)
    return None if at is None else at.timestamp()
