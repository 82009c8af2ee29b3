"""The power of trials: which of them are measured longer, and how."""

from __future__ import annotations

from typing import TYPE_CHECKING

from optuna.trial import TrialState

from qslm_opt.errors import StorageError
from qslm_opt.search.stopping import now_and_then
from qslm_opt.setting import UNQUANTIZED
from qslm_opt.store.rows import own_process

if TYPE_CHECKING:
    from collections.abc import Callable

    from qslm_opt.measure.meter import Meter
    from qslm_opt.results import PowerWindow
    from qslm_opt.search.attempt import SessionLike
    from qslm_opt.search.interrupts import Interrupts
    from qslm_opt.search.outcome import Outcome
    from qslm_opt.search.recording import Recording
    from qslm_opt.setting import QuantSetting
    from qslm_opt.store import Repository


class PowerOf:
    """Measures candidates longer than their evaluation took, and keeps the windows of trials."""

    def __init__(
        self,
        session: SessionLike,
        meter: Meter | None,
        recording: Recording | None = None,
        stopping: Callable[[], bool] = lambda: False,
        narrate: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Take the run's recording, whether somebody asked it to stop, and whom to tell of what fails."""
        self._session, self._meter, self._recording = session, meter, recording
        self._asked, self._narrate = stopping, narrate

    @property
    def seconds(self) -> float:
        """Shortest window of a candidate; 0: no trial is measured longer."""
        return self._session.spec.power_window

    def stopping(self) -> bool:
        """Return whether nothing more is to be measured: somebody asked to stop, or no storage answers."""
        try:
            return self._asked()
        except StorageError:
            return True

    def wants_more(self, outcome: Outcome, power: PowerWindow | None) -> bool:
        """Return whether a trial is to be run again for its power.

        It is a candidate, the meter works, and its own window was too short, or said nothing of the joules
        per token because the evaluation began behind kept activations.
        """
        if not self.seconds or self._meter is None or self._meter.source == "null":
            return False
        met = outcome.constraints and all(slack <= 0 for slack in outcome.constraints.values())
        if outcome.state != TrialState.COMPLETE or not met or self.stopping():
            return False
        return power is None or power.items is None or (power.seconds or 0.0) < self.seconds

    def wants_baseline(self) -> bool:
        """Return whether the unquantized model's power can be measured, to set the candidates' against."""
        works = self._meter is not None and self._meter.source != "null"
        return works and self.seconds > 0 and not self.stopping()

    def measure(self, setting: QuantSetting, what: str = "this candidate") -> PowerWindow | None:
        """Run a setting for ``seconds``; None, and a word to the user, where that fails."""
        assert self._meter is not None
        try:
            stop = now_and_then(self.stopping)
            return self._session.measure(setting, self._meter, self.seconds, stop)
        except Exception as error:  # noqa: BLE001  the trial has its verdict: a missing watt must not cost it
            self._narrate(f"the power of {what} was not measured: {type(error).__name__}: {error}")
            return None

    def keep(self, trial_uuid: str, window: PowerWindow) -> None:
        """Store the window of a trial; the unquantized model's goes by the study's own uuid."""
        if self._recording is not None:
            self._recording.keep(trial_uuid, window)

    def complain(self) -> None:
        """Tell the user, once, that the recording has gaps."""
        complaint = self._recording.complaint() if self._recording is not None else None
        if complaint:
            self._narrate(complaint)


def measure_baseline(power: PowerOf, repository: Repository, uuid: str, interrupts: Interrupts) -> None:
    """Measure the unquantized model's power once, when the search is over and nobody else works on it.

    A report sets the candidates' watts against it.
    """
    if not power.wants_baseline() or not _is_last(repository, uuid):
        return
    if uuid in repository.power_windows(uuid):
        return
    with interrupts.exposed():
        window = power.measure(UNQUANTIZED, "the unquantized model")
    if window is not None and _is_last(repository, uuid):
        power.keep(uuid, window)


def _is_last(repository: Repository, uuid: str) -> bool:
    """Return whether no other process is registered on the study."""
    pid, host = own_process()
    return repository.beats(uuid).keys() <= {(host, pid)}
