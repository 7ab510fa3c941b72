"""shm_metrics: metrics of all processes of a service, in one shared memory segment.

    from shm_metrics import Counter, generate_latest

    REQUESTS = Counter("http_requests", "Requests answered", ["path"])
    REQUESTS.labels("/a").inc()

See docs/design.md for how it works.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shm_metrics.backend import MetricsBackend
    from shm_metrics.cluster.agent import SyncAgent
    from shm_metrics.cluster.config import SyncConfig
    from shm_metrics.cluster.strategy import CacheStrategy
    from shm_metrics.default import configure, get_backend
    from shm_metrics.errors import (
        ExportError,
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
    from shm_metrics.events.instrumenting import instrument
    from shm_metrics.events.router import EventMapping, EventRouter
    from shm_metrics.events.rules import EventRule
    from shm_metrics.metrics.declared import Counter, Enum, Gauge, Histogram, Info, Summary
    from shm_metrics.model.buckets import DEFAULT_BUCKETS
    from shm_metrics.model.families import Sample, SampleFamily
    from shm_metrics.model.snapshot import Snapshot
    from shm_metrics.serving.defaults import generate_latest, make_asgi_app, make_wsgi_app, start_http_server

__version__ = "0.1.0"

__all__ = [
    "DEFAULT_BUCKETS",
    "CacheStrategy",
    "Counter",
    "Enum",
    "EventMapping",
    "EventRouter",
    "EventRule",
    "ExportError",
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
    "SyncAgent",
    "SyncConfig",
    "SyncError",
    "WireFormatError",
    "__version__",
    "configure",
    "generate_latest",
    "get_backend",
    "instrument",
    "make_asgi_app",
    "make_wsgi_app",
    "start_http_server",
]

_MODULES = {
    "backend": ("MetricsBackend",),
    "model.buckets": ("DEFAULT_BUCKETS",),
    "default": ("configure", "get_backend"),
    "serving.defaults": ("generate_latest", "make_asgi_app", "make_wsgi_app", "start_http_server"),
    "errors": (
        "ExportError",
        "InvalidMetricError",
        "LockLostError",
        "MetricConflictError",
        "MetricsError",
        "SegmentError",
        "SegmentFormatError",
        "SegmentFullError",
        "SyncError",
        "WireFormatError",
    ),
    "events.instrumenting": ("instrument",),
    "events.router": ("EventMapping", "EventRouter"),
    "events.rules": ("EventRule",),
    "model.families": ("Sample", "SampleFamily"),
    "metrics.declared": ("Counter", "Enum", "Gauge", "Histogram", "Info", "Summary"),
    "model.snapshot": ("Snapshot",),
    "cluster.agent": ("SyncAgent",),
    "cluster.config": ("SyncConfig",),
    "cluster.strategy": ("CacheStrategy",),
}
_WHERE = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    # Each name is loaded when it is asked for. The pytest plugin lies in this package, and pytest loads it in every
    # project that has us installed: it must not bring numpy along. And a worker that is scraped by its neighbour
    # needs none of the edges.
    module = _WHERE.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{module}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
