"""The WSGI application under test."""

from __future__ import annotations

import os

from shm_metrics import make_wsgi_app
from tests.system.servers.counted import work

metrics_app = make_wsgi_app()


def app(environ, start_response):
    def start(status, headers):
        return start_response(status, [*headers, ("X-Pid", str(os.getpid()))])

    if environ["PATH_INFO"] == "/metrics":
        return metrics_app(environ, start)
    body = work(environ["PATH_INFO"])
    start("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
