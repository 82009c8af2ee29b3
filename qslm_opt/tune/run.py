"""From a setting that is to be tuned to what a packed file stores of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qslm_opt.errors import StoppedError
from qslm_opt.tune.config import TuneConfig
from qslm_opt.tune.loop import tune
from qslm_opt.tune.student import Stored, Student

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from qslm_opt.data import TaskData
    from qslm_opt.hierarchy.tree import Hierarchy
    from qslm_opt.models.config import ModelConfig
    from qslm_opt.setting import QuantSetting

TOKENS = {"cpu": 1024, "cuda": 8192}
"""Token positions per step, by device type."""


def tuned(
    setting: QuantSetting,
    tensors: Mapping[str, Tensor],
    moments: Callable[[], Mapping[str, Tensor]],
    cfg: ModelConfig,
    hierarchy: Hierarchy,
    text: TaskData,
    narrate: Callable[[str], None],
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, Stored]:
    """Return every counted tensor as it is stored: codes with scales, or floats in their format.

    The same setting, tensors and text give the same result on the same machine and release of torch.

    Args:
        tensors: the unquantized model, on the device to compute on.
        text: what is tuned on; never what the model is measured on.
        stop: asked after every step whether to give up.

    Raises:
        NumericsError: the loss became NaN, or a tensor cannot be held by its format.
        StoppedError: ``stop`` said so before the last step.
    """
    device = next(iter(tensors.values())).device
    teacher = {name: tensor.float() for name, tensor in tensors.items()}
    narrate(f"tuning {setting.tune} steps on {len(text.sequences):,} sequences of split {text.split!r}")
    config = TuneConfig(steps=setting.tune, tokens=TOKENS[device.type])
    student = Student(teacher, hierarchy, setting, moments)
    report = tune(student, teacher, cfg, text, config, narrate, stop)
    if report.steps < config.steps:
        raise StoppedError(
            f"the tuning was stopped after step {report.steps} of {config.steps}; "
            "when it is resumed it begins anew."
        )
    narrate(
        f"tuned in {report.seconds:.1f} s: divergence {report.first_loss:.4f} → {report.last_loss:.4f} nats, "
        f"{100 * report.changed_codes:.1f} % of the codes changed"
    )
    return student.stored()
