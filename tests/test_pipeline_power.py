"""A session under a meter: what the windows of a run and of a longer measurement hold."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch")

from qslm_opt.formats import FP32, Format
from qslm_opt.pipeline import Session
from qslm_opt.setting import UNQUANTIZED, QuantSetting
from qslm_opt.spec import StudySpec
from tests.measure.fakes import Bench


@pytest.fixture(scope="module")
def session() -> Session:
    spec = StudySpec(
        "x", "demo", "demo-classify", "100%", max_drop=1.0, limit=40, window_batch=10, device="cpu"
    )
    return Session.open(spec)


class Ticking(Bench):
    """A meter under which a batch takes a second, with ten readings."""

    def __init__(self, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.batches = 0
        one = session.engine._forward.result

        def slow(*given: Any, **more: Any) -> Any:
            self.batches += 1
            self.go(1.0)
            return one(*given, **more)

        monkeypatch.setattr(session.engine._forward, "result", slow)


def test_the_window_of_a_run_counts_what_was_computed_and_only_where_all_of_it_was(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    session.baseline()
    bench = Ticking(session, monkeypatch)
    evaluation, window = session.run(coarse("attention.3"), parent=UNQUANTIZED, meter=bench.meter)
    assert window is not None
    assert window.items is None  # it began behind the activations of the unquantized model
    again, window = session.run(coarse("input"), parent=UNQUANTIZED, meter=bench.meter)
    assert window is not None
    assert (window.items, window.repeats) == (again.used, 1)
    assert window.seconds == pytest.approx(session.engine.batches)
    assert evaluation.used == again.used == 40


def test_a_longer_measurement_repeats_runs_until_the_time_is_over_and_counts_the_last_in_part(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    session.baseline()
    bench = Ticking(session, monkeypatch)
    batches = session.engine.batches
    window = session.measure(coarse("attention.3"), bench.meter, batches + 1.5)
    assert window is not None
    assert bench.batches == batches + 2  # it ends with the batch in which the time is over
    assert (window.seconds, window.repeats) == (pytest.approx(batches + 2), 2)
    assert window.items is not None
    assert 40 < window.items < 80
    assert window.run_items == 40
    # every batch takes a second of 300 W: a whole run is worth its batches, the begun one its share
    assert window.energy_j == pytest.approx(300.0 * (batches + 2))
    assert window.run_j == pytest.approx(window.energy_j * 40 / window.items)
    assert window.run_j > window.energy_j / 2


def test_a_longer_measurement_ends_after_the_batch_in_which_it_is_told_to_stop(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Ticking(session, monkeypatch)
    window = session.measure(UNQUANTIZED, bench.meter, 100.0, lambda: bench.batches >= 2)
    assert bench.batches == 2
    assert window is not None
    assert window.seconds == pytest.approx(2.0)


def coarse(unit: str) -> QuantSetting:
    """A setting in which one unit alone is quantized."""
    return QuantSetting({"network": FP32, unit: Format.parse("int4/channel/affine")}, fixed=FP32)
