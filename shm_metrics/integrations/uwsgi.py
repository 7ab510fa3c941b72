"""For uWSGI: a file of two lines that its master imports before the application, also with `lazy-apps`.

    # metrics_conf.py
    from shm_metrics.integrations import uwsgi as metrics
    metrics.setup("shop")

    # uwsgi.ini
    shared-import = metrics_conf

Counting works without it. It adds:

    drop-in    with SHM_METRICS_PROMETHEUS=1 in the environment it is installed in the master, before the application
    presence   the master attaches to the segment: if all workers die at once, the next ones continue from their counts,
               also after a chain reload. (A preloaded application attaches the master by itself.)
    cluster    with a cache (setup(cache=...) or SHM_METRICS_CACHE) each worker has the thread that publishes to the
               cluster; uWSGI runs threads only with `enable-threads = true`
    roles      the worker table and per-worker metrics show `uwsgi worker 3`, `uwsgi mule 1`, `uwsgi spooler`
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from typing import Any

from shm_metrics.default import get_backend
from shm_metrics.environment import cluster_wanted
from shm_metrics.errors import InvalidMetricError, SegmentError
from shm_metrics.integrations import master
from shm_metrics.runtime import forks
from shm_metrics.segment.layout import DEFAULT_ROWS, DEFAULT_SLOTS, Layout
from shm_metrics.segment.location import locate_segment
from shm_metrics.segment.presence import Presence
from shm_metrics.writer.writer import set_process_role

__all__ = ["setup"]

log = logging.getLogger("shm_metrics")

_held: Presence | None = None


def setup(
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
    """Set up the master; call it from a file that `shared-import` names. Outside uWSGI it only sets the environment.

    segment: the segment's name, or a path if it has a slash; becomes SHM_METRICS_SEGMENT, which the application reads.
        Default: that variable, else "default".
    rows, slots, keep: options of the segment, which the master makes as the first process; see MetricsBackend.
    cache, sync_interval, namespace, sync_options: options of the cluster; see MetricsBackend. They become environment
        variables (SHM_METRICS_CACHE and related), and the workers publish by themselves. The cache must be a URL here.

    Invalid options raise InvalidMetricError. Invalid cluster settings in the environment are logged, and the
    application runs without a cluster.
    """
    global _held
    master.publish_settings(segment, cache, sync_interval, namespace, sync_options)
    if "uwsgi" not in sys.modules:
        return
    _say_who_it_is()
    try:
        _held = Presence(locate_segment(), Layout(rows, slots), keep=keep)
    except (SegmentError, InvalidMetricError, OSError) as error:  # invalid: the name that the variable says
        # The application must not fail: its workers can count without the master.
        log.error("shm_metrics: the uWSGI master cannot be present: %s", error)
    master.install_drop_in(log)


@forks.in_child(forks.STATE)
def _say_who_it_is() -> None:
    uwsgi: Any = sys.modules.get("uwsgi")
    if uwsgi is None:
        return
    if uwsgi.i_am_the_spooler():
        set_process_role("uwsgi spooler")
    elif uwsgi.mule_id():
        set_process_role(f"uwsgi mule {uwsgi.mule_id()}")
    elif uwsgi.worker_id():
        set_process_role(f"uwsgi worker {uwsgi.worker_id()}")
    else:
        set_process_role("uwsgi master")


@forks.in_child(forks.THREADS)
def _start_sync() -> None:
    uwsgi: Any = sys.modules.get("uwsgi")
    if uwsgi is not None and uwsgi.worker_id() and cluster_wanted():
        master.start_sync(get_backend, log)
