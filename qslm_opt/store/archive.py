"""The study file: one study as lines of JSON that end in a checksum.

The first line says what it is, the last one how many lines came before and the SHA-256 of their bytes. A
file that was cut, altered or written by a newer release is refused before anything of it is used. The
checksum finds damage, it is no signature: what a file says is checked as any other input.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

from qslm_opt.errors import ArchiveError, UsageError

FORMAT = "qslm-opt study"
VERSION = 1
MOST_LINE_BYTES = 4 << 20
"""A longer line is no trial of ours."""
_DAMAGED = "copy it again, or export the study anew (qslm-opt study export NAME --format study -o FILE)"


def write_archive(records: Iterable[Mapping[str, Any]], path: Path) -> int:
    """Write a study file, whole or not at all; return the number of its lines.

    Raises UsageError when ``path`` cannot be written.
    """
    part = path.with_name(f".{path.name[:100]}.{uuid4().hex[:8]}.part")
    try:
        try:
            with part.open("wb") as file:
                count = write_records(records, file)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the name
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"--output {str(path)!r} cannot be written ({reason}); give another path.") from None
    return count


def write_records(records: Iterable[Mapping[str, Any]], file: IO[bytes]) -> int:
    """Write the lines of a study file; return how many."""
    digest = sha256()
    count = _write({"kind": FORMAT, "version": VERSION}, file, digest)
    for record in records:
        count += _write(record, file, digest)
    return count + _write({"kind": "end", "lines": count, "sha256": digest.hexdigest()}, file, digest)


def _write(record: Mapping[str, Any], file: IO[bytes], digest: Any) -> int:
    line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
    digest.update(line)
    file.write(line)
    return 1


def read_archive(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the records between the first and the last line; ArchiveError at the latest after the last one.

    Until the end is reached nothing is known to be whole: use nothing of it for good before.
    """
    try:
        with path.open("rb") as file:
            yield from _records(str(path), file)
    except FileNotFoundError:
        text = f"study file {str(path)!r} does not exist; give the path of an exported one."
        raise UsageError(text) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ArchiveError(f"study file {str(path)!r} cannot be read ({reason}).") from None


def _records(path: str, file: IO[bytes]) -> Iterator[dict[str, Any]]:
    digest, count = sha256(), 0
    while True:
        line = file.readline(MOST_LINE_BYTES + 1)
        if not line.endswith(b"\n"):
            raise ArchiveError(_ended(path, line, count))
        record = _decode(path, line, count)
        if count == 0:
            _check_head(path, record)
        elif record.get("kind") == "end":
            if record != {"kind": "end", "lines": count, "sha256": digest.hexdigest()} or file.read(1):
                raise ArchiveError(f"study file {path!r} was altered: its checksum does not fit; {_DAMAGED}.")
            return
        else:
            yield record
        digest.update(line)
        count += 1


def _ended(path: str, line: bytes, count: int) -> str:
    if len(line) > MOST_LINE_BYTES:
        return f"study file {path!r} has a line of more than {MOST_LINE_BYTES >> 20} MiB: it is none of ours."
    if count == 0:
        return f"{path!r} is no study file; give one of 'qslm-opt study export NAME --format study -o FILE'."
    return f"study file {path!r} is cut off after line {count}; {_DAMAGED}."


def _decode(path: str, line: bytes, count: int) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        record = None
    if isinstance(record, dict):
        return record
    if count == 0:
        raise ArchiveError(_ended(path, b"", 0))
    raise ArchiveError(f"line {count + 1} of study file {path!r} is damaged; {_DAMAGED}.")


def _check_head(path: str, record: Mapping[str, Any]) -> None:
    if record.get("kind") != FORMAT:
        raise ArchiveError(_ended(path, b"", 0))
    version = record.get("version")
    if version != VERSION:
        raise ArchiveError(
            f"study file {path!r} has format version {str(version)[:20]}, not {VERSION}, the one that this "
            "qslm-opt reads; upgrade qslm-opt (pip install -U qslm-opt)."
        )
