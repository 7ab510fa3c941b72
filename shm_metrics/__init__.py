"""shm_metrics: metrics of all processes of a service, in one shared memory segment.

    from shm_metrics import Counter, generate_latest

    REQUESTS = Counter("http_requests", "Requests answered", ["path"])
    REQUESTS.labels("/a").inc()

See docs/design.md for how it works.
"""

from __future__ import annotations

from typing import Any

from shm_metrics.backend import MetricsBackend
from shm_metrics.buckets import DEFAULT_BUCKETS
from shm_metrics.default import configure, get_backend
from shm_metrics.errors import (
    InvalidMetricError,
    LockLostError,
    MetricConflictError,
    MetricsError,
    SegmentError,
    SegmentFormatError,
    SegmentFullError,
    SyncError,
    WireFormatError,
)
from shm_metrics.families import Sample, SampleFamily
from shm_metrics.metrics import Counter, Enum, Gauge, Histogram, Info, Summary
from shm_metrics.snapshot import Snapshot

__version__ = "0.1.0"

__all__ = [
    "DEFAULT_BUCKETS",
    "Counter",
    "Enum",
    "Gauge",
    "Histogram",
    "Info",
    "InvalidMetricError",
    "LockLostError",
    "MetricConflictError",
    "MetricsBackend",
    "MetricsError",
    "Sample",
    "SampleFamily",
    "SegmentError",
    "SegmentFormatError",
    "SegmentFullError",
    "Snapshot",
    "Summary",
    "SyncError",
    "WireFormatError",
    "__version__",
    "configure",
    "generate_latest",
    "get_backend",
    "make_asgi_app",
    "make_wsgi_app",
    "start_http_server",
]

_EDGES = ("generate_latest", "make_asgi_app", "make_wsgi_app", "start_http_server")


def __getattr__(name: str) -> Any:
    # The edges are loaded when they are asked for: a worker that is scraped by its neighbour needs none of them.
    if name in _EDGES:
        from shm_metrics import edges

        return getattr(edges, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
