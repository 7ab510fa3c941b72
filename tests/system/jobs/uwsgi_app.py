"""The WSGI application that uWSGI runs: prometheus_client's metrics and its page, with the drop-in."""

from __future__ import annotations

import itertools
import os
import signal
import time

import prometheus_client
import uwsgi

from tests.system.jobs import counted

metrics_app = prometheus_client.make_wsgi_app()
turns = itertools.count()
told: list[int] = []


def of_the_application() -> None:
    """A hook that uWSGI calls after it has forked a worker: assigned after ours, which must be called all the same."""
    told.append(os.getpid())


uwsgi.post_fork_hook = of_the_application


def app(environ, start_response):
    def start(status, headers):
        return start_response(status, [*headers, ("X-Pid", str(os.getpid()))])

    page = environ["PATH_INFO"]
    if page == "/metrics":
        return metrics_app(environ, start)
    body = b""
    if page == "/work":
        counted.work(next(turns))
        time.sleep(0.001)
    elif page == "/die":
        counted.work(next(turns))
        os.kill(os.getpid(), signal.SIGKILL)
    elif page == "/told":
        body = repr(told).encode()
    start("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
