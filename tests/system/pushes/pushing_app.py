"""The WSGI application of the gunicorn that pushes: it counts each request, and says of its worker's schedule."""

from __future__ import annotations

import json
import os

from shm_metrics import get_backend
from shm_metrics.exporters import PushSchedule, exporter
from tests.system.servers.counted import work

schedule = None
if "PUSH_PORT" in os.environ:  # as an application has it that makes its schedule by itself
    receiver = exporter("statsd", host="127.0.0.1", port=int(os.environ["PUSH_PORT"]))
    schedule = PushSchedule(get_backend(), receiver, interval=0.05).start()


def app(environ, start_response):
    if environ["PATH_INFO"] == "/pushing":
        body = json.dumps([os.getpid(), schedule.leads(), schedule.pushed, schedule.last_error]).encode()
    else:
        body = work(environ["PATH_INFO"])
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
