"""Hooks for gunicorn.conf.py.

    from shm_metrics.integrations import gunicorn as metrics

    metrics.setup(globals())                  # the last line, if the file has hooks of its own: they are kept

or, by the names that gunicorn looks for in that file:

    from shm_metrics.integrations.gunicorn import on_exit, on_reload, on_starting, post_fork, post_worker_init

Counting works without the hooks. They add:

    on_starting, on_reload   the master attaches to the segment: if all workers die at once, the next ones continue from
                             their counts; a rolling reload (HUP) and a new binary (USR2) keep the counters too
    post_fork                the worker table and per-worker metrics show `gunicorn worker 3`
    post_worker_init         with a cache, the thread that publishes to the cluster; and a warning if the application
                             counts in another segment than the master's
    on_exit                  with a cache, a last publish of what the workers have counted

With SHM_METRICS_PROMETHEUS=1 in the environment, on_starting also installs the drop-in for prometheus_client, in the
master, so that every worker has it before its application is loaded.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from shm_metrics.backend import MetricsBackend
from shm_metrics.cluster.stores.protocol import LOCAL_ONLY
from shm_metrics.default import current_backend, get_backend
from shm_metrics.environment import cluster_options, cluster_wanted
from shm_metrics.errors import InvalidMetricError, SegmentError
from shm_metrics.integrations import master
from shm_metrics.segment.layout import DEFAULT_ROWS, DEFAULT_SLOTS, Layout
from shm_metrics.segment.location import SegmentLocation, locate_segment
from shm_metrics.segment.presence import Presence
from shm_metrics.writer.writer import set_process_role

__all__ = ["on_exit", "on_reload", "on_starting", "post_fork", "post_worker_init", "setup"]


@dataclass(frozen=True, slots=True)
class _Options:
    rows: int = DEFAULT_ROWS
    slots: int = DEFAULT_SLOTS
    keep: bool = False


_options = _Options()
_held: Presence | None = None
_held_path = ""


def setup(
    conf: dict[str, Any],
    segment: str | os.PathLike[str] | None = None,
    *,
    rows: int = DEFAULT_ROWS,
    slots: int = DEFAULT_SLOTS,
    keep: bool = False,
    cache: str | os.PathLike[str] | None = None,
    sync_interval: float | None = None,
    namespace: str | None = None,
    sync_options: Mapping[str, Any] | None = None,
) -> None:
    """Put the hooks into a gunicorn configuration. Hooks that the configuration has already run first.

    conf: the file's globals().
    segment: the segment's name, or a path if it has a slash; becomes SHM_METRICS_SEGMENT, which the application reads.
        Default: that variable, else "default".
    rows, slots, keep: options of the segment, which the master makes as the first process; see MetricsBackend.
    cache, sync_interval, namespace, sync_options: options of the cluster; see MetricsBackend. They become environment
        variables (SHM_METRICS_CACHE and related), and the workers publish by themselves. The cache must be a URL here.

    Invalid options raise InvalidMetricError. Invalid cluster settings in the environment are logged, and the
    application runs without a cluster.
    """
    global _options
    if not isinstance(conf, dict):
        raise InvalidMetricError(f"setup({conf!r}): give globals() first, and then the segment")
    Layout(rows, slots)  # raises for invalid sizes now, not in a hook later
    master.publish_settings(segment, cache, sync_interval, namespace, sync_options)
    _options = _Options(rows, slots, keep)
    for hook in (on_starting, on_reload, post_fork, post_worker_init, on_exit):
        conf[hook.__name__] = _chained(conf.get(hook.__name__), hook)


def _chained(theirs: Callable[..., Any] | None, ours: Callable[..., Any]) -> Callable[..., Any]:
    if theirs is None or theirs is ours:
        return ours

    @functools.wraps(ours)  # with ours' signature: gunicorn counts the arguments
    def both(*arguments: Any) -> None:
        theirs(*arguments)
        ours(*arguments)

    return both


# -- the hooks --------------------------------------------------------------------------------------------------------


def on_starting(server: Any) -> None:
    """In the master, before its first worker: attach to the segment."""
    set_process_role("gunicorn master")
    _hold(server)
    with _acting_as(server.cfg):
        master.install_drop_in(server.log)


def on_reload(server: Any) -> None:
    """In the master, before the new workers: attach to the segment of the new configuration."""
    _hold(server)


def post_fork(server: Any, worker: Any) -> None:
    """In the worker, before it has the application: set its role."""
    set_process_role(f"gunicorn worker {worker.age}")


def post_worker_init(worker: Any) -> None:
    """In the worker, with the application loaded: start publishing, and compare its segment with the master's."""
    # If the environment names a cache, every worker has the thread, also one without a metric yet: all share a segment,
    # and the holder of the lease publishes for all.
    master.start_sync(lambda: get_backend() if cluster_wanted() else current_backend(), worker.log)
    backend = current_backend()
    if backend is not None and _held_path and backend.place.path != _held_path:
        worker.log.warning(
            "shm_metrics: the application counts in %s, and the master is present at %s: when all workers die at once, "
            "the counters start from zero; give both the same name, in SHM_METRICS_SEGMENT or setup(globals(), NAME)",
            backend.place.path,
            _held_path,
        )


def on_exit(server: Any) -> None:
    """In the master, when its workers are gone: publish what they counted last."""
    if not cluster_wanted() or _held is None or _held.segment is None or _held.segment.abandoned:
        return
    try:
        backend = MetricsBackend(path=_held_path, read_only=True, **cluster_options())
        try:
            agent = backend.sync_agent
            # Without a cache the leading worker has written the file when it ended.
            # If the lease is refused, another master of the same segment has workers, which publish.
            if agent.store.strategy != LOCAL_ONLY and agent.member.segment_lease.tick():
                with _acting_as(server.cfg):  # files beside the segment belong to the workers' user
                    agent.member.publish()
        finally:
            backend.close()
    except Exception as error:
        server.log.warning("shm_metrics: what was counted last was not published: %s", error)


# -- presence ---------------------------------------------------------------------------------------------------------


def _hold(server: Any) -> None:
    global _held, _held_path
    try:
        place = _hand_over(server.cfg)
        if _held is not None and _held.place == place and _held.in_place:
            return
        with _acting_as(server.cfg):
            new = Presence(place, Layout(_options.rows, _options.slots), keep=_options.keep)
    except (SegmentError, InvalidMetricError, OSError) as error:  # invalid: the name that the variable says
        # The application must not fail: its workers can count without the master.
        server.log.error("shm_metrics: the master cannot be present: %s", error)
        return
    previous, _held, _held_path = _held, new, place.path
    if previous is not None:
        previous.close()


def _hand_over(cfg: Any) -> SegmentLocation:
    """Return where the workers will count. Give a segment that the preloaded application made as root to their user."""
    backend = current_backend()
    if backend is None:
        return locate_segment(uid=_workers_uid(cfg))
    if not backend.detached and _workers_uid(cfg) != os.geteuid():
        os.chown(backend.place.path, cfg.uid, cfg.gid)
    return backend.place


def _workers_uid(cfg: Any) -> int:
    """Return the user of the workers; only workers of root can have another."""
    euid = os.geteuid()
    return int(cfg.uid) if euid == 0 else euid


@contextmanager
def _acting_as(cfg: Any) -> Iterator[None]:
    """Create files as the workers' user."""
    uid, gid = os.geteuid(), os.getegid()
    if _workers_uid(cfg) == uid:
        yield
        return
    os.setegid(cfg.gid)
    os.seteuid(cfg.uid)
    try:
        yield
    finally:
        os.seteuid(uid)
        os.setegid(gid)
