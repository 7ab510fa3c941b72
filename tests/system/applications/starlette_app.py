"""Starlette with starlette_exporter."""

import asyncio
import os
import signal

from prometheus_client import Counter
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette_exporter import PrometheusMiddleware, handle_metrics

ORDERS = Counter("orders", "Orders by kind", ["kind"])


async def main(request):
    return PlainTextResponse("in the event loop\n")


def threads(request):
    return PlainTextResponse("in a thread\n")


async def orders(request):
    ORDERS.labels(request.path_params["kind"]).inc()
    return PlainTextResponse("orders\n")


async def slow(request):
    await asyncio.sleep(0.01)
    return PlainTextResponse("later\n")


async def gone(request):
    raise HTTPException(410)


async def error(request):
    raise RuntimeError("an error that nobody handles")


async def crash(request):
    os.kill(os.getpid(), signal.SIGKILL)


app = Starlette(
    routes=[
        Route("/", main),
        Route("/threads", threads),
        Route("/orders/{kind}", orders),
        Route("/slow", slow),
        Route("/gone", gone),
        Route("/error", error),
        Route("/crash", crash),
    ]
)
app.add_middleware(PrometheusMiddleware)
app.add_route("/metrics", handle_metrics)
