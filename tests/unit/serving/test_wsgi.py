"""The WSGI edge, by hand under the standard's own checker and under wsgiref's server."""

from __future__ import annotations

import gzip
import http.client
import threading
from wsgiref.simple_server import WSGIRequestHandler, make_server
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest

from shm_metrics.serving import make_wsgi_app


class QuietHandler(WSGIRequestHandler):
    def log_message(self, format, *args):
        pass


def call(app, **environ):
    setup_testing_defaults(environ)
    started = []
    parts = app(environ, lambda status, headers, exc_info=None: started.append((status, dict(headers))))
    body = b"".join(parts)
    if hasattr(parts, "close"):
        parts.close()
    return (*started[0], body)


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "POST"])
def test_the_standards_checker_has_no_complaint(source, method):
    environ = {"REQUEST_METHOD": method, "QUERY_STRING": "", "SCRIPT_NAME": "", "PATH_INFO": "/metrics"}
    status, headers, body = call(validator(make_wsgi_app(source)), **environ)
    assert status == ("405 Method Not Allowed" if method == "POST" else "200 OK")
    assert int(headers["Content-Length"]) >= len(body)


def test_headers_and_query_reach_the_endpoint(source):
    status, headers, body = call(
        make_wsgi_app(source),
        HTTP_ACCEPT="application/openmetrics-text",
        HTTP_ACCEPT_ENCODING="gzip",
        QUERY_STRING="name[]=depth",
    )
    text = gzip.decompress(body)
    assert status == "200 OK"
    assert headers["Content-Type"].startswith("application/openmetrics-text")
    assert b"depth 7" in text
    assert b"jobs" not in text


def test_a_server_without_query_and_path_is_served(source):
    environ = {"REQUEST_METHOD": "GET"}
    started = []
    body = b"".join(make_wsgi_app(source)(environ, lambda *args: started.append(args)))
    assert started[0][0] == "200 OK"
    assert b"depth 7" in body


def test_it_is_served_by_a_real_wsgi_server(source, patience):
    with make_server("127.0.0.1", 0, make_wsgi_app(source), handler_class=QuietHandler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        client = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=patience)
        client.request("GET", "/metrics?name[]=jobs_total")
        response = client.getresponse()
        body = response.read()
        client.close()
        server.shutdown()
        thread.join(patience)
    assert response.status == 200
    assert b'jobs_total{queue="a\\"b"} 3' in body
