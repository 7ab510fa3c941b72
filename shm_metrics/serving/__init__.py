"""Serve scrapes over WSGI, ASGI, or a built-in HTTP server; one `Endpoint` answers all three.

The folder's `__init__` holds the public names and no code. The server is imported at first use: it loads ssl and
http.server, which a program with a web server of its own does not need.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shm_metrics.serving.asgi import make_asgi_app
from shm_metrics.serving.endpoint import Endpoint, Response, Source
from shm_metrics.serving.wsgi import make_wsgi_app

if TYPE_CHECKING:
    from shm_metrics.serving.httpd import MetricsServer, start_http_server

__all__ = [
    "Endpoint",
    "MetricsServer",
    "Response",
    "Source",
    "make_asgi_app",
    "make_wsgi_app",
    "start_http_server",
]


def __getattr__(name: str) -> Any:
    if name in ("MetricsServer", "start_http_server"):
        from shm_metrics.serving import httpd

        return getattr(httpd, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
