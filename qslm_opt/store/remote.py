"""A storage behind ``qslm-opt proxy``: the repository of another host, by gRPC.

The wire has no password and no encryption of its own; put it into a tunnel where others can listen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, NoReturn

from qslm_opt.errors import StorageError, UsageError
from qslm_opt.store import wire
from qslm_opt.store.repository import Repository
from qslm_opt.store.rows import own_process
from qslm_opt.store.urls import grpc_address

if TYPE_CHECKING:
    from qslm_opt.items import Items
    from qslm_opt.results import (
        Baseline,
        Comparison,
        PowerDevice,
        PowerSample,
        PowerWindow,
        TrialRecord,
        TrialState,
    )
    from qslm_opt.store.held_back import Part
    from qslm_opt.store.rows import StudyRow, StudyState

ANSWER_SECONDS = 60.0
"""A proxy that does not answer for so long is taken for gone."""
MOST_SAMPLES = 4_000
"""Samples in one call, at most: gRPC refuses a message of more than 4 MiB."""
_SILENT = ("UNAVAILABLE", "DEADLINE_EXCEEDED")
"""What gRPC says where nobody answered."""


class Caller:
    """Calls the methods that a proxy offers beside Optuna's."""

    def __init__(self, url: str) -> None:
        try:
            import grpc
        except ModuleNotFoundError:
            raise UsageError(f"storage {url} needs gRPC; run: pip install 'qslm-opt[grpc]'.") from None
        self.url, self._errors = url, grpc.RpcError
        host, port = grpc_address(url)
        unlimited = [("grpc.max_receive_message_length", -1)]
        self._channel = grpc.insecure_channel(f"{host}:{port}", options=unlimited)
        self._call = self._channel.unary_unary(f"/{wire.SERVICE}/{wire.METHOD}")

    def __call__(self, method: str, **arguments: Any) -> Any:
        """Return what a method of the proxy returns.

        Raises:
            QslmError: what the method raised there.
            StorageError: the proxy does not answer, or failed.
        """
        try:
            said = self._call(wire.request(method, arguments), timeout=ANSWER_SECONDS)
        except self._errors as error:
            raise unreachable(self.url, error) from error
        return wire.result(said)

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()


def unreachable(url: str, error: Exception) -> StorageError:
    """Return the StorageError for a failure of gRPC: nobody answers, or the other end failed."""
    code, details = getattr(error, "code", None), getattr(error, "details", None)
    name = code().name if callable(code) else type(error).__name__
    said = name.lower().replace("_", " ")
    if name in _SILENT:
        return StorageError(
            f"storage {url} does not answer ({said}); check the address, and that "
            "'qslm-opt proxy' runs there."
        )
    more = " ".join(str(details()).split()) if callable(details) else str(error)
    return StorageError(
        f"storage {url} failed ({said}: {more}); look at what 'qslm-opt proxy' printed there, and run the "
        "same qslm-opt at both ends."
    )


class RemoteRepository(Repository):
    """A Repository whose every method is carried out by the proxy."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._caller = Caller(url)

    def close(self) -> None:
        """Close the connection."""
        self._caller.close()

    def changed(self) -> int:
        """Return a number that moves when anything was written."""
        return int(self._caller("changed"))

    def names(self) -> list[str]:
        """Return the names of all studies, in order of creation."""
        return list(self._caller("names"))

    def studies(self) -> list[StudyRow]:
        """Return all studies, in order of creation."""
        return [wire.decode_study(value) for value in self._caller("studies")]

    def study(self, name: str) -> StudyRow:
        """Return a study; raise StudyNotFoundError with the nearest name."""
        return wire.decode_study(self._caller("study", name=name))

    def trials(
        self, name: str, after: int = -1, states: Iterable[TrialState] | None = None
    ) -> list[TrialRecord]:
        """Return the study's trials numbered above ``after``, by number; ``states`` filters them."""
        wanted = None if states is None else list(states)
        found = self._caller("trials", name=name, after=after, states=wanted)
        return [wire.decode_trial(value) for value in found]

    def best(self, name: str) -> TrialRecord | None:
        """Return the study's best feasible trial at its own λ; None without one."""
        found = self._caller("best", name=name)
        return None if found is None else wire.decode_trial(found)

    def evaluation(self, name: str, number: int) -> dict[str, Any] | None:
        """Return the whole Evaluation of one trial as stored, None when it has none."""
        found: dict[str, Any] | None = self._caller("evaluation", name=name, number=number)
        return found

    def stop_requested(self, uuid: str) -> bool:
        """Return whether someone asked the study to stop."""
        return bool(self._caller("stop_requested", uuid=uuid))

    def beats(self, uuid: str) -> dict[tuple[str, int], float]:
        """Return (host, pid) of each process registered on the study, with its last beat."""
        return {(host, pid): beat for host, pid, beat in self._caller("beats", uuid=uuid)}

    def power_devices(self, study_uuid: str) -> list[PowerDevice]:
        """Return the devices that the study's processes measured or could not, in order of their start."""
        return [wire.decode_device(value) for value in self._caller("power_devices", study_uuid=study_uuid)]

    def power_samples(
        self, device_id: str, since: float, until: float, points: int | None = None
    ) -> list[PowerSample]:
        """Return a device's samples of a span (seconds since 1970), thinned to at most ``points``."""
        span = {"since": since, "until": until, "points": points}
        return [
            wire.decode_sample(value) for value in self._caller("power_samples", device_id=device_id, **span)
        ]

    def power_windows(self, study_uuid: str, after: float = 0.0) -> dict[str, PowerWindow]:
        """Return trial uuid → its window, of those that ended after ``after`` (seconds since 1970)."""
        found = self._caller("power_windows", study_uuid=study_uuid, after=after)
        return {uuid: wire.decode_window(value) for uuid, value in found.items()}

    def add_study(self, row: StudyRow) -> None:
        """Store a new study."""
        self._caller("add_study", row=wire.encode_study(row))

    def add_trials(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse: whole studies are written where the database is."""
        raise UsageError(
            f"storage {self.url} is a proxy; add trials to the database that it serves, on its host."
        )

    def add_power_device(self, device: PowerDevice) -> None:
        """Store a device, or what has changed about the one of the same id."""
        self._caller("add_power_device", device=wire.encode_device(device))

    def add_power_samples(self, device_id: str, samples: Iterable[PowerSample]) -> None:
        """Store samples of a device that was added; those that are not later than what it has are not."""
        rest = iter(sorted(samples, key=lambda sample: sample.at))
        while part := [wire.encode_sample(sample) for sample in islice(rest, MOST_SAMPLES)]:
            self._caller("add_power_samples", device_id=device_id, samples=part)

    def set_power_window(self, study_uuid: str, trial_uuid: str, window: PowerWindow) -> None:
        """Store the window of a trial, in place of an earlier one."""
        value = wire.encode_window(window)
        self._caller("set_power_window", study_uuid=study_uuid, trial_uuid=trial_uuid, window=value)

    def comparisons(self, study_uuid: str, part: Part) -> dict[str, Comparison]:
        """Return digest → comparison on one part of a study's data."""
        return wire.decode_comparisons(self._caller("comparisons", study_uuid=study_uuid, part=part))

    def items(self, study_uuid: str, part: Part, digest: str) -> Items | None:
        """Return the outcomes behind a comparison, None where there are none."""
        found = self._caller("items", study_uuid=study_uuid, part=part, digest=digest)
        if found is None:
            return None
        from qslm_opt.items import Items

        return Items.from_json(found)

    def add_comparison(
        self, study_uuid: str, part: Part, digest: str, comparison: Comparison, items: Items | None
    ) -> None:
        """Store a comparison; one that is there already stays."""
        which = {"study_uuid": study_uuid, "part": part, "digest": digest}
        found = None if items is None else items.to_json()
        self._caller("add_comparison", **which, comparison=comparison.to_json(), items=found)

    def set_baseline(self, uuid: str, baseline: Baseline) -> None:
        """Store the unquantized model's measurement."""
        self._caller("set_baseline", uuid=uuid, baseline=baseline.to_json())

    def set_order(self, uuid: str, order: Sequence[str]) -> None:
        """Store the order of the blocks."""
        self._caller("set_order", uuid=uuid, order=list(order))

    def set_progress(self, uuid: str, progress: Sequence[Mapping[str, Any]]) -> None:
        """Store how far the tiers are."""
        self._caller("set_progress", uuid=uuid, progress=[dict(part) for part in progress])

    def set_extra(self, uuid: str, digests: Iterable[str]) -> None:
        """Store which digests were measured ahead and not needed."""
        self._caller("set_extra", uuid=uuid, digests=list(digests))

    def set_state(
        self,
        uuid: str,
        state: StudyState,
        reason: str = "",
        *,
        since: float | None = None,
        own: tuple[int, str] | None = None,
    ) -> None:
        """Store the state that this process leaves the study in."""
        mine = own or own_process()
        self._caller("set_state", uuid=uuid, state=state, reason=reason, since=since, own=mine)

    def request_stop(self, uuid: str) -> None:
        """Ask the study's processes to end after the running trial."""
        self._caller("request_stop", uuid=uuid)

    def beat(self, uuid: str, pid: int, host: str, phase: str) -> None:
        """Register that a process works on the study, or that it still does."""
        self._caller("beat", uuid=uuid, pid=pid, host=host, phase=phase)

    def end_run(self, uuid: str, pid: int | None = None, host: str | None = None) -> None:
        """Take a process, by default this one, off the study."""
        own_pid, own_host = own_process()
        self._caller("end_run", uuid=uuid, pid=own_pid if pid is None else pid, host=host or own_host)

    def delete(self, uuid: str) -> None:
        """Delete our rows of a study."""
        self._caller("delete", uuid=uuid)
