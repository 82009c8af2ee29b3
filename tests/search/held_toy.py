"""The toy with windows and held-back data, whose process can be killed in the middle of a report."""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import exp
from typing import Any

from qslm_opt.errors import NumericsError
from qslm_opt.items import Items
from qslm_opt.results import Baseline, Evaluation
from qslm_opt.search.driver import run_study
from qslm_opt.setting import UNQUANTIZED, QuantSetting
from qslm_opt.store import open_repository
from tests.search.toy import Recorder, Toy, spec, toy

WINDOWS = 20


@dataclass
class HeldToy(Toy):
    """A toy whose held-back perplexity is its own, and which counts how often it is asked for it."""

    held: list[QuantSetting] = field(default_factory=list)
    on_held: Callable[[int], None] = lambda count: None
    broken: Callable[[QuantSetting], bool] = lambda setting: False
    """Which settings give NaN on held-back data."""

    def baseline(self) -> Baseline:
        self.baselines += 1
        return Baseline.of(self.with_items(self._evaluate(UNQUANTIZED, None, None), "searched"))

    def run(self, setting: QuantSetting, **more: Any) -> tuple[Evaluation, None]:
        run, _ = super().run(setting, **more)
        return self.with_items(run, "searched"), None

    def evaluate_held_back(self, setting: QuantSetting, *, stop: Any = None) -> Evaluation:
        self.held.append(setting)
        if setting.tune:
            self.tuning(stop)
        self.on_held(len(self.held))
        if self.broken(setting):
            raise NumericsError("logits are nan at token 3; try more bits.")
        loss = self.loss_of(setting) + 0.1
        run = replace(self._result(setting, exp(loss), self.n, loss), data_hash="held")
        return self.with_items(run, "held back")

    def with_items(self, run: Evaluation, part: str) -> Evaluation:
        """Return the evaluation with windows whose losses have its sum, as far as it came."""
        each = run.nll_sum / WINDOWS
        noise = [random.Random(f"{part}/{i}").uniform(-0.3, 0.3) for i in range(WINDOWS)]
        mean = sum(noise) / WINDOWS
        items = Items.empty(WINDOWS, [self.n // WINDOWS] * WINDOWS)
        items.add(range(WINDOWS), [each * (1 + x - mean) for x in noise], None)
        return replace(run, items=items)


def held_toy(study: Any, **more: Any) -> HeldToy:
    """A toy session with held-back data."""
    made = toy(study)
    return HeldToy(made.spec, made.hierarchy, made.loss_of, **more)


def held_spec(**changes: Any) -> Any:
    """A study of the toy that holds half back."""
    return spec(**{"memory_budget": "24%", "precisions": (8, 6, 4, 3), "hold_back": 0.5, **changes})


def main() -> None:
    """Run a stored study here, and kill oneself in the held-back evaluation of the number given."""
    url, last = sys.argv[1], int(sys.argv[2])
    with open_repository(url) as repository:
        study = repository.study("toy").spec

    def on_held(count: int) -> None:
        if count == last:
            os.kill(os.getpid(), signal.SIGKILL)

    run_study("toy", url, held_toy(study, on_held=on_held), listener=Recorder())


if __name__ == "__main__":
    main()
