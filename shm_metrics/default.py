"""The default backend, and the declared metrics that follow it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

from shm_metrics.backend import MetricsBackend
from shm_metrics.environment import cluster_options
from shm_metrics.errors import InvalidMetricError, MetricConflictError, MetricsError, SegmentError
from shm_metrics.metrics import default_backend
from shm_metrics.runtime import forks
from shm_metrics.runtime.call_lock import ReentrantCallLock
from shm_metrics.segment.layout import DEFAULT_ROWS, DEFAULT_SLOTS
from shm_metrics.segment.location import DEFAULT_NAME

__all__ = [
    "configure",
    "current_backend",
    "default_at",
    "get_backend",
    "use_backend",
]

log = logging.getLogger("shm_metrics")

_default: MetricsBackend | None = None
_lock = ReentrantCallLock()

F = TypeVar("F", bound=Callable[..., Any])


def _locked(function: F) -> F:
    """Serialise the calls of `function`; a call may call another one."""

    @wraps(function)
    def locked(*args: Any, **options: Any) -> Any:
        return _lock.run(lambda: function(*args, **options))

    return cast(F, locked)


@_locked
def get_backend() -> MetricsBackend:
    """Return the default backend; the first call makes it, on the segment SHM_METRICS_SEGMENT, else "default".

    SHM_METRICS_CACHE names the cache of its cluster, if any; see docs/cluster.md.

    Never raises: without a segment the error is logged, and this process (with its children) counts in a private
    segment, which its scrapes show with `shm_metrics_detached 1`. Under a limit of address space (RLIMIT_AS) the
    private segment is as large as the limit allows.
    """
    global _default
    if _default is None:
        try:
            options = cluster_options()
        except InvalidMetricError as error:
            log.error("shm_metrics: %s; until that is put right this process takes part in no cluster", error)
            options = {}
        try:
            _default = MetricsBackend(**options)
        except (SegmentError, InvalidMetricError) as error:  # invalid: the name that the variable says
            log.error("shm_metrics: %s; this process counts for itself until configure() finds a segment", error)
            _default = _for_this_process(options)
        _attach_declared(_default)
    return _default


_PRIVATE_SIZES = ((DEFAULT_ROWS, DEFAULT_SLOTS), (64, 16_384), (16, 8_192), (4, 2_048))
"""(rows, slots) of a segment of one's own, the first that can be had: 426, 46, 12 and 3 MiB of address space."""


def _for_this_process(options: dict[str, Any]) -> MetricsBackend:
    """In memory without a name; small where so much address space, or so large a file, is not allowed (ulimit)."""
    for rows, slots in _PRIVATE_SIZES:
        try:
            backend = MetricsBackend(DEFAULT_NAME, rows=rows, slots=slots, _private=True, **options)
        except SegmentError as error:
            refused = error
            continue
        if (rows, slots) != _PRIVATE_SIZES[0]:
            log.warning(
                "shm_metrics: there is room for %d numbers of %d processes only (ulimit -v or -f?)", slots, rows
            )
        return backend
    raise refused


def current_backend() -> MetricsBackend | None:
    """Return the default backend if it exists, else None; make none."""
    return _default


@_locked
def configure(name: str | None = None, **options: Any) -> MetricsBackend:
    """Make `MetricsBackend(name, **options)` the default backend and return it, before or after metrics are declared.

    name, options: those of MetricsBackend. Without `cache` the environment selects the cluster, as for get_backend().

    Existing metrics count in the new backend from now on. Earlier counts move along if no other process was using the
    old segment, and no cluster knows of it; otherwise they stay there. If the old backend was syncing, the new one
    starts to.

    Raises what MetricsBackend raises; then nothing has changed.
    """
    backend = MetricsBackend(name, **_with_the_environments(options))
    goes_on = _default is not None and _default.syncing
    previous = use_backend(backend, move=not goes_on)  # the cluster has what it published, and would count it twice
    if previous is not None:
        previous.close()
    if goes_on:
        try:
            backend.start_sync()
        except MetricsError as error:  # a cache that cannot be used; the backend is the default one all the same
            log.error("shm_metrics: this process takes part in no cluster any more: %s", error)
    return backend


def _with_the_environments(options: dict[str, Any]) -> dict[str, Any]:
    if "cache" in options:
        return options
    told = cluster_options()
    if not told:
        return options
    return {**told, **options, "sync_options": {**told["sync_options"], **(options.get("sync_options") or {})}}


@_locked
def use_backend(backend: MetricsBackend | None, *, move: bool = False) -> MetricsBackend | None:
    """Make `backend` the default backend; return the previous one, still open.

    backend: None for no default backend until the next use.
    move: move the earlier counts of the metrics, if no other process uses the previous segment, and remove that one.
    """
    global _default
    previous, _default = _default, backend
    move = move and previous is not None and _used_by_us_alone(previous)
    if backend is not None:
        _attach_declared(backend, move=move)
    elif default_backend.declared:
        get_backend()  # they are the ones who ask
    if move and previous is not None:
        previous.unlink()
    return previous


@_locked
def default_at(path: str | None) -> MetricsBackend:
    """Return the default backend. If there is none yet, make it at `path`; None: where get_backend() makes it."""
    if _default is None and path is not None:
        try:
            return configure(path=path)
        except (SegmentError, InvalidMetricError) as error:
            log.error("shm_metrics: %s; this process counts where its environment says", error)
    return get_backend()


def _attach_declared(backend: MetricsBackend, *, move: bool = False) -> None:
    for metric in list(default_backend.declared.values()):
        try:
            metric.attach(backend, move=move)
        except MetricConflictError as error:
            # One of two that never counted in the same backend, as only tests make them.
            log.warning("shm_metrics: %s; it goes on counting where it did", error)


def _used_by_us_alone(backend: MetricsBackend) -> bool:
    return not backend.read_only and not backend._writer.closed and backend._writer.segment.sole_user()


@forks.in_child(forks.LOCKS)
def _renew_lock() -> None:
    _lock.renew()
