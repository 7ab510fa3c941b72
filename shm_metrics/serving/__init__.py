"""How a scrape reaches the metrics: WSGI, ASGI, or a server of our own; one `Endpoint` answers all three.

Lives here: the public names. May not: code. The server is imported when it is asked for: it brings ssl and
http.server with it, which a program that has a web server of its own need not load.
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
