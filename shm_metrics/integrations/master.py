"""What the master of any server does for its workers, and a worker at its start.

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

__all__ = ["install_drop_in", "publish_settings", "start_sync"]

log = logging.getLogger("shm_metrics")


class Log(Protocol):
    """A logger, as servers have them."""

    def error(self, msg: str, *args: Any) -> None:
        """Log at level ERROR."""
        ...


def publish_settings(
    segment: str | os.PathLike[str] | None,
    cache: str | os.PathLike[str] | None,
    sync_interval: float | None,
    namespace: str | None,
    sync_options: Mapping[str, Any] | None,
) -> None:
    """Put the options of setup() into the environment, where the workers find them; None leaves a variable unchanged.

    Invalid options raise InvalidMetricError. Invalid cluster settings in the environment are logged here, once, and the
    application runs without a cluster.
    """
    if segment is not None:
        name = os.fspath(segment)
        if "/" not in name:
            locate_segment(name)
        os.environ[SEGMENT_VARIABLE] = name
    tell_workers(cache, sync_interval, namespace, sync_options)
    try:
        cluster_options()
    except InvalidMetricError as error:
        log.error("shm_metrics: %s; until this is corrected the workers take part in no cluster", error)
        ignore_cluster()


def install_drop_in(log: Log) -> None:
    """Install the drop-in for prometheus_client, if SHM_METRICS_PROMETHEUS is set.

    Call it once the master is present, so that the segment is made with the options of setup(). With a preloaded
    application the metrics exist already, and their counts are carried over.
    """
    if not prometheus.is_wanted():
        return
    try:
        prometheus.install()
    except MetricsError as error:
        log.error("shm_metrics: %s is set, and the drop-in: %s", prometheus.ENABLE_VARIABLE, error)


def start_sync(find: Callable[[], MetricsBackend | None], log: Log) -> None:
    """In a worker, publish the counts of the backend to the cluster, if there is one and it has a cache."""
    try:
        backend = find()
        if backend is not None:
            backend.start_sync()
    except Exception as error:
        log.error("shm_metrics: this worker cannot take part in the cluster: %s", error)
