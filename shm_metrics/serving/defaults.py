"""The serving calls with the default backend filled in."""

from __future__ import annotations

from threading import Thread
from typing import TYPE_CHECKING, Any

from shm_metrics import serving
from shm_metrics.exposition import render_openmetrics, render_text
from shm_metrics.metrics.default_backend import get_backend

if TYPE_CHECKING:
    from shm_metrics.serving import MetricsServer, Source

__all__ = ["generate_latest", "make_asgi_app", "make_wsgi_app", "start_http_server"]


class _DefaultSource:
    """The default backend at the time of the scrape."""

    def collect(self) -> Any:
        return get_backend().collect()


def generate_latest(backend: Source | None = None, openmetrics: bool = False) -> bytes:
    """Return the exposition of `backend` (the default one if left out): Prometheus text 0.0.4, or OpenMetrics 1.0."""
    families = (backend or get_backend()).collect()
    return render_openmetrics(families) if openmetrics else render_text(families)


def make_wsgi_app(backend: Source | None = None) -> Any:
    """Return a WSGI application that answers scrapes of `backend` (the default one if left out)."""
    return serving.make_wsgi_app(backend or _DefaultSource())


def make_asgi_app(backend: Source | None = None) -> Any:
    """Return an ASGI application that answers scrapes of `backend`, rendered off the event loop."""
    return serving.make_asgi_app(backend or _DefaultSource())


def start_http_server(
    port: int, addr: str = "127.0.0.1", backend: Source | None = None, **tls: Any
) -> tuple[MetricsServer, Thread]:
    """Answer scrapes of `backend` on a port of its own, in a daemon thread; return (server, thread).

    port: 0 takes a free one; see `server.server_port`. addr: to listen on; only this machine by default.
    tls: certfile, keyfile, client_cafile, client_capath, client_auth_required, as prometheus_client has them.
    """
    return serving.start_http_server(port, addr, source=backend or _DefaultSource(), **tls)
