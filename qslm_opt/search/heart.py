"""The heartbeat of a run: every few seconds a thread tells the store that this process is at work.

It also watches the beats of the others, whose trials are free to be run again once they stop.
"""

from __future__ import annotations

import threading
from types import TracebackType

from qslm_opt.errors import StorageError
from qslm_opt.search.leases import Leases
from qslm_opt.store import Repository
from qslm_opt.store.rows import own_process

BEAT_SECONDS = 5.0


class Heart:
    """Beats while entered; ``phase`` says what the process is doing. A beat that fails is left out."""

    def __init__(self, repository: Repository, uuid: str, phase: str) -> None:
        self.phase = phase
        self._repository, self._uuid = repository, uuid
        self._pid, self._host = own_process()
        self.leases = Leases(lambda: repository.beats(uuid))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="qslm-opt heartbeat", daemon=True)

    def __enter__(self) -> Heart:
        self._beat()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        try:
            self._repository.end_run(self._uuid, self._pid, self._host)
        except StorageError:
            if error is None:
                raise  # else what went wrong before says more

    def _run(self) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            try:
                self._beat()
            except StorageError:
                continue

    def _beat(self) -> None:
        self._repository.beat(self._uuid, self._pid, self._host, self.phase)
        self.leases.look()
