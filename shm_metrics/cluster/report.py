"""The report that sync_to_cache() returns."""

from __future__ import annotations

from typing import Any

from shm_metrics.cluster.member import Published
from shm_metrics.model.families import COUNTER, GAUGE, HISTOGRAM

__all__ = ["no_round", "round_report"]


def round_report(
    published: Published | None,
    *,
    error: Exception | None,
    strategy: str,
    instance_id: str,
    duration: float,
    timestamp: float,
    round_trips: int,
    retries: int,
    failed: int,
) -> dict[str, Any]:
    """Return success, strategy, synced_metrics, duration, performance, timestamp, instance_id, and error if it failed.

    duration: seconds. performance: series by type, bytes of the blob, round trips to the cache; retries and failed
    rounds since the agent started. Success requires a confirmed response of the cache.
    """
    series = {} if published is None else published.series
    report: dict[str, Any] = {
        "success": published is not None and error is None,
        "strategy": strategy,
        "synced_metrics": sum(series.values()),
        "duration": duration,
        "performance": {
            "counters": series.get(COUNTER, 0),
            "gauges": series.get(GAUGE, 0),
            "histograms": series.get(HISTOGRAM, 0),
            "bytes": 0 if published is None else published.bytes,
            "round_trips": round_trips,
            "retries": retries,
            "failed": failed,
        },
        "timestamp": timestamp,
        "instance_id": instance_id,
    }
    if error is not None:
        report["error"] = f"{type(error).__name__}: {error}"
    return report


def no_round(error: Exception, *, strategy: str, instance_id: str, timestamp: float) -> dict[str, Any]:
    """Return the report of a round that could not start: nothing was sent."""
    return round_report(
        None,
        error=error,
        strategy=strategy,
        instance_id=instance_id,
        duration=0.0,
        timestamp=timestamp,
        round_trips=0,
        retries=0,
        failed=1,
    )
