"""Where the fast neurons run in a test: numba, Triton on a CUDA device, or Triton's interpreter."""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest
import torch

ARMS = ("cpu", "triton")
"""``triton`` is the interpreter (TRITON_INTERPRET=1) where there is no CUDA device."""


def device_of(arm: str) -> torch.device:
    """Return the device of an arm's tensors; skip where the arm cannot run."""
    if arm == "cpu":
        return torch.device("cpu")
    if not find_spec("triton"):
        pytest.skip("Triton is not installed")
    if torch.cuda.is_available():
        return torch.device("cuda")
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("torch sees no CUDA device; TRITON_INTERPRET=1 runs this on the CPU")
    return torch.device("cpu")
