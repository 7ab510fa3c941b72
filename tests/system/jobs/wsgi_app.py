"""The WSGI application under test: prometheus_client's metrics and its page, with the drop-in."""

from __future__ import annotations

import itertools
import os

import prometheus_client

from tests.system.jobs import counted

metrics_app = prometheus_client.make_wsgi_app()
turns = itertools.count()


def app(environ, start_response):
    if environ["PATH_INFO"] == "/metrics":
        return metrics_app(environ, start_response)
    counted.work(next(turns))
    body = str(os.getpid()).encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
