"""Where a model's files are: the packaged demo, a local folder or file, or the Hugging Face hub. No torch.

``ORG/NAME@REVISION`` pins a hub id to a commit, tag or branch. ``#sha256=HEX`` behind any model pins the
bytes of its checkpoint (one sum for each shard, by name, with commas): other bytes are refused before any of
them is read as weights.

A folder holds ``model.safetensors`` (or its shards, with or without an index), else one ``.pth``;
``tokenizer.json``, ``20B_tokenizer.json`` or a WordPiece ``vocab.txt``; and optionally ``config.json``, whose
keys win over what the tensors' shapes say.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from hashlib import sha256
from importlib.resources import files
from pathlib import Path

from qslm_opt.errors import ModelError, UsageError

DEMO = "demo"
TOKENIZERS = ("tokenizer.json", "20B_tokenizer.json", "vocab.txt")
_HUB_ID = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([\w][\w./-]*))?", re.ASCII)
_SHA256 = "#sha256="
_SUM = re.compile(r"[0-9a-fA-F]{64}", re.ASCII)
_CHECKPOINT_SUFFIXES = (".pth", ".pt", ".bin", ".safetensors", ".json", ".ckpt")
_SHARDS = "model-*-of-*.safetensors"
_INDEX = "model.safetensors.index.json"
"""Says in which shard each tensor is; where it lies, its shards are the checkpoint."""
_WEIGHTS = ("model.safetensors", _SHARDS, "*.safetensors", "pytorch_model.bin", "*.pth", "*.pt")
_SMALL_FILES = ["config.json", *TOKENIZERS, "tokenizer_config.json", "*.safetensors", _INDEX]


@dataclass(frozen=True)
class ModelFiles:
    """The files of one model."""

    weights: tuple[Path, ...]
    """One checkpoint, or all shards of one."""
    config: Path | None
    tokenizer: Path | None


@dataclass(frozen=True)
class KnownModel:
    """A public checkpoint of the original authors, pinned."""

    revision: str
    file: str
    sha256: str
    tokenizer_repo: str
    """Hub id whose ``tokenizer.json`` the model was trained with, used when its own repository has none."""


KNOWN = {
    "ridger/SpikeGPT-OpenWebText-216M": KnownModel(
        "4039295cca3da1df0e5871f4bc7727b227496132",
        "SpikeGPT-216M.pth",
        "024d2dab5f71b6bd8d4f3ef38bf9bd61c54b2ea8f9efe4b57517bf9b6b0328de",
        "EleutherAI/gpt-neox-20b",
    )
}


def find_model(source: str) -> ModelFiles:
    """Return the files of ``demo``, a local folder or file, or a hub id, which is downloaded.

    Raises:
        UsageError: ``source`` is neither a path that exists nor a hub id.
        ModelError: the folder has no weights, the download failed, or a checkpoint is not the pinned one.
    """
    check_source(source)
    source, _, sums = source.partition(_SHA256)
    found = _find(source)
    if sums:
        _check_sums(source, found.weights, sums.lower().split(","))
    return found


def _find(source: str) -> ModelFiles:
    if source == DEMO:
        return _demo()
    path = Path(source).expanduser()
    if not path.exists():
        return _from_hub(source)
    if path.is_file() and path.suffix == ".json":
        raise UsageError(
            f"model {source!r} is a JSON file and holds no weights, and only 'model info' reads a config.json"
            " alone; give the folder or the file of the weights."
        )
    return _in_folder(path) if path.is_dir() else _beside(path)


def _check_sums(source: str, weights: tuple[Path, ...], sums: list[str]) -> None:
    if len(sums) != len(weights):
        raise UsageError(
            f"model {source!r} has {len(weights)} checkpoint files but {len(sums)} sums are given after "
            f"{_SHA256!r}; give one for each file, sorted by name."
        )
    for path, wanted in zip(weights, sums, strict=True):
        _check_digest(path, wanted, "pinned")


def find_tokenizer(path: str) -> Path:
    """Return a tokenizer's file, given itself or its folder; UsageError where there is none."""
    place = Path(path).expanduser()
    found = _first(place, TOKENIZERS) if place.is_dir() else place
    if found is None:
        raise UsageError(
            f"tokenizer {path!r} is a folder without {', '.join(TOKENIZERS)}; give the path of the file."
        )
    if not found.is_file():
        raise UsageError(f"tokenizer {path!r} does not exist; give a tokenizer.json or WordPiece vocab.txt.")
    return found


def check_source(source: str) -> None:
    """Raise UsageError at once, without a download, when ``source`` can be no model."""
    whole, (source, mark, sums) = source, source.partition(_SHA256)
    if mark and not all(_SUM.fullmatch(one) for one in sums.split(",")):
        raise UsageError(
            f"model {whole!r} has {sums[:70]!r} after {_SHA256!r}; write the 64 hex digits of "
            "sha256sum, one for each checkpoint file, with commas."
        )
    if source == DEMO or (source and _exists(source)):
        return
    local = source.startswith((".", "/", "~")) or source.lower().endswith(_CHECKPOINT_SUFFIXES)
    if local or not _HUB_ID.fullmatch(source):
        raise UsageError(
            f"model {source!r} does not exist; give 'demo', a folder, a .pth file, "
            "or a Hugging Face id such as ORG/NAME."
        )


def _exists(source: str) -> bool:
    try:
        return Path(source).expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # name too long, NUL byte, no such user
        return False


def _demo() -> ModelFiles:
    folder = Path(str(files("qslm_opt"))) / "data" / "demo_model"
    if not folder.is_dir():
        raise ModelError(f"the demo model is not in this installation ({folder}); install qslm-opt again.")
    return _in_folder(folder)


def weights_in(folder: Path) -> bool:
    """Return whether a folder holds a checkpoint, or the index of one."""
    return (folder / _INDEX).is_file() or any(next(folder.glob(p), None) for p in _WEIGHTS)


def _in_folder(folder: Path) -> ModelFiles:
    index = folder / _INDEX
    if index.is_file() and not (folder / _WEIGHTS[0]).is_file():
        return ModelFiles(_shards(index), _first(folder, ("config.json",)), _first(folder, TOKENIZERS))
    for pattern in _WEIGHTS:
        found = tuple(sorted(folder.glob(pattern)))
        if len(found) > 1 and pattern != _SHARDS:
            names = ", ".join(p.name for p in found[:4])
            raise UsageError(
                f"folder {str(folder)!r} holds {len(found)} checkpoints ({names}); give the path of one."
            )
        if found:
            return ModelFiles(found, _first(folder, ("config.json",)), _first(folder, TOKENIZERS))
    raise ModelError(
        f"folder {str(folder)!r} holds no model.safetensors and no .pth file; give a folder that does."
    )


def _shards(index: Path) -> tuple[Path, ...]:
    """Return the shards that an index names, by name; ModelError where it is damaged or one is not there."""
    try:
        shards = json.loads(index.read_text("utf-8"))["weight_map"].values()
        names = sorted({str(name) for name in shards})
    except (OSError, ValueError, RecursionError, TypeError, KeyError, AttributeError) as error:
        raise ModelError(
            f"index {str(index)!r} cannot be read ({error}); copy or download it again, or remove it."
        ) from None
    for name in names:
        if not name.endswith(".safetensors") or Path(name).name != name or "\\" in name:
            raise ModelError(f"index {str(index)!r} names {name[:80]!r}, which is no .safetensors beside it.")
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing or not names:
        raise ModelError(
            f"index {str(index)!r} names {len(names)} shards, of which {len(missing)} are not beside it "
            f"({', '.join(missing[:3])}); copy or download them too."
        )
    return tuple(index.parent / name for name in names)


def _beside(path: Path) -> ModelFiles:
    return ModelFiles((path,), _first(path.parent, ("config.json",)), _first(path.parent, TOKENIZERS))


def _first(folder: Path, names: tuple[str, ...]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)


def hub_id(source: str) -> tuple[str, str | None] | None:
    """Return repository and revision of a hub id; None of a path that exists, and where bytes are pinned."""
    match = None if _exists(source) else _HUB_ID.fullmatch(source)
    if match is None:
        return None
    known = KNOWN.get(match[1])
    return match[1], match[2] or (known.revision if known else None)


def _from_hub(source: str) -> ModelFiles:
    match = _HUB_ID.fullmatch(source)
    assert match is not None  # check_source has seen to it
    repo, revision = match[1], match[2]
    known = KNOWN.get(repo)
    if known is not None and revision in (None, known.revision):
        return _pinned(repo, known)
    folder = _download(repo, revision, _SMALL_FILES)
    if not any(folder.glob("*.safetensors")):
        folder = _download(repo, revision, ["*.pth"])
    found = _in_folder(folder)
    return found if known is None or found.tokenizer else replace(found, tokenizer=_tokenizer_of(known))


def _pinned(repo: str, known: KnownModel) -> ModelFiles:
    folder = _download(repo, known.revision, ["config.json", *TOKENIZERS, known.file])
    weights = folder / known.file
    _check_digest(weights, known.sha256, "published")
    found = _beside(weights)
    return found if found.tokenizer else replace(found, tokenizer=_tokenizer_of(known))


def _tokenizer_of(known: KnownModel) -> Path | None:
    return _first(_download(known.tokenizer_repo, None, ["tokenizer.json"]), TOKENIZERS)


def _download(repo: str, revision: str | None, patterns: list[str]) -> Path:
    """Return the local folder of a hub snapshot, limited to ``patterns``."""
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(repo, revision=revision, allow_patterns=patterns))
    except Exception as error:  # noqa: BLE001 - the hub client's own, the HTTP library's and the system's
        at = f" at revision {revision}" if revision else ""
        reason = str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__
        raise ModelError(
            f"model {repo!r}{at} cannot be had from the Hugging Face hub ({reason}); "
            "check the name and the network, or give the path of a local copy."
        ) from None


def _check_digest(path: Path, wanted: str, who: str) -> None:
    digest = sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(1 << 22):
                digest.update(chunk)
    except OSError as error:
        raise ModelError(f"checkpoint {str(path)!r} cannot be read: {error}.") from None
    if digest.hexdigest() != wanted:
        raise ModelError(
            f"checkpoint {str(path)!r} has sha256 {digest.hexdigest()[:12]}…, the {who} one has "
            f"{wanted[:12]}…; delete the download and try again, or name another revision after '@'."
        )
