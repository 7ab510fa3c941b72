"""The dictionary that export_distributed_metrics() returns."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from shm_metrics.cluster.merge.fold import COUNTED, RETURNED
from shm_metrics.cluster.merge.merge import ClusterView, Conflict, InstanceInfo
from shm_metrics.cluster.stores.protocol import LOCAL_ONLY
from shm_metrics.errors import SegmentError, SyncError
from shm_metrics.exporters.dictionaries import metrics_of

if TYPE_CHECKING:
    from shm_metrics.backend import MetricsBackend

__all__ = ["export_distributed"]

log = logging.getLogger("shm_metrics")


def export_distributed(backend: MetricsBackend, *, include_instances: bool) -> dict[str, Any]:
    """Return export() of the cluster, with distributed, strategy, instances, stale_instances, conflicts and damaged.

    instances: instance -> host, pid, times of creation and publication, series, state (fold.py), stale; with
    include_instances also its own `metrics`. Without a usable cache that answers, return the local export with
    distributed False and a `warning` that says why.
    """
    try:
        agent = backend.sync_agent
    except SegmentError:  # closed: there is no local export either
        raise
    except Exception as error:
        strategy = backend.sync_strategy
        return _local(backend, strategy, f"the cache cannot be used: these are this segment's metrics: {error}")
    strategy = agent.store.strategy
    if strategy == LOCAL_ONLY:
        warning = "no cache that other hosts see is configured: these are this segment's metrics"
        return _local(backend, strategy, warning)
    try:
        view, blobs = agent.read()
    except SyncError as error:
        return _local(backend, strategy, f"the cache did not answer: these are this segment's metrics: {error}")
    metrics = metrics_of(view.families)
    own = blobs if include_instances else {}
    return {
        "timestamp": agent.wall(),
        "backend_created_at": backend.created_at,
        "total_metrics": len(metrics),
        "metrics": metrics,
        "distributed": True,
        "strategy": strategy,
        "instances": {
            found.instance: {
                **_instance(found),
                **({"metrics": metrics_of(own[found.instance].families())} if found.instance in own else {}),
            }
            for found in view.instances
        },
        "stale_instances": _stale(view),
        "conflicts": [_conflict(found) for found in view.conflicts],
        "damaged": dict(agent.member.damaged),
    }


def _local(backend: MetricsBackend, strategy: str, warning: str) -> dict[str, Any]:
    log.debug("shm_metrics: export_distributed_metrics: %s", warning)
    return {
        **backend.export(),
        "distributed": False,
        "strategy": strategy,
        "instances": {},
        "stale_instances": [],
        "conflicts": [],
        "damaged": {},
        "warning": warning,
    }


def _instance(found: InstanceInfo) -> dict[str, Any]:
    return {
        "host": found.host,
        "pid": found.pid,
        "created_at": found.created_at,
        "published_at": found.published_at,
        "series": found.series,
        "state": found.state,
        "stale": found.stale,
    }


def _stale(view: ClusterView) -> list[str]:
    return [found.instance for found in view.instances if found.stale and found.state in (COUNTED, RETURNED)]


def _conflict(found: Conflict) -> dict[str, Any]:
    return {
        "name": found.name,
        "shown": found.shown.type,
        "hidden": found.hidden.type,
        "instances": found.instances,
        "series": found.series,
    }
