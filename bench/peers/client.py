"""prometheus_client: in one process, or in its multiprocess mode where PROMETHEUS_MULTIPROC_DIR is set."""

from __future__ import annotations

import os

import prometheus_client
from prometheus_client import multiprocess

__all__ = ["Peer"]


class Peer:
    """The modes differ only in who is asked at a scrape."""

    Counter = prometheus_client.Counter
    Gauge = prometheus_client.Gauge
    Histogram = prometheus_client.Histogram

    def render(self) -> bytes:
        """As its documentation says: in multiprocess mode a new registry and collector for each scrape."""
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return prometheus_client.generate_latest()
        registry = prometheus_client.CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)
        return prometheus_client.generate_latest(registry)

    def close(self) -> None:
        """Nothing: whoever made the directory removes it."""
