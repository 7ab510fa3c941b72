"""The web application: a shop that counts what it does.

Everything is counted before the first byte of an answer leaves, so whoever has read one knows that it is counted.

    /  /search      pages
    /restock        sets the stock to ?articles=
    /order          takes one article from the stock
    /hold           begins to answer, says its pid, and goes on when the file in ?until= is there
    /metrics        what Prometheus scrapes
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from shm_metrics import Counter, Gauge, Histogram, make_wsgi_app

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

__all__ = ["app"]

REQUESTS = Counter("shop_requests", "Requests that reached the application.", ["page"])
SECONDS = Histogram(
    "shop_request_seconds",
    "Time to answer, in seconds.",
    ["page"],
    buckets=[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1],
)
IN_PROGRESS = Gauge(
    "shop_requests_in_progress", "Requests being answered, by workers that live.", multiprocess_mode="livesum"
)
STOCK = Gauge("shop_stock", "Articles left: one number, which any worker may change.")

MEAN_SECONDS = {"/": 0.0005, "/search": 0.003, "/order": 0.001}
HOLD_SECONDS = 30.0  # at most; the worker that is held is killed long before

metrics_app = make_wsgi_app()


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """The WSGI application."""
    page = environ["PATH_INFO"]
    if page == "/metrics":
        scraped: Iterable[bytes] = metrics_app(environ, start_response)
        return scraped
    if page == "/hold":
        return _hold(_query(environ, "until"), start_response)
    if page == "/restock":
        REQUESTS.labels(page).inc()
        STOCK.set(int(_query(environ, "articles")))
        return _answer(start_response, "200 OK", "restocked")
    if page not in MEAN_SECONDS:
        return _answer(start_response, "404 Not Found", "no such page")
    REQUESTS.labels(page).inc()
    with IN_PROGRESS.track_inprogress(), SECONDS.labels(page).time():
        time.sleep(random.expovariate(1 / MEAN_SECONDS[page]))
        if page == "/order":
            STOCK.dec()
    return _answer(start_response, "200 OK", f"{page} by {os.getpid()}")


def _hold(until: str, start_response: StartResponse) -> Iterator[bytes]:
    REQUESTS.labels("/hold").inc()
    with IN_PROGRESS.track_inprogress():
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield f"{os.getpid()}\n".encode()
        deadline = time.monotonic() + HOLD_SECONDS
        while not os.path.exists(until) and time.monotonic() < deadline:
            time.sleep(0.01)
        yield b"done\n"


def _query(environ: WSGIEnvironment, name: str) -> str:
    return parse_qs(str(environ["QUERY_STRING"]))[name][0]


def _answer(start_response: StartResponse, status: str, text: str) -> list[bytes]:
    body = f"{text}\n".encode()
    start_response(status, [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))])
    return [body]
