"""The application that APPLICATION names, and on each of its answers the pid of the worker that gave it.

Around the application, so that the application stays what its package's README shows.
"""

from __future__ import annotations

import importlib
import os

module, _, attribute = os.environ["APPLICATION"].partition(":")
application = getattr(importlib.import_module(module), attribute)


def wsgi(environ, start_response):
    def start(status, headers, exc_info=None):
        return start_response(status, [*headers, ("X-Pid", str(os.getpid()))], exc_info)

    return application(environ, start)


async def asgi(scope, receive, send):
    async def send_signed(message):
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], (b"x-pid", str(os.getpid()).encode())]}
        await send(message)

    await application(scope, receive, send_signed)
