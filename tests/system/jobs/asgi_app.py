"""The ASGI application under test: prometheus_client's metrics and its page, with the drop-in."""

from __future__ import annotations

import itertools
import os

import prometheus_client

from tests.system.jobs import counted

metrics_app = prometheus_client.make_asgi_app()
turns = itertools.count()


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
    elif scope["path"] == "/metrics":
        await metrics_app(scope, receive, send)
    else:
        counted.work(next(turns))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": str(os.getpid()).encode()})
