"""prometheus_client with shm_metrics' drop-in, on the segment that SHM_METRICS_SEGMENT names."""

from __future__ import annotations

import os

import prometheus_client

import shm_metrics
import shm_metrics.prometheus

__all__ = ["Peer"]


class Peer:
    """An application of prometheus_client that calls install() and changes nothing else."""

    Counter = prometheus_client.Counter
    Gauge = prometheus_client.Gauge
    Histogram = prometheus_client.Histogram

    def __init__(self) -> None:
        # As for our own API: multiprocess mode has no process metrics, and the rows render the same families.
        self.backend = shm_metrics.configure(os.environ["SHM_METRICS_SEGMENT"], process_metrics=False)
        shm_metrics.prometheus.install()

    def render(self) -> bytes:
        """The application's page; it needs no collector for several processes."""
        return prometheus_client.generate_latest()

    def close(self) -> None:
        """Restore prometheus_client, and remove the segment."""
        shm_metrics.prometheus.uninstall()
        self.backend.unlink()
        self.backend.close()
