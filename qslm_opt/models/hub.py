"""A model on the Hugging Face hub by its config.json alone: no weights are fetched. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qslm_opt.errors import ModelError
from qslm_opt.models.declared import CONFIG, OpenConfigError, describe_model, read_config
from qslm_opt.models.locate import hub_id, weights_in
from qslm_opt.models.packed_file import PACKED_NAME
from qslm_opt.models.registry import family_of_type

if TYPE_CHECKING:
    from qslm_opt.models.config import Shapes
    from qslm_opt.models.declared import DescribedModel

_WEIGHTS = (".safetensors", ".pth", ".pt", ".bin")
HEADERS = "the headers of its safetensors"


def describe_on_hub(source: str, keys: Mapping[str, Any]) -> DescribedModel | None:
    """Return what the config.json of a hub id says; ``keys`` are the keywords of ``describe_model``.

    Where it leaves sizes open, the headers of its safetensors files tell them.

    Returns:
        None where the whole model has to be read: ``source`` is no hub id, its checkpoint is cached or
        packed, there is no config.json that tells the family, or sizes stand in the tensors alone.

    Raises:
        ModelError, UsageError: as ``describe_model``.
    """
    found = hub_id(source)
    if found is None:
        return None
    path = _config(*found)
    if path is None or not _tells_family(path, keys.get("family")):
        return None
    try:
        return replace(describe_model(source, path, **keys), fetched=(CONFIG,))
    except OpenConfigError as error:
        if not error.told_by_shapes:
            raise
    shapes = _shapes(*found)
    try:
        described = None if shapes is None else describe_model(source, path, shapes=shapes, **keys)
    except ModelError:  # names that the family reads only with their tensors
        return None
    return None if described is None else replace(described, fetched=(CONFIG, HEADERS))


def _tells_family(path: Path, wanted: str | None) -> bool:
    return wanted is not None or family_of_type(str(read_config(path).get("model_type"))) is not None


def _config(repo: str, revision: str | None) -> Path | None:
    """Return the cached or fetched config.json; None where the checkpoint itself is to be read."""
    import huggingface_hub

    try:
        listed = huggingface_hub.HfApi().model_info(repo, revision=revision)
    except Exception:  # noqa: BLE001 - no network, or none wanted: what is cached has to do
        return _cached(repo, revision)
    names = [file.rfilename for file in listed.siblings or ()]
    if CONFIG not in names or PACKED_NAME in names or _has_weights(repo, listed.sha, names):
        return None
    try:
        return Path(huggingface_hub.hf_hub_download(repo, CONFIG, revision=listed.sha or revision))
    except Exception:  # noqa: BLE001 - the hub client's own, the HTTP library's and the system's
        return _cached(repo, revision)


def _cached(repo: str, revision: str | None) -> Path | None:
    """Return the cached config.json where no checkpoint is cached beside it."""
    path = _cached_config(repo, revision)
    return None if path is None or weights_in(path.parent) else path


def _has_weights(repo: str, revision: str | None, names: Sequence[str]) -> bool:
    """Return whether every checkpoint file of a repository is cached at this commit."""
    path = _cached_config(repo, revision)
    weights = [name for name in names if name.endswith(_WEIGHTS)]
    kind = next((ending for ending in _WEIGHTS if any(name.endswith(ending) for name in weights)), None)
    wanted = [name for name in weights if kind is not None and name.endswith(kind)]
    return path is not None and bool(wanted) and all((path.parent / name).is_file() for name in wanted)


def _cached_config(repo: str, revision: str | None) -> Path | None:
    import huggingface_hub

    try:
        found = huggingface_hub.try_to_load_from_cache(repo, CONFIG, revision=revision)
    except ValueError:  # the hub allows no such name
        return None
    return Path(found) if isinstance(found, str) else None


def _shapes(repo: str, revision: str | None) -> Shapes | None:
    """Return the shapes of a checkpoint from the headers of its files; None where they cannot be had."""
    import huggingface_hub

    try:
        found = huggingface_hub.HfApi().get_safetensors_metadata(repo, revision=revision)
    except Exception:  # noqa: BLE001 - no safetensors there, or no network
        return None
    files = found.files_metadata.values()
    return {name: tuple(info.shape) for file in files for name, info in file.tensors.items()}
