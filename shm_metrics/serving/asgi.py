"""The ASGI edge (ASGI 3.0: scopes http and lifespan)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from shm_metrics.serving.endpoint import Endpoint, Source, names_in_query

__all__ = ["make_asgi_app"]

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApplication: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

POLICY_VIOLATION = 1008  # RFC 6455, section 7.4.1


def make_asgi_app(source: Source) -> ASGIApplication:
    """Return an ASGI application that answers every path with the metrics of `source`, rendered in a thread."""
    endpoint = Endpoint(source)

    async def metrics_app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await _answer_http(endpoint, scope, send)
        elif scope["type"] == "lifespan":
            await _answer_lifespan(receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": POLICY_VIOLATION})
        else:
            # Required by ASGI: the exception shows the server that the protocol is not supported.
            raise ValueError(f"the metrics application does not speak ASGI scope {scope['type']!r}, only http")

    return metrics_app


async def _answer_http(endpoint: Endpoint, scope: Scope, send: Send) -> None:
    response = await endpoint.answer_async(
        _header(scope, b"accept"),
        _header(scope, b"accept-encoding"),
        names_in_query(scope.get("query_string", b"").decode("latin-1")),
        scope["method"],
        scope["path"],
    )
    headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in response.headers]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": response.body})


async def _answer_lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            await send({"type": "lifespan.shutdown.complete"})
            return


def _header(scope: Scope, name: bytes) -> str | None:
    """Return the header field's value, repetitions joined as in RFC 9110, section 5.3; None when absent."""
    values = [value for key, value in scope["headers"] if key.lower() == name]
    return b", ".join(values).decode("latin-1") if values else None
