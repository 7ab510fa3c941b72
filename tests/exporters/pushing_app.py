"""The WSGI application of the gunicorn that pushes: it counts each request, and says of its worker's schedule."""

from __future__ import annotations

import json
import os

from tests.integrations.counted import work

schedule = None


def app(environ, start_response):
    if environ["PATH_INFO"] == "/pushing":
        body = json.dumps([os.getpid(), schedule.leads(), schedule.pushed, schedule.last_error]).encode()
    else:
        body = work(environ["PATH_INFO"])
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
