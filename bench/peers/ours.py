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
        # The peer's multiprocess mode has no process metrics; the rows that compare scrapes render the same families.
        self.backend = shm_metrics.configure(os.environ["SHM_METRICS_SEGMENT"], process_metrics=False)
        self.whole = shm_metrics.MetricsBackend(os.environ["SHM_METRICS_SEGMENT"], read_only=True)
        self.render = shm_metrics.generate_latest

    def render_with_processes(self) -> bytes:
        """The same and what /proc says of every worker: what a user's scrape costs."""
        return shm_metrics.generate_latest(self.whole)

    def close(self) -> None:
        """Detach, and remove the segment."""
        self.backend.unlink()
        self.backend.close()
