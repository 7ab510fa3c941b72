"""shm_metrics, on the segment that SHM_METRICS_SEGMENT names."""

from __future__ import annotations

import os

import shm_metrics

__all__ = ["Peer"]


class Peer:
    """One process attached to the segment."""

    Counter = shm_metrics.Counter
    Gauge = shm_metrics.Gauge
    Histogram = shm_metrics.Histogram

    def __init__(self) -> None:
        shm_metrics.configure(os.environ["SHM_METRICS_SEGMENT"])
        self.backend = shm_metrics.get_backend()
        self.render = shm_metrics.generate_latest

    def close(self) -> None:
        """Detach, and remove the segment."""
        self.backend.unlink()
        self.backend.close()
