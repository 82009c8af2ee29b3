"""Columns of a data set through the ``datasets`` library: local parquet files, or the Hugging Face hub."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from qslm_opt.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

_SHARD = re.compile(r"(?P<split>.+?)-(?P<index>\d{5})-of-(?P<count>\d{5})")


@dataclass(frozen=True)
class HubData:
    """A data set on the hub, and the folder name it has in local copies."""

    repo: str
    config: str


@dataclass(frozen=True)
class Rows:
    """Some columns of one split, whole."""

    columns: dict[str, list[Any]]
    source: str


def read_rows(task: str, hub: HubData, data_dir: str | None, split: str, columns: tuple[str, ...]) -> Rows:
    """Read columns of one split from ``data_dir``, or from the hub when it is None.

    Raises:
        DataError: folder, split or column missing, unreadable or empty; or the hub cannot be reached.
    """
    if data_dir is None:
        dataset, source = _from_hub(task, hub, split), f"{hub.repo}/{hub.config}"
        return Rows(_columns(task, dataset, split, columns, source), source)
    files = find_parquet(task, hub, Path(data_dir), split)
    with TemporaryDirectory(prefix="qslm-opt-") as cache, _quiet():
        dataset = _from_files(task, files, split, cache)
        source = str(files[0].parent)
        return Rows(_columns(task, dataset, split, columns, source), source)


def find_parquet(task: str, hub: HubData, folder: Path, split: str) -> list[Path]:
    """Return the files of a split in ``folder`` or its subfolder named as on the hub.

    ``SPLIT.parquet`` or ``SPLIT-00000-of-00002.parquet`` with all its parts.
    """
    with suppress(RuntimeError):  # there is no such user
        folder = folder.expanduser()
    if not _is_folder(folder):
        raise DataError(f"task {task}: {_no_folder(folder)}")
    names = dict.fromkeys((".", task, hub.config, f"{hub.config}/data", "data"))
    places = [folder / name for name in names if (folder / name).is_dir()]
    present: dict[str, list[Path]] = {}
    for place in places:
        found = _splits(place)
        if split in found:
            return _complete(task, split, found[split])
        present |= found
    have = f"it has {', '.join(sorted(present))}" if present else "it has no parquet file"
    raise DataError(
        f"task {task}: no {split}.parquet in {str(folder)!r} ({have}); choose another --split or folder."
    )


def _no_folder(path: Path) -> str:
    try:
        there = path.exists()
    except (OSError, ValueError):  # name too long, NUL byte
        there = False
    if there:
        return f"{str(path)!r} is a file; give --data the folder that it is in, here {str(path.parent)!r}."
    return f"the data folder {str(path)!r} does not exist; give --data a folder."


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # name too long, NUL byte
        return False


def _splits(folder: Path) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*.parquet")):
        match = _SHARD.fullmatch(path.stem)
        found.setdefault(match["split"] if match else path.stem, []).append(path)
    return found


def _complete(task: str, split: str, paths: list[Path]) -> list[Path]:
    """Return one whole file, or all parts of a split; raise DataError when one is missing."""
    whole = [path for path in paths if path.stem == split]
    if whole:
        return whole
    matches = [match for path in paths if (match := _SHARD.fullmatch(path.stem))]
    counts = {int(match["count"]) for match in matches}
    if len(counts) != 1 or sorted(int(match["index"]) for match in matches) != list(range(counts.pop())):
        raise DataError(
            f"task {task}: split {split!r} in {str(paths[0].parent)!r} is incomplete "
            f"({', '.join(path.name for path in paths)}); copy all its parts."
        )
    return paths


def _from_files(task: str, files: list[Path], split: str, cache: str) -> Dataset:
    from datasets import load_dataset
    from pyarrow.parquet import read_metadata

    try:
        if any(read_metadata(path).num_rows for path in files):  # the library fails on files without rows
            return load_dataset(
                "parquet", data_files={split: [str(path) for path in files]}, split=split,
                cache_dir=cache, keep_in_memory=True,
            )  # fmt: skip
    except Exception as error:  # noqa: BLE001 - datasets wraps any reader's error in its own
        reason = _reason(error.__cause__ or error)
        raise DataError(
            f"task {task}: {str(files[0])!r} cannot be read as parquet ({reason}); copy it again."
        ) from None
    raise _empty(task, split, str(files[0].parent))


def _from_hub(task: str, hub: HubData, split: str) -> Dataset:
    from datasets import load_dataset

    try:
        with _quiet():
            return load_dataset(hub.repo, hub.config, split=split)
    except Exception as error:  # noqa: BLE001 - the hub raises its own, the HTTP library's and the system's errors
        if isinstance(error, ValueError) and "split" in str(error).lower():
            raise DataError(f"task {task}: {hub.repo} has no split {split!r} ({_reason(error)}).") from None
        raise DataError(
            f"task {task}: {hub.repo} ({hub.config}) could not be loaded from the Hugging Face hub "
            f"({_reason(error)}); give --data DIR with {split}.parquet."
        ) from None


def _columns(
    task: str, dataset: Dataset, split: str, columns: tuple[str, ...], source: str
) -> dict[str, list[Any]]:
    for column in columns:
        if column not in dataset.column_names:
            raise DataError(
                f"task {task}: split {split!r} of {source} has no column {column!r} "
                f"(it has {', '.join(dataset.column_names)}); give data in the hub's layout."
            )
    if len(dataset) == 0:
        raise _empty(task, split, source)
    return {column: list(dataset[column]) for column in columns}


def _empty(task: str, split: str, source: str) -> DataError:
    return DataError(f"task {task}: split {split!r} of {source} is empty; give one with rows.")


def check_texts(task: str, column: str, values: list[Any]) -> list[str]:
    """Return ``values`` when every one is text; raise DataError that names the first row that is not."""
    for row, value in enumerate(values):
        if not isinstance(value, str):
            raise DataError(
                f"task {task}: row {row} of column {column!r} holds {value!r}, not text; correct the row."
            )
    return values


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the library's progress bars off the terminal, and give them back as they were."""
    from datasets.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    before = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not before:
            enable_progress_bars()


def _reason(error: BaseException) -> str:
    """Return the first line of an error, without its full stop."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
