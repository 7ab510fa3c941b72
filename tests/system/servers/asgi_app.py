"""The ASGI application under test."""

from __future__ import annotations

import asyncio
import os

from shm_metrics import make_asgi_app
from tests.system.servers.counted import DURATION, IN_PROGRESS, ONE, SECONDS, count

metrics_app = make_asgi_app()


async def app(scope, receive, send):
    if scope["type"] != "http":
        assert scope["type"] == "lifespan"
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return

    async def send_with_pid(message):
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], (b"x-pid", str(os.getpid()).encode())]
        await send(message)

    if scope["path"] == "/metrics":
        await metrics_app(scope, receive, send_with_pid)
        return
    with IN_PROGRESS.track_inprogress(), DURATION.time():
        count(scope["path"])
        ONE.inc()
        await asyncio.sleep(SECONDS)
    await send_with_pid({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send_with_pid({"type": "http.response.body", "body": str(os.getpid()).encode()})
