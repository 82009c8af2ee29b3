"""What decides a tuning run, and what it reports."""

from __future__ import annotations

from dataclasses import dataclass

from qslm_opt.errors import UsageError


@dataclass(frozen=True)
class TuneConfig:
    """Size, length and rates of a tuning run; the same values, seed and machine give the same weights."""

    steps: int = 600
    tokens: int = 8192
    """Token positions per step."""
    window: int = 256
    """Most tokens of a window (language modelling); shorter ones start at rest more often."""
    code_rate: float = 0.01
    """Highest learning rate of the weights behind the codes, in units of their scales."""
    scale_rate: float = 3e-3
    """Highest learning rate of the logarithms of the scales."""
    vector_rate: float = 1e-3
    """Highest learning rate of what is stored as floats: LayerNorm, time_*."""
    seed: int = 0

    def __post_init__(self) -> None:
        for key in ("steps", "tokens", "window"):
            if getattr(self, key) < 1:
                raise UsageError(f"{key} {getattr(self, key)} is out of range; it must be at least 1.")
        for key in ("code_rate", "scale_rate", "vector_rate"):
            if not 0 <= getattr(self, key) < 1:
                raise UsageError(f"{key} {getattr(self, key)} is out of range; it must be in 0..1.")


@dataclass(frozen=True)
class TuneReport:
    """What a tuning run did."""

    steps: int
    seconds: float
    first_loss: float
    """Divergence from the unquantized model, in nats, as the mean over the first tenth of the steps."""
    last_loss: float
    """The same over the last tenth."""
    changed_codes: float
    """Share of the codes that are others than the quantizer's."""
    device: str
