"""What ends a run although no setting is to blame: the storage, the GPU, the memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from qslm_opt.errors import DeviceError, OutOfMemoryError, QslmError, StorageError
from qslm_opt.search.verdicts import DEVICE, STORAGE
from qslm_opt.store import find_database_error, storage_error
from qslm_opt.store.remote import unreachable

_LOST_GPU = ("CUDA error", "CUDA driver error", "CUBLAS_STATUS", "cuBLAS", "cuDNN error", "CUDNN_STATUS")
"""How torch, which is not imported here, begins what it says when a GPU fails or falls off the bus."""


@contextmanager
def named_failures(url: str) -> Iterator[None]:
    """Raise what the database, the GPU or the memory raises as the QslmError that names the fix."""
    try:
        yield
    except QslmError:
        raise
    except Exception as error:
        known = device_failure(error)
        if known is not None:
            raise known from error
        if type(error).__module__.partition(".")[0] == "grpc":
            raise unreachable(url, error) from error
        cause = find_database_error(error)
        if cause is None:
            raise
        raise storage_error(cause, url) from error


def device_failure(error: BaseException) -> QslmError | None:
    """Return what a failure of the GPU or of the memory means; None for any other error."""
    text = " ".join(str(error).split("\n")[0].split()).rstrip(".")
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        said = f" ({text})" if text else ""
        return OutOfMemoryError(
            f"there is not enough memory for one batch{said}; end what else uses it, or give fewer "
            "--workers, and resume: what was finished is stored."
        )
    if isinstance(error, RuntimeError) and text.startswith(_LOST_GPU):
        return DeviceError(
            f"the GPU failed ({text}); check it with nvidia-smi, or give another --device, and resume: "
            "what was finished is stored."
        )
    return None


def blame_of(error: BaseException) -> str:
    """Return the first words of a failed trial's reason: what is to blame when it is not the setting."""
    if device_failure(error) is not None or isinstance(error, (DeviceError, OutOfMemoryError)):
        return f"{DEVICE}: "
    if isinstance(error, StorageError) or find_database_error(error) is not None:
        return f"{STORAGE}: "
    return ""
