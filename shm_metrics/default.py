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
    """Return the default backend; the first call makes it, on the segment SHM_METRICS_SEGMENT or else "default".

    SHM_METRICS_CACHE names the cache of its cluster, if any; see docs/cluster.md.

    If the segment cannot be opened, the application goes on: the error is logged, and this process (with its children)
    counts in a private segment, which its scrapes show with `shm_metrics_detached 1`. Under a limit of address space
    (RLIMIT_AS) the private segment is as large as fits.
    """
    global _default
    if _default is None:
        try:
            options = cluster_options()
        except InvalidMetricError as error:
            log.error("shm_metrics: %s; until that is corrected this process takes part in no cluster", error)
            options = {}
        try:
            _default = MetricsBackend(**options)
        except (SegmentError, InvalidMetricError) as error:  # invalid: the name in the variable
            log.error("shm_metrics: %s; this process counts for itself until configure() finds a segment", error)
            _default = _for_this_process(options)
        _attach_declared(_default)
    return _default


_PRIVATE_SIZES = ((DEFAULT_ROWS, DEFAULT_SLOTS), (64, 16_384), (16, 8_192), (4, 2_048))
"""(rows, slots) of a private segment, in the order they are tried: 426, 46, 12 and 3 MiB of address space."""


def _for_this_process(options: dict[str, Any]) -> MetricsBackend:
    """Return a private backend; a small one if limits of address space or file size (ulimit) demand it."""
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
    """Return the default backend if there is one already. Make none."""
    return _default


@_locked
def configure(name: str | None = None, **options: Any) -> MetricsBackend:
    """Make `MetricsBackend(name, **options)` the default backend, before or after metrics are declared.

    Existing metrics count there from now on. They carry over what they counted if no other process used their segment
    and no cluster knows of it; otherwise it stays there. Without `cache` among the options, the environment names the
    cluster, as for get_backend(). If the previous backend was syncing, this one starts to sync.

    Raise what MetricsBackend raises; then everything stays as it was.
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
    found = cluster_options()
    if not found:
        return options
    return {**found, **options, "sync_options": {**found["sync_options"], **(options.get("sync_options") or {})}}


@_locked
def use_backend(backend: MetricsBackend | None, *, move: bool = False) -> MetricsBackend | None:
    """Make `backend` the default one (None: none, until the next use). Return the previous one, still open.

    move: metrics carry over what they counted if no other process uses the previous segment, which is then removed.
    """
    global _default
    previous, _default = _default, backend
    move = move and previous is not None and _used_by_us_alone(previous)
    if backend is not None:
        _attach_declared(backend, move=move)
    elif default_backend.declared:
        get_backend()  # declared metrics need one
    if move and previous is not None:
        previous.unlink()
    return previous


@_locked
def default_at(path: str | None) -> MetricsBackend:
    """Return the default backend; if there is none, make it at `path`, or as get_backend() does."""
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
    return not backend.read_only and not backend.writer.closed and backend.segment.sole_user()


@forks.in_child(forks.LOCKS)
def _renew_lock() -> None:
    _lock.renew()
