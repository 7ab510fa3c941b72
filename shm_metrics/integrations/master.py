"""The steps that are common to servers: of the master for its workers, and of a worker at its start.

Nothing here stops an application: failures are logged.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from shm_metrics import prometheus
from shm_metrics.backend import MetricsBackend
from shm_metrics.environment import cluster_options, ignore_cluster, tell_workers
from shm_metrics.errors import InvalidMetricError, MetricsError
from shm_metrics.segment.location import SEGMENT_VARIABLE, locate_segment

__all__ = ["install_drop_in", "start_sync", "tell"]

log = logging.getLogger("shm_metrics")


class Log(Protocol):
    """A logger, as servers have them."""

    def error(self, msg: str, *args: Any) -> None:
        """Log at level ERROR."""
        ...


def tell(
    segment: str | os.PathLike[str] | None,
    cache: str | os.PathLike[str] | None,
    sync_interval: float | None,
    namespace: str | None,
    sync_options: Mapping[str, Any] | None,
) -> None:
    """Put the arguments of setup() into the environment, where the workers find them; None leaves a variable as it is.

    Raises InvalidMetricError for invalid arguments. Invalid cluster variables that the environment itself has are
    logged, here and not by every worker, and the application continues without a cluster.
    """
    if segment is not None:
        told = os.fspath(segment)
        if "/" not in told:
            locate_segment(told)
        os.environ[SEGMENT_VARIABLE] = told
    tell_workers(cache, sync_interval, namespace, sync_options)
    try:
        cluster_options()
    except InvalidMetricError as error:
        log.error("shm_metrics: %s; until that is put right the workers take part in no cluster", error)
        ignore_cluster()


def install_drop_in(log: Log) -> None:
    """Install the drop-in for prometheus_client, if SHM_METRICS_PROMETHEUS is set.

    Call this once the master is present: the segment then has the options of setup(). With a preloaded application the
    metrics exist already, and their counts move along.
    """
    if not prometheus.is_wanted():
        return
    try:
        prometheus.install()
    except MetricsError as error:
        log.error("shm_metrics: %s is set, and the drop-in: %s", prometheus.ENABLE_VARIABLE, error)


def start_sync(find: Callable[[], MetricsBackend | None], log: Log) -> None:
    """Start publishing to the cluster, in a worker, if `find()` returns a backend and it has a cache. Never raises."""
    try:
        backend = find()
        if backend is not None:
            backend.start_sync()
    except Exception as error:
        log.error("shm_metrics: this worker cannot take part in the cluster: %s", error)
