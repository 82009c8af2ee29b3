"""``grpc://host:port``: one process has the database, workers anywhere reach it by gRPC.

The server is Optuna's own gRPC proxy with one service more, for our tables and for what must be one
transaction: to start the next trial, and to end one.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import optuna
from optuna.distributions import json_to_distribution
from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage, GrpcStorageProxy, get_storage
from optuna.trial import TrialState

from qslm_opt.errors import UsageError
from qslm_opt.items import Items
from qslm_opt.results import Baseline, Comparison
from qslm_opt.search import ledger
from qslm_opt.search.failures import named_failures
from qslm_opt.store import Repository, prepare, wire
from qslm_opt.store.remote import Caller
from qslm_opt.store.urls import grpc_address

if TYPE_CHECKING:
    import grpc

    from qslm_opt.results import TrialRecord

THREADS = 16


class RemoteStorage(GrpcStorageProxy):
    """Optuna's storage behind a proxy, with the transactions that Optuna's own proxy does not have."""

    def __init__(self, url: str) -> None:
        self.call = Caller(url)
        host, port = grpc_address(url)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            super().__init__(host=host, port=port)

    def close(self) -> None:
        """Close both connections."""
        self.call.close()
        super().close()


def make_server(url: str, host: str, port: int) -> tuple[grpc.Server, int, Callable[[], None]]:
    """Return a server on a storage that is not started yet, its port, and what frees the storage.

    Args:
        url: A database; SQLite too, whose file only this process then opens.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.

    Raises:
        UsageError: gRPC is not installed, or nothing can listen there.
        StorageError: the storage cannot be used.
    """
    try:
        import grpc
        from optuna.storages._grpc.auto_generated import api_pb2_grpc
        from optuna.storages._grpc.servicer import OptunaStorageProxyService
    except ModuleNotFoundError:
        raise UsageError("a proxy needs gRPC; run: pip install 'qslm-opt[grpc]'.") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    prepare(url)
    database, repository = ledger.open_storage(url), Repository(url)
    cached = get_storage(database)
    methods = {name: named_failures(url)(method) for name, method in methods_of(repository, cached).items()}

    def call(asked: bytes, context: Any) -> bytes:
        return wire.answer(methods, asked)

    server = grpc.server(ThreadPoolExecutor(THREADS), options=[("grpc.so_reuseport", 0)])
    add: Callable[..., None] = api_pb2_grpc.add_StorageServiceServicer_to_server
    add(OptunaStorageProxyService(cached), server)
    handler = grpc.unary_unary_rpc_method_handler(call)
    service = grpc.method_handlers_generic_handler(wire.SERVICE, {wire.METHOD: handler})
    server.add_generic_rpc_handlers((service,))

    def close() -> None:
        repository.close()
        database.engine.dispose()

    try:
        bound = server.add_insecure_port(f"{host}:{port}")
    except RuntimeError:
        bound = 0
    if not bound:
        close()
        raise UsageError(f"cannot listen on {host}:{port}; give another --port or --host.")
    return server, bound, close


def methods_of(repository: Repository, storage: BaseStorage) -> dict[str, Callable[..., Any]]:
    """Return what the proxy offers, by name; arguments and results are JSON."""
    r = repository

    def set_state(own: list[Any], **rest: Any) -> None:
        r.set_state(**rest, own=(own[0], own[1]))

    return {
        "changed": r.changed, "names": r.names, "evaluation": r.evaluation,
        "stop_requested": r.stop_requested, "set_order": r.set_order, "set_progress": r.set_progress,
        "set_extra": r.set_extra, "set_state": set_state, "request_stop": r.request_stop, "beat": r.beat,
        "end_run": r.end_run, "delete": r.delete,
        "studies": lambda: [wire.encode_study(row) for row in r.studies()],
        "study": lambda name: wire.encode_study(r.study(name)),
        "trials": lambda **which: [wire.encode_trial(record) for record in r.trials(**which)],
        "beats": lambda uuid: [[*place, beat] for place, beat in r.beats(uuid).items()],
        "add_study": lambda row: r.add_study(wire.decode_study(row)),
        "set_baseline": lambda uuid, baseline: r.set_baseline(uuid, Baseline.from_json(baseline)),
        "best": lambda name: _trial_or_none(r.best(name)),
        **_power_methods(r),
        **_comparison_methods(r),
        "start_trial": lambda **what: _start_trial(storage, **what),
        "close_trial": lambda **what: _close_trial(storage, **what),
    }  # fmt: skip


def _power_methods(r: Repository) -> dict[str, Callable[..., Any]]:
    def add_samples(device_id: str, samples: list[Any]) -> None:
        r.add_power_samples(device_id, [wire.decode_sample(value) for value in samples])

    def set_window(window: Mapping[str, Any], **which: str) -> None:
        r.set_power_window(**which, window=wire.decode_window(window))

    return {
        "power_devices": lambda study_uuid: [wire.encode_device(d) for d in r.power_devices(study_uuid)],
        "power_samples": lambda **span: [wire.encode_sample(sample) for sample in r.power_samples(**span)],
        "power_windows": lambda **which: {
            uuid: wire.encode_window(window) for uuid, window in r.power_windows(**which).items()
        },
        "add_power_device": lambda device: r.add_power_device(wire.decode_device(device)),
        "add_power_samples": add_samples,
        "set_power_window": set_window,
    }


def _comparison_methods(r: Repository) -> dict[str, Callable[..., Any]]:
    def items(**which: Any) -> dict[str, Any] | None:
        found = r.items(**which)
        return None if found is None else found.to_json()

    def add(comparison: Mapping[str, Any], items: Mapping[str, Any] | None, **which: Any) -> None:
        found = None if items is None else Items.from_json(items)
        r.add_comparison(**which, comparison=Comparison.from_json(comparison), items=found)

    return {
        "comparisons": lambda **which: wire.encode_comparisons(r.comparisons(**which)),
        "items": items,
        "add_comparison": add,
    }


def _trial_or_none(record: TrialRecord | None) -> dict[str, Any] | None:
    return None if record is None else wire.encode_trial(record)


def _start_trial(
    storage: BaseStorage,
    study_id: int,
    number: int,
    parameters: Mapping[str, Any],
    distributions: Mapping[str, str],
    attributes: Mapping[str, Any],
) -> int | None:
    made = {name: json_to_distribution(text) for name, text in distributions.items()}
    return ledger.start_trial(storage, study_id, number, parameters, made, attributes)


def _close_trial(storage: BaseStorage, trial_id: int, state: str, **what: Any) -> bool:
    return ledger.close_trial(storage, trial_id, TrialState[state], **what)
