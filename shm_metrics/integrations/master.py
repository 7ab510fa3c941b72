"""What a server's master does for its workers, and a worker at its start, whichever server it is.

Nothing here stops an application: what cannot be
done is said in the log.
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
from shm_metrics.segment.location import SEGMENT_VARIABLE, place_for

__all__ = ["install_drop_in", "publish_settings", "start_sync"]

log = logging.getLogger("shm_metrics")


class Log(Protocol):
    def error(self, msg: str, *args: Any) -> None: ...


def publish_settings(
    segment: str | os.PathLike[str] | None,
    cache: str | os.PathLike[str] | None,
    sync_interval: float | None,
    namespace: str | None,
    sync_options: Mapping[str, Any] | None,
) -> None:
    """Put what setup() was name into the environment, where the workers find it; None leaves a variable as it is.

    Raises InvalidMetricError for what cannot be meant. A cluster that the environment itself says wrongly is logged,
    here and not by every worker, and the application does without it.
    """
    if segment is not None:
        name = os.fspath(segment)
        if "/" not in name:
            place_for(name)
        os.environ[SEGMENT_VARIABLE] = name
    tell_workers(cache, sync_interval, namespace, sync_options)
    try:
        cluster_options()
    except InvalidMetricError as error:
        log.error("shm_metrics: %s; until that is put right the workers take part in no cluster", error)
        ignore_cluster()


def install_drop_in(log: Log) -> None:
    """Install the drop-in for prometheus_client, if the environment asks for it.

    Once the master is present: the segment is then made with what setup() was name. With a preloaded application the
    metrics exist already, and what they counted goes along.
    """
    if not prometheus.is_wanted():
        return
    try:
        prometheus.install()
    except MetricsError as error:
        log.error("shm_metrics: %s is set, and the drop-in: %s", prometheus.ENABLE_VARIABLE, error)


def start_sync(find: Callable[[], MetricsBackend | None], log: Log) -> None:
    """In a worker: keep the cluster informed of what the backend counts, if there is one and it has a cache."""
    try:
        backend = find()
        if backend is not None:
            backend.start_sync()
    except Exception as error:
        log.error("shm_metrics: this worker cannot take part in the cluster: %s", error)
